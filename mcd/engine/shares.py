"""Whose call is next where each may take long: that of who has had least time.   Pure.

Order of arrival would let whoever brings the longest calls, or most of them, have nearly all the time.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from mcd.units import Seconds

T = TypeVar("T")


class Shares(Generic[T]):
    """Calls that wait, by who asks; one runs at a time. Owner: a `Choosing`."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[T]] = {}
        self._had_s: dict[int, Seconds] = {}
        self._floor_s: Seconds = 0.0
        """What whoever was served last had had before; who comes now has no credit for having been away."""

    def add(self, asker: int, call: T) -> None:
        """Queue a call, behind others of the same asker."""
        self._waiting.setdefault(asker, deque()).append(call)

    def next(self) -> tuple[int, T] | None:
        """Take out the call to begin, with its asker; None when none waits."""
        if not self._waiting:
            return None
        asker = min(self._waiting, key=self._had)
        self._floor_s = self._had(asker)
        calls = self._waiting[asker]
        call = calls.popleft()
        if not calls:
            del self._waiting[asker]
        return asker, call

    def took(self, asker: int, seconds: Seconds) -> None:
        """The asker's call is over."""
        self._had_s[asker] = self._had(asker) + seconds
        self._had_s = {asker: had_s for asker, had_s in self._had_s.items() if had_s > self._floor_s}

    def _had(self, asker: int) -> Seconds:
        return max(self._floor_s, self._had_s.get(asker, 0.0))
