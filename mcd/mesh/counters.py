"""Monotonic counts of one mesh, by name; the daemon shows them as metrics."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Counts that only grow. Owner: the mesh; its services add to them on the trio thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, n: int = 1) -> None:
        """Count ``n`` more of ``name``; names are fixed in code, never a peer's text."""
        self._counts[name] += n

    def snapshot(self) -> dict[str, int]:
        """A copy of all counts."""
        return dict(self._counts)

    def __getitem__(self, name: str) -> int:
        return self._counts[name]
