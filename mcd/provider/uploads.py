"""What requests may hold of our memory while they arrive: little each, and much for a few at once.

A request is judged when it is whole, and one may have nine megabytes: five hundred streams of one stranger that send
all but the last byte would hold five gigabytes, and with a hundredth of that each still fifty megabytes for every peer
id, which cost nothing. So only so many streams of one address are read at once, and beyond FREE_UPLOAD_BYTES only those
with one of a few places; until then a sender is stopped by its stream's window, and by the request timer for good.
[EX-29]

A place is worth more than a stream, so who has one must use it [EX-57], and those who wait for it have it in turn, each
address as often as any other [EX-58].
"""

from __future__ import annotations

import math
from collections import Counter, deque

import trio

from mcd.errors import PeerTimeoutError
from mcd.exchange.states import MIN_UPLOAD_BYTES_PER_S
from mcd.ids import PeerId
from mcd.ports import Stream
from mcd.units import Seconds

FREE_UPLOAD_BYTES = 65_536
"""Of each stream: 95 of 100 chat requests are smaller, and they must not wait for the large ones."""
MAX_UPLOADS_PER_ADDRESS = 32
"""Requests of one address arriving at once. Nearly all are whole with the first read; a team's others wait a moment."""
MAX_LARGE_UPLOADS = 6
"""Larger requests arriving at once, up to 56 MB of memory."""
MAX_LARGE_UPLOADS_PER_ADDRESS = 2
UPLOAD_SLACK_S = 5.0
"""How far a larger one may fall behind MIN_UPLOAD_BYTES_PER_S. An entry itself gives up after twice as long, and who
waits for a place has to be served before it does."""


class Places:
    """So many for all, and of them so many for each address. Owner: Uploads."""

    def __init__(self, n_places: float, n_each: int) -> None:
        self._n_places = n_places
        self._n_each = n_each
        self.n_taken = 0
        """Places taken."""
        self._of: Counter[str] = Counter()
        self._waiting: dict[str, deque[trio.Event]] = {}
        """Those of each address that wait, each with what tells it that it has a place."""
        self._round: dict[str, int] = {}
        """Of every address that is here, when it came or last was given a place."""
        self._n_marks = 0

    async def take(self, address: str) -> None:
        """Wait for a place."""
        if self._may_have_one(address):  # then nobody waits who may: it would have it
            self._give(address)
            return
        if address not in self._round:
            self._mark(address)
        has_place = trio.Event()
        self._waiting.setdefault(address, deque()).append(has_place)
        try:
            await has_place.wait()
        except trio.Cancelled:
            if has_place.is_set():
                self.give_back(address)
            else:
                self._waiting[address].remove(has_place)
                self._forget(address)
            raise

    def give_back(self, address: str) -> None:
        """Let the next one have it."""
        self.n_taken -= 1
        self._of[address] -= 1
        self._forget(address)
        self._deal()

    def _deal(self) -> None:
        """Give away every place that somebody may have.   [EX-58]"""
        while entitled := [address for address in self._waiting if self._may_have_one(address)]:
            address = min(entitled, key=lambda one: (self._of[one], self._round[one]))
            self._waiting[address].popleft().set()
            self._give(address)
            self._forget(address)

    def _may_have_one(self, address: str) -> bool:
        return self.n_taken < self._n_places and self._of[address] < self._n_each

    def _give(self, address: str) -> None:
        self.n_taken += 1
        self._of[address] += 1
        self._mark(address)

    def _mark(self, address: str) -> None:
        self._n_marks += 1
        self._round[address] = self._n_marks

    def _forget(self, address: str) -> None:
        """Keep nothing of an address for which there is nothing to keep."""
        if not self._waiting.get(address, True):
            del self._waiting[address]
        if not self._of[address]:
            del self._of[address]
            if address not in self._waiting:
                del self._round[address]


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
        self._due_at: Seconds = 0.0
        """When the next bytes of a larger one must have come, on trio's clock."""
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
        """See ports.Stream.receive; may wait for a place first.

        Raises:
            PeerTimeoutError: The sender has one and does not use it.   [EX-57]
        """
        if not self._is_whole:
            await self._take(self._uploads.read)
            if self._n_bytes >= FREE_UPLOAD_BYTES:
                return await self._receive_large()
        data = await self._stream.receive()
        self._n_bytes += len(data)
        return data

    async def _receive_large(self) -> bytes:
        await self._take(self._uploads.large)
        self._due_at = self._due_at or trio.current_time() + UPLOAD_SLACK_S
        with trio.CancelScope(deadline=self._due_at):
            data = await self._stream.receive()
            self._due_at += len(data) / MIN_UPLOAD_BYTES_PER_S
            return data
        raise PeerTimeoutError("the request arrives too slowly for the place that it holds")

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
