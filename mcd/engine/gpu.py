"""Can this build use a GPU? Asked in a short child process, because the daemon never imports llama_cpp."""

from __future__ import annotations

import subprocess
import sys

CHECK_TIMEOUT_S = 60.0
"""Importing a CUDA build on a cold machine takes seconds; this never blocks for ever."""
REMEDY = (
    "build it for your GPU with CMAKE_ARGS=-DGGML_CUDA=on make setup-serve (NVIDIA; -DGGML_HIP=on for AMD, "
    "-DGGML_VULKAN=on for others), or use --cpu"
)

_PROBLEMS = {
    "cpu": f"this llama-cpp-python was built without GPU support; {REMEDY}",
    "LIBRARY_MISSING": f"llama-cpp-python is not installed or cannot be loaded; {REMEDY}",
    "LIBRARY_MISMATCH": "the installed llama.cpp is not the one of llama-cpp-python 0.3.36; run: make setup-serve",
}


def gpu_problem() -> str | None:
    """Why ``--gpu`` cannot be used here, with the remedy; None when it can. Blocks: run it in a thread."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mcd.engine.abi"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"llama-cpp-python could not be asked for GPU support; {REMEDY}"
    word = done.stdout.decode("ascii", "replace").strip()
    if word == "gpu":
        return None
    return _PROBLEMS.get(word, f"llama-cpp-python crashed when asked for GPU support; {REMEDY}")
