"""One life of an inference process, as the daemon sees it: asleep with keys, then loaded, then gone."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable

import msgspec
import trio

from mcd.engine import supervise
from mcd.engine.events import RequestEvents
from mcd.engine.messages import (
    Asleep,
    Cancel,
    Certificate,
    CertificateWanted,
    Chunk,
    Credit,
    Drop,
    EngineOptions,
    Failed,
    Finished,
    Hello,
    Load,
    NotReady,
    Ready,
    Refused,
    Rotated,
    Started,
    Status,
    Submit,
    ToDaemon,
)
from mcd.engine.supervise import Child
from mcd.errors import McdError, RemoteProtocolError
from mcd.ports import Clock, EngineRequest
from mcd.units import Seconds

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of one request, held for its consumer at worst: what the wire allows a response. Credit keeps it far lower, but it
does not hold back what one flush brings, nor the end padding, a quarter as many frames as a long answer has."""
STUCK_S = 45.0
"""A worker reports each 5 s; its longest step, the smallest prefill at one token a second, takes 16 s and reports late
once. A user whose provider's engine froze waits this long, because the daemon vouches for it meanwhile."""


class Waking:
    """A loading that requests wait for. Owner: EngineProcess."""

    def __init__(self) -> None:
        self.is_over = trio.Event()
        self.error: McdError | None = None

    def end(self, error: McdError | None) -> None:
        """Tell those who wait."""
        self.error = error
        self.is_over.set()


class _Inbox:
    """Where one request's frames go. Owner: Life."""

    __slots__ = ("channel", "n_bytes", "on_computed")

    def __init__(self, channel: trio.MemorySendChannel[ToDaemon], on_computed: Callable[[], None]) -> None:
        self.channel = channel
        self.on_computed = on_computed
        self.n_bytes = 0


class Life:
    """A started worker. Owner: EngineProcess, one after another."""

    def __init__(self, child: Child, certify: Callable[[bytes], bytes], clock: Clock) -> None:
        self.child = child
        self._certify = certify
        self._clock = clock
        self._ids = itertools.count(1)
        self._heard_at = clock.now()
        self._scope = trio.CancelScope()
        self._is_asleep = trio.Event()
        self._is_ready = trio.Event()
        self.is_over = trio.Event()
        self.load_at: Seconds | None = None
        """When it was told to load; None while it sleeps."""
        self.asleep: Asleep | None = None
        self.ready: Ready | None = None
        self.busy = Status(0, 0)
        self.certificate = b""
        self.configs: tuple[bytes, ...] = ()
        self.key_id = b""
        self.engine_key = b""
        self.failure: int | None = None
        """Why it could not load, as it said itself."""
        self.end = ""
        """Why it ended, in words."""
        self.is_dead = False
        self.is_resting = False
        """It was ended to unload its model."""
        self._requests: dict[int, _Inbox] = {}

    @property
    def n_requests(self) -> int:
        """Requests under way in it."""
        return len(self._requests)

    # --- requests ----------------------------------------------------------------------------------------------

    async def open(self, request: EngineRequest, on_computed: Callable[[], None]) -> tuple[int, RequestEvents]:
        """Submit a request; its events. Every `open` is followed by one `close`.

        Raises:
            EngineDeadError: The process has gone.
        """
        request_id = next(self._ids)
        send, receive = trio.open_memory_channel[ToDaemon](math.inf)
        self._requests[request_id] = _Inbox(send, on_computed)
        try:
            await self.child.post_large(Submit(request_id, *msgspec.structs.astuple(request)))
        except BaseException:  # cancelled or dead before it was sent: the worker never heard of it
            self._requests.pop(request_id, None)
            receive.close()
            raise
        return request_id, RequestEvents(
            receive,
            lambda n_chunks: self._tell(Credit(request_id, n_chunks)),
            lambda: self._tell(Cancel(request_id)),
        )

    def close(self, request_id: int, events: RequestEvents) -> None:
        """Forget a request; one that is not over is dropped."""
        events.close()
        self._requests.pop(request_id, None)
        if not events.is_over:
            self._tell(Drop(request_id))

    def _tell(self, frame: Credit | Cancel | Drop) -> None:
        """Post what is of no use to a dead process."""
        if not self.is_dead:
            self.child.post(frame)

    # --- the process -------------------------------------------------------------------------------------------

    async def run(
        self,
        hello: Hello,
        grant: Callable[[], Awaitable[EngineOptions]],
        on_ready: Callable[[Ready], None],
        on_dead: Callable[[], None],
        report: Callable[[str, str], None],
    ) -> None:
        """Stay with the process to its end. Raises nothing but cancellation.

        Args:
            hello: What it is for.
            grant: Returns once the model is to be loaded; says how.
            on_ready: Told once it is.
            on_dead: Told as soon as the process serves nobody any more, before it has gone.
            report: Told of each code that the process writes.
        """
        self._on_ready = on_ready
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.child.write)
                    nursery.start_soon(self.child.read_stderr, report)
                    nursery.start_soon(self._load, grant, hello.options.start_timeout_s)
                    nursery.start_soon(self._end_when_stuck)
                    self.child.post(hello)
                    await self.child.read(self._handle)
                    nursery.cancel_scope.cancel()
        except* Exception as group:  # noqa: BLE001 - supervision: whatever went wrong, the engine is started anew
            self.end = type(group.exceptions[0]).__name__
        finally:
            self._bury()
            on_dead()
            status = await self.child.stop()
            self.end = self.end or supervise.describe_exit(status)
            self.is_over.set()

    def stop(self, why: str = "") -> None:
        """End the process."""
        self.end = self.end or why
        self._scope.cancel()

    async def rest(self) -> None:
        """End the process to unload its model; returns once its memory is free. No request may be under way."""
        self.is_resting, self.ready = True, None
        self.stop("unloaded")
        await self.is_over.wait()

    async def _load(self, grant: Callable[[], Awaitable[EngineOptions]], timeout_s: Seconds) -> None:
        await self._in_time(self._is_asleep, timeout_s)
        options = await grant()
        self.load_at = self._clock.now()
        self.child.post(Load(options))
        await self._in_time(self._is_ready, timeout_s)

    async def _in_time(self, event: trio.Event, timeout_s: Seconds) -> None:
        with trio.move_on_after(timeout_s) as limit:
            await event.wait()
        if limit.cancelled_caught:
            self.stop(f"not ready after {timeout_s:.0f} s")

    async def _end_when_stuck(self) -> None:
        """A working engine says at least how busy it is; one that computes for minutes without a word never ends."""
        while self.ready is None or self._clock.now() - self._heard_at < STUCK_S:  # noqa: ASYNC110 - a watchdog
            await trio.sleep(STUCK_S / 8)
        self.stop(f"no sign of life for {STUCK_S:.0f} s")

    def _bury(self) -> None:
        """End every request. Their queues' ends are how the consumers learn of it."""
        self.is_dead = True
        self.child.gone()
        for inbox in self._requests.values():
            inbox.channel.close()
        self._requests.clear()

    # --- frames ------------------------------------------------------------------------------------------------

    def _handle(self, frames: list[ToDaemon]) -> None:
        self._heard_at = self._clock.now()
        for frame in frames:
            match frame:
                case Started() | Chunk() | Finished() | Refused() | Failed():
                    self._deliver(frame)
                case Status():
                    self.busy = frame
                case CertificateWanted():
                    self.engine_key = frame.engine_public_key
                    self.certificate = self._certify(frame.engine_public_key)
                    self.child.post(Certificate(self.certificate))
                case Asleep():
                    self.asleep = frame
                    self.configs, self.key_id = frame.configs, frame.key_id
                    self._is_asleep.set()
                case Ready():
                    self.ready = frame
                    self._is_ready.set()
                    self._on_ready(frame)
                case Rotated():
                    self.configs, self.key_id = frame.configs, frame.key_id
                case NotReady():
                    self.failure = frame.code

    def _deliver(self, frame: Started | Chunk | Finished | Refused | Failed) -> None:
        inbox = self._requests.get(frame.id)
        if inbox is None:
            return
        if isinstance(frame, Chunk | Finished):
            inbox.n_bytes += len(frame.frame)
        if inbox.n_bytes > MAX_ANSWER_BYTES:
            raise RemoteProtocolError("the worker sent a longer answer than the wire allows")
        with contextlib.suppress(trio.BrokenResourceError):
            inbox.channel.send_nowait(frame)
        if isinstance(frame, Finished | Refused | Failed):
            inbox.on_computed()
