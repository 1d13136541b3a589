"""Streams to ourselves: an entry and a provider in one daemon talk the same exchange without a socket."""

from __future__ import annotations

import trio

from mcd.errors import StreamBrokenError
from mcd.ids import PeerId

MAX_BUFFERED_BYTES = 256 * 1024
"""As much as one yamux window: a slow reader pauses its sender."""
MAX_READ_BYTES = 65_536


class _Pipe:
    """One direction. Owner: the two ends of the pair."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.is_ended = False
        self.is_reset = False
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class LoopStream:
    """One end of a stream to ourselves. Behaves as ports.Stream says; the same checker proves it."""

    def __init__(self, peer_id: PeerId, inbound: _Pipe, outbound: _Pipe) -> None:
        self._peer_id = peer_id
        self._inbound = inbound
        self._outbound = outbound

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._peer_id

    async def send(self, data: bytes) -> None:
        """See ports.Stream.send."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        pipe = self._outbound
        while view:
            if pipe.is_reset or pipe.is_ended:
                raise StreamBrokenError("the stream is closed")
            room = MAX_BUFFERED_BYTES - len(pipe.buffer)
            if room <= 0:
                await pipe.changed.wait()
                continue
            pipe.buffer += view[:room]
            view = view[room:]
            pipe.wake()

    async def receive(self) -> bytes:
        """See ports.Stream.receive."""
        await trio.lowlevel.checkpoint()
        pipe = self._inbound
        while not pipe.buffer:
            if pipe.is_reset:
                raise StreamBrokenError("the stream was reset")
            if pipe.is_ended:
                return b""
            await pipe.changed.wait()
        data = bytes(pipe.buffer[:MAX_READ_BYTES])
        del pipe.buffer[: len(data)]
        pipe.wake()
        return data

    async def close(self) -> None:
        """See ports.Stream.close."""
        self._outbound.is_ended = True
        self._outbound.wake()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """See ports.Stream.reset. What the other side has not read yet stays readable, as over the network."""
        for pipe in (self._inbound, self._outbound):
            pipe.is_reset = True
            pipe.wake()
        self._inbound.buffer.clear()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abandon(self) -> None:
        """See ports.Stream.abandon. Whatever still comes goes when both ends do."""
        self._outbound.is_ended = True
        self._outbound.wake()


def pair(own_id: PeerId) -> tuple[LoopStream, LoopStream]:
    """Both ends of a new stream from ourselves to ourselves."""
    there, back = _Pipe(), _Pipe()
    return LoopStream(own_id, back, there), LoopStream(own_id, there, back)
