"""Both loops in one thread: trio runs, and its tasks turn asyncio's loop whenever that has something to do.

An epoll descriptor can itself be waited for: trio waits for its own sockets and, through one descriptor, for all of
asyncio's. trio's guest mode does it the other way round and needs a thread that waits for trio's sockets: two to six
switches of threads a request.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import FrameType
from typing import Any, TypeVar, TypeVarTuple, Unpack

import outcome
import sniffio
import trio

DOUBLE_SIGNAL_S = 1.0
"""Supervisors signal a process and its group, so one wish to stop may come twice; a later one is impatience."""
MAX_TURNS = 8
"""Of asyncio's loop in a row, while its callbacks ask for more; then trio's tasks have theirs."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TrioMain = Callable[[Callable[[T], None]], Awaitable[None]]
"""Builds the daemon, calls its argument once with what asyncio's side needs, runs until cancelled."""
AsyncioMain = Callable[[T, asyncio.Event], Coroutine[Any, Any, None]]
"""Serves until the event is set (a signal, or the end of trio's side), then closes and returns."""


def run_loops(trio_main: TrioMain[T], asyncio_main: AsyncioMain[T]) -> None:
    """Run both until SIGINT, SIGTERM, or either ends; asyncio's side always closes first.

    A signal that comes DOUBLE_SIGNAL_S after the first finds the default handlers and ends the process at once.

    Raises:
        Whatever either raised.
    """
    signals = _Signals()
    with signals, asyncio.Runner(loop_factory=TurnedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, TurnedLoop)
        trio.run(_Loops(loop, signals, trio_main, asyncio_main).run)


class TurnedLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that does not wait: trio's tasks wait for it and turn it. Owner: `run_loops`."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    """asyncio's own queues, of which it has no public view; the same in every version since 3.4."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self._descriptor: int = selector.fileno()
        self._is_turned_by_trio = False
        self._is_turning = False
        self._asked = trio.lowlevel.ParkingLot()
        self._timer = trio.CancelScope()

    # --- trio's side -----------------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Turn the loop until cancelled."""
        self._is_turned_by_trio = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._turn_when_asked)
                nursery.start_soon(self._turn_in_time)
                while True:
                    await trio.lowlevel.wait_readable(self._descriptor)
                    self._turn()
        finally:
            self._is_turned_by_trio = False

    async def _turn_when_asked(self) -> None:
        while True:
            self._turn()
            if self._ready:
                await trio.lowlevel.checkpoint()
            else:
                await self._asked.park()

    async def _turn_in_time(self) -> None:
        while True:
            first = self._scheduled[0].when() if self._scheduled else math.inf
            with trio.CancelScope(deadline=self._trio_time(first)) as self._timer:
                await trio.Event().wait()
            self._turn()

    def _turn(self) -> None:
        self._is_turning = True
        sniffio.thread_local.name = "asyncio"
        try:
            for _ in range(MAX_TURNS):
                self.stop()
                self.run_forever()  # once, as it was told to stop
                if not self._ready:
                    break
        finally:
            sniffio.thread_local.name = "trio"
            self._is_turning = False
        if self._ready:
            self._asked.unpark()

    # --- asyncio's side --------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's; called by one of trio's tasks, it wakes the loop too."""
        handle = super().call_soon(callback, *args, context=context)
        if not self._is_turning:
            self._asked.unpark()
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; the loop will be turned in time."""
        handle = super().call_at(when, callback, *args, context=context)
        if self._is_turned_by_trio and (deadline := self._trio_time(when)) < self._timer.deadline:
            self._timer.deadline = deadline
        return handle

    def _trio_time(self, when: float) -> float:
        return when - self.time() + trio.current_time()


class _Loops:
    """The two main tasks and how one's end becomes the other's."""

    def __init__(
        self, loop: TurnedLoop, signals: _Signals, trio_main: TrioMain[Any], asyncio_main: AsyncioMain[Any]
    ) -> None:
        self._loop = loop
        self._signals = signals
        self._trio_main = trio_main
        self._asyncio_main = asyncio_main
        self._values: list[Any] = []
        """What trio's side is ready with, once it is."""
        self._stop = asyncio.Event()
        self._may_serve = trio.Event()
        self._life = trio.CancelScope()
        """Of trio's side."""
        self._end: outcome.Outcome[None] = outcome.Value(None)
        self._has_ended = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._loop.turn)
            nursery.start_soon(self._heed_signals)
            nursery.start_soon(self._run_trio_main)
            await self._may_serve.wait()
            served = await self._serve(*self._values) if self._values else outcome.Value(None)
            self._life.cancel()
            await self._has_ended.wait()
            nursery.cancel_scope.cancel()
        self._end.unwrap()
        served.unwrap()

    async def _run_trio_main(self) -> None:
        self._end = await outcome.acapture(self._live)
        self._has_ended.set()
        self._stop_serving()

    async def _live(self) -> None:
        with self._life:
            await self._trio_main(self._ready)

    def _ready(self, value: Any) -> None:
        self._values.append(value)
        self._may_serve.set()

    def _stop_serving(self) -> None:
        self._stop.set()
        self._may_serve.set()

    async def _serve(self, value: Any) -> outcome.Outcome[None]:
        task = self._loop.create_task(self._asyncio_main(value, self._stop))
        done = trio.Event()
        task.add_done_callback(lambda _: done.set())
        await done.wait()
        return outcome.capture(task.result)

    async def _heed_signals(self) -> None:
        await self._signals.wait()
        self._stop_serving()


class _Signals:
    """SIGINT and SIGTERM, from before the loops run until after they ended. Owner: `run_loops`."""

    def __init__(self) -> None:
        self._came_at: float | None = None
        self._has_come = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def __exit__(self, *_: object) -> None:
        """Give them back, unless one came: what is left is the interpreter's end, which its twin must not cut short."""
        for number, handler in self._before.items():
            signal.signal(number, handler if self._came_at is None else signal.SIG_IGN)

    async def wait(self) -> None:
        """Until one comes."""
        self._token = trio.lowlevel.current_trio_token()
        if self._came_at is None:
            await self._has_come.wait()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._came_at is None:
            self._came_at = now
            if self._token is not None:
                self._token.run_sync_soon(self._has_come.set)
        elif now - self._came_at > DOUBLE_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
