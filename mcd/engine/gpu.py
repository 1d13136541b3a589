"""Which GPUs can be used here, or why none. Asked in a short child process: the daemon never imports llama_cpp."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from mcd.engine.fit import Device, Found
from mcd.errors import ConfigError

CHECK_TIMEOUT_S = 60.0
"""Importing a CUDA build on a cold machine takes seconds; this never blocks for ever."""
REMEDY = (
    "build it for your GPU with CMAKE_ARGS=-DGGML_CUDA=on make setup-serve (NVIDIA; -DGGML_HIP=on for AMD, "
    "-DGGML_VULKAN=on for others), or use --cpu"
)

_PROBLEMS = {
    "LIBRARY_MISSING": f"llama-cpp-python is not installed or cannot be loaded; {REMEDY}",
    "LIBRARY_MISMATCH": "the installed llama.cpp is not the one of llama-cpp-python 0.3.36; run: make setup-serve",
}


def gpus() -> tuple[Device, ...]:
    """The GPUs with their free memory now, at least one. Blocks for a second or two: run it in a thread.

    Raises:
        ConfigError: There is none to use; says why and what to do.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mcd.engine.devices"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise ConfigError(f"llama-cpp-python could not be asked for its GPUs; {REMEDY}") from None
    return judge(done.stdout)


def judge(printed: bytes) -> tuple[Device, ...]:
    """Read what the child printed.

    Raises:
        ConfigError: As `gpus`.
    """
    try:
        found = msgspec.json.decode(printed, type=Found)
    except msgspec.MsgspecError:
        raise ConfigError(f"llama-cpp-python crashed when asked for its GPUs; {REMEDY}") from None
    if found.problem:
        raise ConfigError(_PROBLEMS.get(found.problem, f"llama-cpp-python cannot be used ({found.problem}); {REMEDY}"))
    if found.gpus:
        return found.gpus
    others = [name for name in found.backends if name != "CPU"]
    if not others:
        raise ConfigError(f"this llama-cpp-python was built without GPU support; {REMEDY}")
    raise ConfigError(
        f"llama.cpp was built for {', '.join(others)} but finds no device: look whether the driver works (nvidia-smi, "
        "rocminfo or vulkaninfo) and whether this user may open /dev/nvidia*, /dev/kfd and /dev/dri, or use --cpu"
    )
