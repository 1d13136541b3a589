"""One exchange over one stream: feeds the machine, arms its one timer, sends what it returns. Decides nothing."""

from __future__ import annotations

import contextlib
import math

import trio

from mcd.errors import StreamBrokenError
from mcd.exchange.events import NEED_DATA, Event
from mcd.exchange.exchange import Exchange
from mcd.exchange.states import ABSORBING, Role
from mcd.ports import Clock, Stream
from mcd.units import Seconds
from mcd.wire.messages import Abort, AbortCode, ExchangeMessage

LAST_WORD_S = 0.5
"""How long an Abort or Cancel may take to leave before the stream is reset anyway."""


class Conversation:
    """Pairs a stream with its exchange. One task may wait in `next_event` while another sends."""

    def __init__(self, stream: Stream, role: Role, clock: Clock) -> None:
        self.exchange = Exchange(role, clock.now())
        self._stream = stream
        self._clock = clock
        self._waiting: trio.CancelScope | None = None

    async def send(self, message: ExchangeMessage) -> None:
        """Send one message whole.

        Raises:
            LocalProtocolError: Not allowed now.
            StreamBrokenError: The stream is gone.
        """
        await self._stream.send(self.take(message))

    def take(self, message: ExchangeMessage) -> bytes:
        """Note a message as sent and return its bytes, for a caller that sends them itself."""
        data = self.exchange.send(message, self._clock.now())
        if self._waiting is not None:
            self._waiting.deadline = self._trio_deadline()
        return data

    async def next_event(self) -> Event:
        """Wait for the next event; time-outs and the end of the stream are events too.

        Raises:
            RemoteProtocolError: The peer broke the protocol.
        """
        while True:
            event = self.exchange.next_event()
            if event is not NEED_DATA:
                return event
            await self._wait()

    async def end(self, code: AbortCode | None = None) -> None:
        """Let go of the stream: close it when all was said, else abort (with ``code``) and reset it."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(LAST_WORD_S), contextlib.suppress(StreamBrokenError):
                if code is not None and self.exchange.may_send(Abort):
                    await self.send(Abort(code))
                elif self.exchange.is_over and self.exchange.state not in ABSORBING:
                    self.exchange.close(self._clock.now())
                    await self._stream.close()
                    return
            await self._stream.reset()

    async def _wait(self) -> None:
        data: bytes | None = None
        with trio.CancelScope(deadline=self._trio_deadline()) as self._waiting:
            try:
                data = await self._stream.receive()
            except StreamBrokenError:
                data = b""
        self._waiting = None
        if data is not None:
            self.exchange.receive_data(data, self._clock.now())
            return
        last_word = self.exchange.handle_timeout(self._clock.now())
        if last_word:
            with trio.move_on_after(LAST_WORD_S):
                await self._send_quietly(last_word)

    async def _send_quietly(self, data: bytes) -> None:
        with contextlib.suppress(StreamBrokenError):
            await self._stream.send(data)

    def _trio_deadline(self) -> Seconds:
        deadline = self.exchange.deadline()
        return math.inf if deadline is None else trio.current_time() + deadline - self._clock.now()
