"""The one seam between asyncio and trio: both run in this thread (`mcd.gateway.loops`).

One thread means no locks: either side may call the other's synchronous functions (`trio.CancelScope.cancel`,
`trio.Event.set`, `asyncio.Future.set_result`) directly, and the other loop wakes up by itself. Everything else stays
on its own side. The seam is three calls wide (open, batch, cancel), so that the mesh could become a process of
its own without a change above.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

import msgspec
import trio

from mcd.api.events import AnswerEvent, Waiting
from mcd.api.tasks import AnyRequest
from mcd.errors import LocalError, McdError, NoProviderError
from mcd.ports import Entry
from mcd.units import Seconds

MAX_QUEUED_EVENTS = 512
"""Events waiting for a slow HTTP client; then the mesh's reader pauses and, through it, the provider. What one read
brought comes whole, so that a few more may wait."""
MAX_OPEN_ANSWERS = 1024
"""Requests of all HTTP clients together."""
BUSY_RETRY_S = 1.0


class BridgeStats(msgspec.Struct, frozen=True):
    """What crosses the seam now."""

    n_open: int
    n_queued_events: int


class Answer:
    """One answer on its way from trio to asyncio. Owner: the HTTP handler, which leaves its context when done."""

    def __init__(self) -> None:
        self._events: deque[AnswerEvent] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at: Seconds = 0.0
        """When the reader gives up; the timer may ring before and is then set again: cheaper than one a batch."""
        self._has_space: trio.Event | None = None
        self._scope = trio.CancelScope()
        self._is_ended = False
        self._error: McdError | None = None

    # --- asyncio's side --------------------------------------------------------------------------------------

    async def batch(self, timeout_s: float | None = None) -> list[AnswerEvent] | None:
        """Wait for events and take all there are; ``[]`` at the end, None when ``timeout_s`` passed with none.

        Without ``timeout_s`` it is the answer's own deadlines, on trio's side, that end the wait.

        Raises:
            McdError: The answer failed; everything before the failure has been returned.
        """
        if not self._events and not self._is_ended:
            await self._wait(timeout_s)
        if self._events:
            return self._take()
        if not self._is_ended:
            return None
        if self._error is not None:
            raise self._error
        return []

    def cancel(self) -> None:
        """Stop the answer at once, through to the provider's slot. Idempotent."""
        if not self._is_ended:
            self._scope.cancel()

    def fail(self, error: McdError) -> None:
        """End the answer with an error that its handler will report, and stop it."""
        self.cancel()
        self._end(error)

    def __enter__(self) -> Answer:
        """Nothing to do: opened by `Bridge.open`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel whatever still runs: the client left, or the handler failed."""
        self.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader = loop.create_future()
        if timeout_s is not None:
            self._wake_at = loop.time() + timeout_s
            if self._timer is None or self._timer.when() > self._wake_at:
                self._set_timer(loop)
        try:
            await reader
        finally:
            self._reader = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._wake_at, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._reader is None:
            return
        if loop.time() < self._wake_at:
            self._set_timer(loop)
        else:
            _wake(self._reader)

    def _take(self) -> list[AnswerEvent]:
        events = list(self._events)
        self._events.clear()
        if self._has_space is not None:
            self._has_space.set()
        return events

    # --- trio's side -----------------------------------------------------------------------------------------

    async def carry(self, entry: Entry, request: AnyRequest, on_bug: Callable[[str], None]) -> None:
        """Run the request and put its events; never raises but for cancellation from outside.

        ``on_bug`` is told the class of an exception that should not be: its message may quote user text.
        """
        with self._scope:
            try:
                await entry.answer(request, self._put)
            except McdError as error:
                self._end(error)
            except Exception as bug:  # noqa: BLE001 - a supervision loop: a bug in one request must not end all others
                on_bug(type(bug).__name__)
                self._end(LocalError("an internal error ended this request"))
        self._end(None)

    async def _put(self, events: Sequence[AnswerEvent]) -> None:
        news = [event for event in events if not isinstance(event, Waiting)]
        if not news:
            return  # the reader's own timer keeps its client alive
        while len(self._events) >= MAX_QUEUED_EVENTS:
            self._has_space = trio.Event()
            await self._has_space.wait()
        self._events += news
        if self._reader is not None:
            _wake(self._reader)

    # --- both ------------------------------------------------------------------------------------------------

    def _end(self, error: McdError | None) -> None:
        """Set the outcome; the first one counts."""
        if self._is_ended:
            return
        self._is_ended = True
        self._error = error
        if self._reader is not None:
            _wake(self._reader)

    @property
    def n_queued(self) -> int:
        """Events put and not yet taken."""
        return len(self._events)


class Started(Protocol):
    """What `trio.Nursery.start` passes to be told that a task is up."""

    def started(self) -> None:
        """Let the starter go on."""
        ...


class Bridge:
    """Runs requests of asyncio's HTTP handlers as trio tasks."""

    def __init__(self, entry: Entry, on_bug: Callable[[str], None]) -> None:
        """Take whom to ask, and who is told the class of an exception that no room should raise."""
        self._entry = entry
        self._on_bug = on_bug
        self._nursery: trio.Nursery | None = None
        self._open: set[Answer] = set()

    async def run(self, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the requests' nursery until cancelled; a trio task of the daemon."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def open(self, request: AnyRequest) -> Answer:
        """Start a request from asyncio's side; leave the returned context to cancel it.

        Raises:
            NoProviderError: The daemon is starting or stopping, or MAX_OPEN_ANSWERS are open.
        """
        if self._nursery is None:
            raise NoProviderError("this peer is starting or stopping; try again", retry_after_s=BUSY_RETRY_S)
        if len(self._open) >= MAX_OPEN_ANSWERS:
            raise NoProviderError("this peer has too many requests open; try again", retry_after_s=BUSY_RETRY_S)
        answer = Answer()
        self._open.add(answer)
        self._nursery.start_soon(self._carry, answer, request)
        return answer

    def fail_all(self, error: McdError) -> None:
        """End every open answer so that its HTTP client hears why; the first step of stopping."""
        for answer in tuple(self._open):
            answer.fail(error)

    def stats(self) -> BridgeStats:
        """A snapshot for status and metrics."""
        return BridgeStats(len(self._open), sum(answer.n_queued for answer in self._open))

    async def _carry(self, answer: Answer, request: AnyRequest) -> None:
        try:
            await answer.carry(self._entry, request, self._on_bug)
        finally:
            self._open.discard(answer)
            # Only when cancelled from outside, by the daemon's end, has the answer no outcome yet.
            answer.fail(NoProviderError("this peer is stopping; try again", retry_after_s=BUSY_RETRY_S))


def _wake(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)
