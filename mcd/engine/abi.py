"""llama_cpp, imported once, quiet, and proven to be the library whose structs these bindings describe.

Another build of llama.cpp differs by an 8-byte field in llama_context_params; with it every later field would be
written to the wrong place, silently. The defaults it fills in are the witness: they must read as known.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from typing import Any

from mcd.engine.backend import StartError
from mcd.engine.messages import FailureCode

EXPECTED_CONTEXT: dict[str, int] = {
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "offload_kqv": True,
    "op_offload": True,
    "swa_full": True,
    "embeddings": False,
    "kv_unified": False,
}
EXPECTED_MODEL: dict[str, int] = {"vocab_only": False, "check_tensors": False, "use_extra_bufts": True}

_kept: list[object] = []
"""The log callback: C keeps a bare pointer to it, so it must never be freed."""
_FULL = (b"out of memory", b"failed to allocate", b"unable to allocate", b"bad_alloc")
"""How ggml's backends say that memory ran out; llama_model_load_from_file only returns null."""
_full: list[bool] = []
"""Not empty once one of them was said."""


def load_library() -> Any:
    """Import llama_cpp, silence it, check it; returns its low-level module.

    Raises:
        StartError: LIBRARY_MISSING or LIBRARY_MISMATCH.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        from llama_cpp import llama_cpp as lib
    except (ImportError, OSError, RuntimeError):
        raise StartError(FailureCode.LIBRARY_MISSING) from None
    if not _kept:
        _kept.append(lib.llama_log_callback(_ignore))
        lib.llama_log_set(_kept[0], ctypes.c_void_p(0))
        lib.llama_backend_init()
    _check(lib.llama_context_default_params(), EXPECTED_CONTEXT)
    _check(lib.llama_model_default_params(), EXPECTED_MODEL)
    return lib


def library_path() -> str:
    """Where the package keeps its library, for who needs that without the package.

    Raises:
        OSError: There is none.
    """
    found = importlib.util.find_spec("llama_cpp")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        for ending in ("so", "dylib"):
            path = os.path.join(folder, "lib", f"libllama.{ending}")
            if os.path.exists(path):
                return path
    raise FileNotFoundError("llama_cpp has no library")


def silence(log_set: Any) -> None:
    """Let another of llama.cpp's libraries log to nobody, too."""
    log_set(_kept[0], ctypes.c_void_p(0))


def _check(params: Any, expected: dict[str, int]) -> None:
    if any(getattr(params, name) != value for name, value in expected.items()):
        raise StartError(FailureCode.LIBRARY_MISMATCH)


def forget_failed_allocations() -> None:
    """Ask `has_failed_to_allocate` about what happens from now on."""
    _full.clear()


def has_failed_to_allocate() -> bool:
    """Whether a backend has run out of memory."""
    return bool(_full)


def _ignore(level: int, text: bytes | None, user_data: object) -> None:
    """Drop it: llama.cpp's log quotes metadata and, on errors, prompts. Only that memory ran out is remembered."""
    if text and not _full and any(words in text for words in _FULL):
        _full.append(True)
