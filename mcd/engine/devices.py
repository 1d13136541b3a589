"""The GPUs that this build of llama.cpp can use. Run as a program, because the daemon never imports llama_cpp.

python -m mcd.engine.devices      one JSON object: {"gpus": [...], "backends": [...]} or {"problem": NAME}
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import msgspec

from mcd.engine import abi
from mcd.engine.backend import StartError
from mcd.engine.fit import Device, Found
from mcd.engine.messages import FailureCode

_KINDS = {1: "gpu", 2: "igpu"}
"""ggml_backend_dev_type: 0 is the processor, 3 an accelerator beside it, 4 several devices as one."""
_MAX_DEVICES = 64


def find(lib: Any) -> Found:
    """Ask ggml for its devices; discrete GPUs before integrated ones, as llama.cpp chooses them."""
    ggml = _bind(lib)
    gpus: list[Device] = []
    for index in range(min(_MAX_DEVICES, ggml.ggml_backend_dev_count())):
        handle = ggml.ggml_backend_dev_get(index)
        kind = _KINDS.get(ggml.ggml_backend_dev_type(handle))
        if kind is None:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        gpus.append(
            Device(
                name=ggml.ggml_backend_dev_name(handle).decode("utf-8", "replace"),
                description=ggml.ggml_backend_dev_description(handle).decode("utf-8", "replace"),
                kind="gpu" if kind == "gpu" else "igpu",
                free_bytes=free.value,
                total_bytes=total.value,
            )
        )
    names = [
        ggml.ggml_backend_reg_name(ggml.ggml_backend_reg_get(index)).decode("utf-8", "replace")
        for index in range(ggml.ggml_backend_reg_count())
    ]
    discrete = [gpu for gpu in gpus if gpu.kind == "gpu"]
    return Found(gpus=tuple(discrete or gpus[:1]), backends=tuple(names))


def _bind(lib: Any) -> Any:
    """The registry's functions. llama_cpp binds none of them, but its library is linked to ggml's."""
    ggml = lib._lib  # noqa: SLF001 - the bindings keep the loaded library under this name only
    handle, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    for name, result, arguments in (
        ("ggml_backend_dev_count", size, []),
        ("ggml_backend_dev_get", handle, [size]),
        ("ggml_backend_dev_type", ctypes.c_int, [handle]),
        ("ggml_backend_dev_name", text, [handle]),
        ("ggml_backend_dev_description", text, [handle]),
        ("ggml_backend_dev_memory", None, [handle, ctypes.POINTER(size), ctypes.POINTER(size)]),
        ("ggml_backend_reg_count", size, []),
        ("ggml_backend_reg_get", handle, [size]),
        ("ggml_backend_reg_name", text, [handle]),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    return ggml


def main() -> None:
    """Print what was found."""
    try:
        found = find(abi.load_library())
    except StartError as error:
        found = Found(problem=FailureCode(error.failure).name)
    os.write(1, msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
