"""Reads a live process's memory, and spells a text in the ways a leak could."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

READABLE = """
import sys
from mcd.engine import sandbox, supervise
if "mcd.engine.worker" in sys.orig_argv:
    sandbox._not_dumpable = lambda profile: "not for this test"
else:
    given = supervise._environment
    supervise._environment = lambda: (had := given()) | {"PYTHONPATH": f"{FOLDER}:{had['PYTHONPATH']}"}
"""
MAX_REGION_BYTES = 256 * 1024 * 1024
STEP_BYTES = 128 * 1024
OVERLAP_BYTES = 4096
ZEROS = bytes(STEP_BYTES + OVERLAP_BYTES)


def readable_engine(folder: Path) -> dict[str, str]:
    """Environment of a daemon whose engine we may search; empty for root, who may search any.

    An ordinary user is refused by the engine's own hardening (tests/integration/test_sandbox.py proves it), so that
    one control is left out of the engine there; the daemon and everything else are as ever.
    """
    if os.geteuid() == 0:
        return {}
    place = folder / "readable"
    place.mkdir()
    (place / "sitecustomize.py").write_text(f"FOLDER = {str(place)!r}\n{READABLE}")
    return {"PYTHONPATH": str(place)}


def spellings(text: str, token_ids: Sequence[int] = ()) -> dict[str, bytes]:
    """Twelve encodings in which ``text`` could lie in memory or a file (more with its token ids)."""
    raw = text.encode()
    found = {
        "utf-8": raw,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "json \\u": "".join(f"\\u{ord(letter):04x}" for letter in text).encode(),
        "percent": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "reversed": raw[::-1],
    }
    for offset in range(3):
        # the letters that do not depend on what stands before or after, at each alignment
        encoded = base64.b64encode(b"x" * offset + raw)
        found[f"base64+{offset}"] = encoded[4 if offset else 0 : len(encoded) - 4]
    if token_ids:
        found["token ids u32"] = struct.pack(f"<{len(token_ids)}I", *token_ids)
        found["token ids json"] = json.dumps(list(token_ids), separators=(",", ":"))[1:-1].encode()
    return found


def engine_pids(worker: int) -> list[int]:
    """A worker and those in which its template runs and schemas are compiled: all that may ever hold a prompt."""
    return [worker, *(child.pid for child in psutil.Process(worker).children(recursive=True))]


def regions(pid: int) -> Iterator[tuple[int, int]]:
    """Readable private memory of a process: (start, end)."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r..p \S+ \S+ (\d+)\s*(.*)", line)
            if match is None or match[4].startswith(("[vvar", "[vsyscall", "[vdso")):
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            if end - start <= MAX_REGION_BYTES:
                yield start, end


def search(pid: int, needles: dict[str, bytes]) -> set[str]:
    """Names of the needles that occur in the memory of ``pid``, but for zeros at their ends.

    Much memory is nothing but zeros, where one that has some is looked for ten times as long: that is passed over.
    """
    found: set[str] = set()
    needles = {name: needle.strip(b"\0") for name, needle in needles.items()}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in regions(pid):
            for at in range(start, end, STEP_BYTES):
                size = min(STEP_BYTES + OVERLAP_BYTES, end - at)
                try:
                    memory.seek(at)
                    block = memory.read(size)
                except OSError:
                    break
                if block == ZEROS[:size]:
                    continue
                found |= {name for name, needle in needles.items() if needle in block}
    return found
