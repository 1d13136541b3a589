"""ports.Stream over one yamux stream, with the protocol agreed on along the way.

The opener sends multistream's two lines and its own first bytes at once, and reads the answer when it first reads:
one round trip instead of three, to any libp2p peer.
"""

from __future__ import annotations

from functools import lru_cache

from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from mcd.errors import StreamBrokenError
from mcd.ids import PeerId
from mcd.mesh.yamux_stream import YamuxStream

MULTISTREAM = b"/multistream/1.0.0"
MAX_RECEIVE_BYTES = 64 * 1024


def line(text: bytes) -> bytes:
    """One multistream line: its length as a varint, the text, a newline."""
    size = len(text) + 1
    assert size <= 0x3FFF
    prefix = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return prefix + text + b"\n"


@lru_cache(maxsize=64)  # each stream of ours needs one, and there are a handful
def agreement(protocol: str) -> bytes:
    """What the opener of a stream sends first, and what a peer that speaks the protocol sends back: the same lines."""
    return line(MULTISTREAM) + line(protocol.encode())


class MeshStream:
    """One stream to or from a peer, as every room above sees it."""

    def __init__(self, stream: YamuxStream, peer_id: PeerId, expected: bytes = b"") -> None:
        """``expected`` is the `agreement` that we still have to read."""
        self._stream = stream
        self._peer_id = peer_id
        self._expected = expected
        self._buffer = b""
        """Read and not handed on."""

    @property
    def peer_id(self) -> PeerId:
        """The authenticated other side."""
        return self._peer_id

    async def send(self, data: bytes) -> None:
        """Queue all of ``data``; see ports.Stream."""
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise StreamBrokenError("the stream to the peer is gone") from error

    async def receive(self) -> bytes:
        """What comes next, ``b""`` at the end; see ports.Stream."""
        if self._expected:
            await self._agree()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return await self._read()

    async def close(self) -> None:
        """End our half."""
        await self._stream.close()

    async def reset(self) -> None:
        """End both halves at once."""
        self._stream.reset_now()

    def abandon(self) -> None:
        """End our half and drop what still comes."""
        self._stream.abandon()

    async def _read(self) -> bytes:
        try:
            data: bytes = await self._stream.read(MAX_RECEIVE_BYTES)
        except MuxedStreamEOF:
            return b""
        except MuxedStreamError as error:
            raise StreamBrokenError("the peer reset the stream or its connection died") from error
        return data

    async def _agree(self) -> None:
        """Read the peer's answer; anything but the one expected ends the stream at its first wrong byte."""
        expected = self._expected
        while len(self._buffer) < len(expected):
            data = await self._read()
            if not data:
                await self._refuse("the peer closed the stream before agreeing on a protocol")
            self._buffer += data
            if not self._buffer.startswith(expected[: len(self._buffer)]):
                await self._refuse("the peer does not speak this protocol; it may run another version")
        self._buffer = self._buffer[len(expected) :]
        self._expected = b""

    async def _refuse(self, why: str) -> None:
        await self.reset()
        raise StreamBrokenError(why)
