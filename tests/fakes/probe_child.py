"""Loads GGUF files one after another as an inference process does at its start; one line a file. A crash ends it.

python -m tests.fakes.probe_child < PATHS
"""

from __future__ import annotations

import os
import sys

from mcd.engine import abi, load, measure
from mcd.engine.backend import StartError
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Context, Model

OPTIONS = EngineOptions(n_threads=1, n_slots=1, n_ctx=64, n_cells=64)
MAX_BYTES = 1024 * 1024 * 1024


def probe(path: str) -> str:
    """Load, measure, free: the name of what came of it."""
    try:
        model = Model(abi.load_library(), path)
        try:
            context = Context(model, OPTIONS, 1, 0)
            try:
                measure.Trials(model, context).speeds()
                model.template()
            finally:
                context.close()
        finally:
            model.close()
    except StartError as error:
        return FailureCode(error.failure).name
    except MemoryError:
        return FailureCode.OUT_OF_MEMORY.name
    return "READY"


if __name__ == "__main__":
    measure.SPEED_S = 0.0
    load.limit_memory(MAX_BYTES)
    for line in sys.stdin:
        os.write(1, f"{probe(line.strip())}\n".encode())
