"""How much memory this machine has left for models: the kernel's estimate, and what the control group still grants.

Read from /proc and /sys alone; where they do not exist (macOS) half of the physical memory is assumed free.
"""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_SHARE = 10
MAX_RESERVE_BYTES = 2 * 1024**3
"""Left to other programs: a tenth, at most 2 GB."""
_NO_LIMIT = 1 << 60
"""Control groups without a limit report a number near 2^63."""


def available_bytes(root: Path = Path("/")) -> int:
    """What could be allocated now without swapping or being killed."""
    return min(_kernel_bytes(root), _group_bytes(root))


def room_bytes(root: Path = Path("/")) -> int:
    """What models may take: available memory less the reserve."""
    available = available_bytes(root)
    return available - min(MAX_RESERVE_BYTES, available // RESERVE_SHARE)


def total_bytes(root: Path = Path("/")) -> int:
    """Physical memory, or the control group's limit if that is less."""
    found = _meminfo(root).get("MemTotal", _physical_bytes())
    return min([found, *(limit for limit, _ in _groups(root))])


def _kernel_bytes(root: Path) -> int:
    found = _meminfo(root)
    return found.get("MemAvailable", found.get("MemFree", _physical_bytes() // 2))


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _meminfo(root: Path) -> dict[str, int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    words = [line.replace(":", "").split() for line in lines]
    return {word[0]: int(word[1]) * 1024 for word in words if len(word) == 3 and word[1].isdigit()}


def _group_bytes(root: Path) -> int:
    """The least headroom of our control group and all above it."""
    return min([limit - used for limit, used in _groups(root)], default=_NO_LIMIT)


def _groups(root: Path) -> list[tuple[int, int]]:
    """(limit, bytes that cannot be reclaimed) of every control group above us that has a limit; versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[int, int]] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            found += _walk(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _walk(root / "sys/fs/cgroup/memory", path, *names)
    return found


def _walk(top: Path, path: str, limit_name: str, used_name: str, cache_name: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    folder = top / path.strip("/")
    while True:
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None and limit < _NO_LIMIT:
            found.append((limit, max(0, used - _stat(folder / "memory.stat", cache_name))))
        if folder == top:
            return found
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
