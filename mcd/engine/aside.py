"""Slow calls into C: beside the worker's loop, and on a stack that their text cannot exhaust.

llama.cpp tokenises a megabyte in about a second, and ctypes lets go of the interpreter meanwhile: streams go on. For
some vocabularies it uses std::regex, which recurses once a character: a word of 30 kB ended the process.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from mcd.units import Seconds

T = TypeVar("T")

STACK_BYTES = 16 * 1024 * 1024
STACK_BYTES_PER_CHAR = 512
"""std::regex takes 300."""
MAX_STACK_BYTES = 640 * 1024 * 1024
"""Address space until it is used; two million characters in one word, and within what a process may allocate."""
PAGE_BYTES = 65_536
_start = threading.Lock()
"""The stack size is the interpreter's, not the thread's."""


class Outcome(Generic[T]):
    """What a call came to. Owner: the thread until it is handed over."""

    __slots__ = ("_error", "_value", "took_s")

    def __init__(self) -> None:
        self.took_s: Seconds = 0.0
        """Processor time of the call."""
        self._value: T | None = None
        self._error: Exception | None = None

    def run(self, call: Callable[[], T]) -> None:
        """Call, and keep what it gives or raises."""
        began_s = time.thread_time()
        try:
            self._value = call()
        except Exception as error:  # noqa: BLE001 - nothing is swallowed: `take` raises it where somebody listens
            self._error = error
        self.took_s = time.thread_time() - began_s

    def take(self) -> T:
        """The value; raises what the call raised, once: who holds his own traceback is never freed."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        assert self._value is not None
        return self._value


def deep(call: Callable[[], T], n_chars: int) -> T:
    """Call and wait, on a stack that suits a text of that length; costs 0.1 ms."""
    outcome: Outcome[T] = Outcome()
    wanted = min(MAX_STACK_BYTES, STACK_BYTES + STACK_BYTES_PER_CHAR * n_chars)
    thread = threading.Thread(target=outcome.run, args=(call,), name="deep", daemon=True)
    with _start:
        before = threading.stack_size(wanted // PAGE_BYTES * PAGE_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    return outcome.take()


class Aside(Generic[T]):
    """Calls that wait, the smallest first, and one running: a long text delays a short one once. Owner: a backend."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, Callable[[], T]]] = []
        """A heap of (size, order of arrival, key, call)."""
        self._arrivals = itertools.count()
        self._is_running = False
        self._thread: threading.Thread | None = None
        self._done: deque[tuple[int, Outcome[T]]] = deque()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)

    def add(self, key: int, call: Callable[[], T], size_bytes: int) -> None:
        """Queue a call that takes as long as its text is large."""
        heapq.heappush(self._waiting, (size_bytes, next(self._arrivals), key, call))
        self._go_on()

    def take(self) -> tuple[int, Outcome[T]] | None:
        """The next finished call with its key, None when there is none.

        To be asked in every step, also when nobody wants the result any more: until then `fileno` stays readable.
        """
        if not self._is_running:
            return None
        try:
            os.read(self._read, 1)
        except BlockingIOError:
            return None
        self._is_running = False
        self._go_on()
        return self._done.popleft()

    def cancel(self, key: int) -> None:
        """Drop a call that waits; one that runs cannot be stopped, and its result is nobody's."""
        self._waiting = [item for item in self._waiting if item[2] != key]
        heapq.heapify(self._waiting)

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._read

    def close(self) -> None:
        """Take no more; returns once the call that runs is done, whose memory may be freed then."""
        self._waiting.clear()
        if self._thread is not None:
            self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _go_on(self) -> None:
        if self._is_running or not self._waiting:
            return
        self._is_running = True
        _, _, key, call = heapq.heappop(self._waiting)
        outcome: Outcome[T] = Outcome()

        def run() -> None:
            outcome.run(call)
            self._done.append((key, outcome))
            os.write(self._write, b"\0")

        self._thread = threading.Thread(target=run, name="aside", daemon=True)
        self._thread.start()
