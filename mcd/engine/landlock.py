"""An allow-list of files, and of TCP ports, for this process and its children (Landlock)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from mcd.engine.kernel import call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_VERSION_FLAG = 1
_RULE_PATH, _RULE_PORT = 1, 2

_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_ALL_FS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""File rights a kernel knows, by ABI; later ones as 5."""
_BIND_TCP, _CONNECT_TCP = 1, 2
_ABI_TCP, _ABI_IOCTL, _ABI_SCOPE = 4, 5, 6
_SCOPE_ALL = 3
"""No abstract unix socket and no signal to a process outside."""

READ = _READ_FILE | _READ_DIR
USE_DEVICE = READ | _WRITE_FILE | _IOCTL_DEV | _TRUNCATE


def abi() -> int:
    """What this kernel offers; 0 is nothing."""
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]], tcp_ports: Iterable[int]) -> int:
    """Allow these paths (with what lies below) and TCP connections to these ports; refuse all else.

    Applies to this thread and all it will start, so there must be no other thread yet. Paths that do not exist are
    skipped. Needs NO_NEW_PRIVS.

    Returns:
        The kernel's ABI; TCP is restricted from 4 on, device ioctls from 5, signals from 6.

    Raises:
        OSError: The kernel refuses.
    """
    version = abi()
    handled_fs = _ALL_FS[max(1, min(version, max(_ALL_FS)))]
    handled_net = _BIND_TCP | _CONNECT_TCP if version >= _ABI_TCP else 0
    scoped = _SCOPE_ALL if version >= _ABI_SCOPE else 0
    size = 24 if scoped else 16 if handled_net else 8
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", handled_fs, handled_net, scoped)[:size], size)
    ruleset = call("syscall", _CREATE_RULESET, attributes, size, 0)
    try:
        for path, rights in rules:
            _allow_path(ruleset, path, rights & handled_fs)
        for port in tcp_ports if handled_net else ():
            rule = ctypes.create_string_buffer(struct.pack("=QQ", _CONNECT_TCP, port), 16)
            call("syscall", _ADD_RULE, ruleset, _RULE_PORT, rule, 0)
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # absent, or not ours to enter: then it needs no permission either
    try:
        if not os.path.isdir(path):
            rights &= ~_READ_DIR
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        call("syscall", _ADD_RULE, ruleset, _RULE_PATH, rule, 0)
    finally:
        os.close(fd)
