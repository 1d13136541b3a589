"""Writes to a descriptor that may stall, a terminal or a pipe, without the writer ever waiting for its reader.

A thread writes, because only that cannot be held: a descriptor made non-blocking is so for the shell and everybody who
shares it, and one that was writable when asked may be full a moment later, when another filled it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Self, TextIO

MAX_HELD = 1000
"""Texts that wait for the reader, at most; then the oldest are lost, because the newest say how it stands."""
CLOSE_S = 0.5
"""How long the end waits for a reader; a daemon has three seconds to stop."""


class Spool:
    """What is written here goes to the descriptor of ``out`` in order, in whole texts, in its own time.

    Owner: who opens it as a context, one thread. What has been written by then is out when the context ends, unless the
    reader stalls for longer than CLOSE_S.
    """

    def __init__(self, out: TextIO, describe_loss: Callable[[int], str]) -> None:
        """``describe_loss`` makes a text of how many were lost; it is called in another thread."""
        self._fd = out.fileno()
        self._is_terminal = out.isatty()
        self._describe_loss = describe_loss
        self._held: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._n_dropped = 0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.put(None)
        self._thread.join(CLOSE_S)

    def write(self, text: str) -> None:
        """Have a text written. Never waits, never raises."""
        if self._held.qsize() >= MAX_HELD:
            with contextlib.suppress(queue.Empty):  # the thread was faster
                self._held.get_nowait()
                self._n_dropped += 1
        self._held.put(text)

    def flush(self) -> None:
        """Nothing: texts leave as soon as they can."""

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self._is_terminal

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        n_failed = n_told = 0
        while (text := self._held.get()) is not None:
            n_lost = self._n_dropped + n_failed
            told = self._describe_loss(n_lost - n_told) if n_lost > n_told else ""
            try:
                self._write_whole((told + text).encode(errors="replace"))
                n_told = n_lost
            except OSError:  # the disk is full, or nobody will read again
                n_failed += 1

    def _write_whole(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody who shares the descriptor wants it so
                select.select([], [self._fd], [])
