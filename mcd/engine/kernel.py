"""Raw Linux system calls through ctypes, for what Python's library does not offer."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


def arch() -> str | None:
    """``x86_64`` or ``aarch64`` on Linux, else None: no control of the sandbox exists there."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return None
    return _ARCHES.get(platform.machine().lower())


def call(function: str, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call a function of libc that follows the errno convention.

    Raises:
        OSError: It returned -1, or this libc does not have it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        entry = getattr(libc, function)
    except AttributeError:
        raise OSError(f"libc has no {function}") from None
    entry.restype = ctypes.c_long if function == "syscall" else ctypes.c_int
    result = int(entry(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process.

    Raises:
        OSError: The kernel refuses.
    """
    call("prctl", option, value, 0, 0, 0)
