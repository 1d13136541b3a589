"""What requests may hold of our memory while they arrive: little each, and much for a few at once.

A request is judged when it is whole, and one may have nine megabytes: five hundred streams of one stranger that send
all but the last byte would hold five gigabytes. So a stream reads on beyond FREE_UPLOAD_BYTES only with one of a few
places; until then its sender is stopped by the stream's window, and by the request timer for good.   [EX-29]
"""

from __future__ import annotations

from collections import Counter

import trio

from mcd.ids import PeerId
from mcd.ports import Stream

FREE_UPLOAD_BYTES = 65_536
"""Of each stream: 95 of 100 chat requests are smaller, and they must not wait for the large ones."""
MAX_LARGE_UPLOADS = 6
"""Larger requests arriving at once, up to 56 MB of memory."""
MAX_LARGE_UPLOADS_PER_PEER = 2


class Uploads:
    """The places. Owner: the provider."""

    def __init__(self) -> None:
        self._of: Counter[PeerId] = Counter()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def n_large(self) -> int:
        """Places taken."""
        return self._of.total()

    async def begin(self, peer_id: PeerId) -> None:
        """Wait for a place."""
        while self.n_large >= MAX_LARGE_UPLOADS or self._of[peer_id] >= MAX_LARGE_UPLOADS_PER_PEER:
            await self._changed.park()
        self._of[peer_id] += 1

    def end(self, peer_id: PeerId) -> None:
        """Give it back."""
        self._of[peer_id] -= 1
        self._of += Counter()  # drops peers that hold none
        self._changed.unpark_all()


class Upload:
    """An inbound stream that counts until its request is whole; implements ports.Stream. Owner: one exchange."""

    def __init__(self, stream: Stream, uploads: Uploads) -> None:
        self._stream = stream
        self._uploads = uploads
        self._n_bytes = 0
        self._is_large = False
        self._is_whole = False

    @property
    def peer_id(self) -> PeerId:
        """The authenticated other side."""
        return self._stream.peer_id

    async def send(self, data: bytes) -> None:
        """See ports.Stream.send."""
        await self._stream.send(data)

    async def receive(self) -> bytes:
        """See ports.Stream.receive; may wait for a place first."""
        if self._n_bytes >= FREE_UPLOAD_BYTES and not (self._is_large or self._is_whole):
            await self._uploads.begin(self.peer_id)
            self._is_large = True
        data = await self._stream.receive()
        self._n_bytes += len(data)
        return data

    async def close(self) -> None:
        """See ports.Stream.close."""
        await self._stream.close()

    async def reset(self) -> None:
        """See ports.Stream.reset."""
        await self._stream.reset()

    def abandon(self) -> None:
        """See ports.Stream.abandon."""
        self._stream.abandon()

    def done(self) -> None:
        """The request is whole, or will never be. Idempotent."""
        self._is_whole = True
        if self._is_large:
            self._is_large = False
            self._uploads.end(self.peer_id)
