"""What the worker says of a bug of ours: a code and a place, never the error, because exceptions quote their input."""

from __future__ import annotations

import os
from types import TracebackType


def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Write one line to stderr, of the form that `supervise` passes on; fits `sys.excepthook`."""
    del error
    code = "E_OUT_OF_MEMORY" if issubclass(kind, MemoryError) else "E_INTERNAL"
    place = "unknown:0"
    while traceback is not None:
        file = os.path.basename(traceback.tb_frame.f_code.co_filename)
        if "/mcd/" in traceback.tb_frame.f_code.co_filename:
            place = f"{file.removesuffix('.py')}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    os.write(2, f"code={code} at={place}\n".encode())
