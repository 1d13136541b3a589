"""A download's progress on stderr: one line redrawn on a terminal, a plain line for each tenth elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from mcd.cli import table

BAR_CELLS = 20
REDRAW_S = 0.2
RATE_WINDOW_S = 10.0
"""The rate is that of the last ten seconds: steady enough to read, quick to show a stall."""
TENTHS = 10


def line(name: str, done_bytes: int, total_bytes: int, bytes_per_s: float | None) -> str:
    """``pulling 8eeb52d..  37% [#######             ] 1.7 GB/4.7 GB  84 MB/s  36s``."""
    share = done_bytes / total_bytes if total_bytes else 1.0
    bar = "#" * int(share * BAR_CELLS)
    parts = [
        f"pulling {name}  {int(share * 100):3}% [{bar:{BAR_CELLS}}] {table.size(done_bytes)}/{table.size(total_bytes)}"
    ]
    if bytes_per_s:
        parts.append(f"{table.size(bytes_per_s)}/s")
    if bytes_per_s and done_bytes < total_bytes:
        parts.append(table.duration(float(round((total_bytes - done_bytes) / bytes_per_s))))
    return "  ".join(parts)


class ProgressLine:
    """Counts bytes and draws. Owner: one pull."""

    def __init__(
        self, name: str, total_bytes: int, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._total_bytes = total_bytes
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._done_bytes = 0
        self._drawn_at = 0.0
        self._tenth = 0
        self._recent: deque[tuple[float, int]] = deque()

    def start(self, at_bytes: int) -> None:
        """Begin, or begin again, with this much already here."""
        self._done_bytes = at_bytes
        self._tenth = self._tenth_done()
        self._recent.clear()
        self._recent.append((self._clock(), at_bytes))
        self._draw()

    def advance(self, n_bytes: int) -> None:
        """Count what came and redraw when it is time."""
        now = self._clock()
        self._done_bytes += n_bytes
        self._recent.append((now, self._done_bytes))
        while now - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()
        is_due = now - self._drawn_at >= REDRAW_S if self._out.isatty() else self._tenth_done() > self._tenth
        if is_due or self._done_bytes >= self._total_bytes:
            self._draw()

    def end(self) -> None:
        """Leave the line."""
        if self._out.isatty() and self._recent:
            print(file=self._out)

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        self._tenth = self._tenth_done()
        words = line(self._name, self._done_bytes, self._total_bytes, self._rate())
        if self._out.isatty():
            print(f"\r\x1b[K{words}", end="", file=self._out, flush=True)
        else:
            print(words, file=self._out, flush=True)

    def _tenth_done(self) -> int:
        return self._done_bytes * TENTHS // self._total_bytes if self._total_bytes else TENTHS

    def _rate(self) -> float | None:
        (since, at_bytes), (now, done_bytes) = self._recent[0], self._recent[-1]
        return (done_bytes - at_bytes) / (now - since) if now > since and done_bytes > at_bytes else None
