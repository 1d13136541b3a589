"""Notices when steps take twice as long as they did: somebody else wants the cores that our threads count on. Pure."""

from __future__ import annotations

import statistics

from mcd.units import Seconds

WINDOW = 16
"""Steps of one size whose median is compared: a single slow step means nothing."""
SLOWER = 2.0
RETUNE_PAUSE_S: Seconds = 60.0
"""Between two tunings: each costs every stream a few steps."""


class Pace:
    """Owner: Scheduler. Steps are compared with those of about as many rows."""

    def __init__(self) -> None:
        self._usual: dict[int, Seconds] = {}
        self._recent: dict[int, list[Seconds]] = {}
        self._tuned_at: Seconds = 0.0

    def tuned(self, now: Seconds) -> None:
        """Threads were chosen anew: what was usual is no more."""
        self._usual.clear()
        self._recent.clear()
        self._tuned_at = now

    def has_slowed(self, n_rows: int, step_s: Seconds, now: Seconds) -> bool:
        """Take note of a step; True when it is time to tune again."""
        size = n_rows.bit_length()
        recent = self._recent.setdefault(size, [])
        recent.append(step_s)
        if len(recent) < WINDOW:
            return False
        median_s = statistics.median(recent)
        recent.clear()
        usual_s = self._usual.get(size, median_s)
        self._usual[size] = min(usual_s, median_s)
        return median_s > SLOWER * usual_s and now >= self._tuned_at + RETUNE_PAUSE_S
