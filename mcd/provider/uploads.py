"""What requests may hold of our memory while they arrive: little each, and much for a few at once.

A request is judged when it is whole, and one may have nine megabytes: five hundred streams of one stranger that send
all but the last byte would hold five gigabytes, and with a hundredth of that each still fifty megabytes for every peer
id, which cost nothing. So only so many streams of one address are read at once, and beyond FREE_UPLOAD_BYTES only those
with one of a few places; until then a sender is stopped by its stream's window, and by the request timer for good.
[EX-29]
"""

from __future__ import annotations

import math
from collections import Counter

import trio

from mcd.ids import PeerId
from mcd.ports import Stream

FREE_UPLOAD_BYTES = 65_536
"""Of each stream: 95 of 100 chat requests are smaller, and they must not wait for the large ones."""
MAX_UPLOADS_PER_ADDRESS = 32
"""Requests of one address arriving at once. Nearly all are whole with the first read; a team's others wait a moment."""
MAX_LARGE_UPLOADS = 6
"""Larger requests arriving at once, up to 56 MB of memory."""
MAX_LARGE_UPLOADS_PER_ADDRESS = 2


class Places:
    """So many for all, and of them so many for each address. Owner: Uploads."""

    def __init__(self, n_places: float, n_each: int) -> None:
        self._n_places = n_places
        self._n_each = n_each
        self._of: Counter[str] = Counter()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def n_taken(self) -> int:
        """Places taken."""
        return self._of.total()

    async def take(self, address: str) -> None:
        """Wait for a place."""
        while self.n_taken >= self._n_places or self._of[address] >= self._n_each:
            await self._changed.park()
        self._of[address] += 1

    def give_back(self, address: str) -> None:
        """Let the next one have it."""
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]
        self._changed.unpark_all()


class Uploads:
    """All that arrives. Owner: the provider."""

    def __init__(self) -> None:
        self.read = Places(math.inf, MAX_UPLOADS_PER_ADDRESS)
        """Streams that are read."""
        self.large = Places(MAX_LARGE_UPLOADS, MAX_LARGE_UPLOADS_PER_ADDRESS)
        """Of them those that are read on."""


class Upload:
    """An inbound stream that counts until its request is whole; implements ports.Stream. Owner: one exchange."""

    def __init__(self, stream: Stream, uploads: Uploads, address: str) -> None:
        """An empty ``address`` counts nobody but the peer."""
        self._stream = stream
        self._uploads = uploads
        self._address = address or stream.peer_id
        self._n_bytes = 0
        self._held: list[Places] = []
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
        if not self._is_whole:
            await self._take(self._uploads.read)
            if self._n_bytes >= FREE_UPLOAD_BYTES:
                await self._take(self._uploads.large)
        data = await self._stream.receive()
        self._n_bytes += len(data)
        return data

    async def _take(self, places: Places) -> None:
        if places not in self._held:
            await places.take(self._address)
            self._held.append(places)

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
        while self._held:
            self._held.pop().give_back(self._address)
