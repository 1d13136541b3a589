"""One exchange over one stream: feeds the machine, arms its one timer, sends what it returns. Decides nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from mcd.errors import RemoteProtocolError, StreamBrokenError
from mcd.exchange.events import NEED_DATA, Event, PeerClosed
from mcd.exchange.exchange import Exchange
from mcd.exchange.states import Role
from mcd.ports import Clock, Stream
from mcd.units import Seconds
from mcd.wire.framing import FrameReader
from mcd.wire.messages import Abort, Cancel, ExchangeMessage, Request

LAST_WORD_S = 0.5
"""How long an Abort or Cancel may take to leave before the stream is reset anyway."""
LATE_READ_S = 0.05
"""Who comes back after its deadline, held up by a slow client, still reads what has come meanwhile."""


async def receive_one(stream: Stream, max_bytes: int) -> bytes:
    """The body of the only frame of a stream, for protocols of one question and one answer.

    Raises:
        RemoteProtocolError: Too long, empty or followed by more.
        StreamBrokenError: The stream was reset or ended early.
    """
    reader = FrameReader(max_bytes)
    while (body := reader.next_frame()) is None:
        data = await stream.receive()
        if not data:
            raise StreamBrokenError("the peer ended the stream early")
        reader.feed(data)
    if reader.n_buffered:
        raise RemoteProtocolError("the peer sent more than one frame")
    return body


class Conversation:
    """Pairs a stream with its exchange. One task may wait in `next_event` while another sends."""

    def __init__(self, role: Role, clock: Clock, stream: Stream | None = None) -> None:
        """Without a ``stream``, begin with `ask`."""
        now = clock.now()
        self.exchange = Exchange(role, now)
        self._clock = clock
        self._stream = stream
        self._opens: Callable[[], Awaitable[Stream]] | None = None
        self._sending = trio.Lock()
        """A message is sent whole before the next one is noted, so that frames never interleave."""
        self.sent_at = now
        """When our newest message was noted."""
        self._is_abort_out = False
        self._waiting: trio.CancelScope | None = None
        self._armed_for: Seconds | None = None
        """The exchange's deadline that `_waiting` stands for; most messages do not move it."""

    def ask(self, request: Request, open_stream: Callable[[bytes], Awaitable[Stream]]) -> None:
        """Begin with a request, whose bytes open the stream during the first wait for an event.

        So the exchange's timers hold for a provider that takes no bytes in, too, and for one that cannot be reached.

        Raises:
            LocalProtocolError: Not allowed now.
        """
        self._opens = partial(open_stream, self.take(request))

    def take(self, message: ExchangeMessage) -> bytes:
        """Note a message as sent and return its bytes, for a caller that sends them itself.

        Raises:
            LocalProtocolError: Not allowed now.
        """
        self.sent_at = self._clock.now()
        data = self.exchange.send(message, self.sent_at)
        if self._waiting is not None and self.exchange.deadline() != self._armed_for:
            self._waiting.deadline = self._trio_deadline()
        return data

    @property
    def is_sending(self) -> bool:
        """A message is on its way out; the peer may not read."""
        return self._sending.locked()

    async def send(self, message: ExchangeMessage) -> None:
        """Send one message whole.

        Raises:
            LocalProtocolError: Not allowed now.
            StreamBrokenError: The stream is gone.
        """
        try:
            self._sending.acquire_nowait()  # unlike `acquire`, it lets no other task run: answers come in bursts
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            # What was read while we took the lock may have ended the exchange, and cancelled us for it.
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._open_stream().send(self.take(message))
        finally:
            self._sending.release()

    async def next_event(self) -> Event:
        """Wait for the next event; time-outs and the end of the stream are events too.

        Raises:
            RemoteProtocolError: The peer broke the protocol.
            StreamBrokenError: The stream of what was asked cannot be opened.
        """
        while True:
            event = self.exchange.next_event()
            if event is not NEED_DATA:
                return event
            await self._wait()

    async def next_events(self) -> list[Event]:
        """Wait as `next_event` does and take everything that came with it; one wake-up may bring many events.

        Raises:
            RemoteProtocolError: The peer broke the protocol; what came before has been returned.
            StreamBrokenError: As `next_event`.
        """
        events = [await self.next_event()]
        try:
            while (event := self.exchange.next_event()) is not NEED_DATA and not isinstance(event, PeerClosed):
                events.append(event)
        except RemoteProtocolError:
            pass  # raised again at the next call
        return events

    async def finish(self) -> None:
        """Close our half after everything was said; the other side then lets go too. What it still sends is dropped."""
        self.exchange.close(self._clock.now())
        if self._stream is not None:
            self._stream.abandon()

    async def end(self, last: Abort | Cancel | None = None) -> None:
        """Say a last word if it may still be said, and let go of the stream. At most half a second, even cancelled.

        After an Abort only our half ends, since a reset would take what the peer has not read yet, the Abort too; what
        it still sends is dropped.
        """
        if self._stream is None:
            return
        with trio.CancelScope(shield=True):
            if last is not None and self.exchange.may_send(type(last)):
                with trio.move_on_after(LAST_WORD_S), contextlib.suppress(StreamBrokenError):
                    await self.send(last)
                    self._is_abort_out = isinstance(last, Abort)
            if self._is_abort_out:
                self._stream.abandon()
            else:
                await self._stream.reset()

    async def _wait(self) -> None:
        with trio.CancelScope(deadline=self._trio_deadline(LATE_READ_S)) as scope:
            self._waiting = scope
            self.exchange.receive_data(await self._receive(), self._clock.now())
        self._waiting = None
        if not scope.cancelled_caught:
            return
        last_word = self.exchange.handle_timeout(self._clock.now())
        if last_word:
            with trio.move_on_after(LAST_WORD_S), contextlib.suppress(StreamBrokenError):
                async with self._sending:
                    await self._open_stream().send(last_word)
                    self._is_abort_out = True

    async def _receive(self) -> bytes:
        if self._opens is not None:
            opens, self._opens = self._opens, None  # once, and its bytes are not kept
            self._stream = await opens()
        try:
            return await self._open_stream().receive()
        except StreamBrokenError:
            return b""

    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise StreamBrokenError("the stream was not opened")
        return self._stream

    def _trio_deadline(self, at_least_s: Seconds = 0.0) -> Seconds:
        self._armed_for = deadline = self.exchange.deadline()
        if deadline is None:
            return math.inf
        return trio.current_time() + max(deadline - self._clock.now(), at_least_s)
