"""A model file's SHA-256, computed off the loop and remembered by path, size and modification time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import trio

from mcd.engine.ggufcheck import unreadable

BLOCK_BYTES = 4 * 1024 * 1024

ABANDON: Final[dict[str, Any]] = {"abandon_on_cancel": True}
"""A stop must not wait for a large file; the thread ends by itself. (mypy cannot see the keyword behind *args.)"""

_known: dict[tuple[str, int, int], bytes] = {}
"""Filled by file_digest alone, on the trio thread; one entry a model file ever served by this process."""


async def file_digest(path: str) -> bytes:
    """SHA-256 of a file. A big file takes seconds, so it runs in a thread; a restart of its engine asks again.

    Raises:
        ModelFileError: The file cannot be read.
        EngineDeadError: No file can be opened now.
    """
    try:
        stat = await trio.Path(path).stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in _known:
            _known[key] = await trio.to_thread.run_sync(_digest, path, **ABANDON)
    except OSError as error:
        raise unreadable(path, error) from None
    return _known[key]


async def model_digest(path: str, projector: str) -> bytes:
    """The identity of a model: of its file, and of the file through which it sees, if it does.

    Raises:
        ModelFileError, EngineDeadError: As for `file_digest`.
    """
    digest = await file_digest(path)
    return seeing_digest(digest, await file_digest(projector)) if projector else digest


def seeing_digest(model: bytes, projector: bytes) -> bytes:
    """What a model with a projector is announced under: with another one, or none, it is another model.   [REC-09]"""
    return hashlib.sha256(b"modelcloud model with projector\0" + model + projector).digest()


def _digest(path: str) -> bytes:
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha.update(block)
    return sha.digest()
