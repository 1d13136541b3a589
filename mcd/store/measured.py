"""What loading models on this machine taught, kept in the home folder: a model can be offered before it is loaded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from mcd.ids import ModelDigest
from mcd.ports import LoadFacts

FILE = "measured.json"
MAX_ENTRIES = 256
"""Oldest first out; nobody serves so many models on one machine."""
MAX_FILE_BYTES = 1024 * 1024


class MeasuredFile:
    """Implements ports.Measured. Owner of the file; one a daemon."""

    def __init__(self, home: Path) -> None:
        """Read what is there; a damaged file is begun anew, since all in it can be measured again."""
        self._path = home / FILE
        self._facts: dict[str, LoadFacts] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError), self._path.open("rb") as file:
            self._facts = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=dict[str, LoadFacts])

    def get(self, digest: ModelDigest, device: str) -> LoadFacts | None:
        """See ports.Measured."""
        return self._facts.get(_key(digest, device))

    def put(self, digest: ModelDigest, device: str, facts: LoadFacts) -> None:
        """See ports.Measured. Written beside the old file and renamed over it."""
        self._facts.pop(_key(digest, device), None)
        self._facts[_key(digest, device)] = facts
        while len(self._facts) > MAX_ENTRIES:
            del self._facts[next(iter(self._facts))]
        fresh = self._path.with_name(f"{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk must not stop an engine that works
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._facts), indent=1))
            fresh.rename(self._path)


def _key(digest: ModelDigest, device: str) -> str:
    return f"{digest.hex()} {device}"
