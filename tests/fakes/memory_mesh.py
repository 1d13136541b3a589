"""A whole network in memory: ports.Mesh without libp2p, with injectable latency, cuts and deaths, on virtual time.

It passes the same checker as the real streams (check_stream.py). Every wait is on trio's clock, so a test under
MockClock replays minutes in milliseconds.

    async with open_net(latency_s=lambda a, b: 0.02) as net:
        entry, provider = net.mesh("A"), net.mesh("B")
        provider.serve("/mc/echo/1", handler)
        stream = await entry.open_stream("B", "/mc/echo/1", b"hello")
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from mcd.errors import McdError, StreamBrokenError
from mcd.ids import ModelDigest, PeerId
from mcd.ports import Link, Stream, StreamHandler, Verdict

WINDOW_BYTES = 256 * 1024
MAX_RECEIVE_BYTES = 64 * 1024
SILENT_S = 8.0
"""As the real muxer: a cut is noticed after so long."""
CONNECT_S = 5.0

Latency = Callable[[str, str], float]
"""One-way seconds between two peers; may be random."""


class _Pipe:
    """One direction of a stream."""

    def __init__(self, net: MemoryNet, source: PeerId, sink: PeerId) -> None:
        self.net, self.source, self.sink = net, source, sink
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.n_bytes = 0
        self.last_due_s = -math.inf
        self.finished_at_s = math.inf
        self.broken_at_s = {source: math.inf, sink: math.inf}
        self.changed = trio.lowlevel.ParkingLot()

    def due_s(self) -> float:
        """When something sent now arrives; never before what was sent earlier, never at all through a cut."""
        if self.net.is_cut(self.source, self.sink):
            return math.inf
        self.last_due_s = max(self.last_due_s, trio.current_time() + self.net.latency_s(self.source, self.sink))
        return self.last_due_s

    async def wait(self, until_s: float) -> None:
        with trio.CancelScope() as scope:
            scope.deadline = until_s
            await self.changed.park()

    def break_for(self, peer_id: PeerId, at_s: float) -> None:
        self.broken_at_s[peer_id] = min(self.broken_at_s[peer_id], at_s)
        self.changed.unpark_all()


class MemoryStream:
    """One end of a stream; implements ports.Stream."""

    def __init__(self, me: PeerId, peer_id: PeerId, incoming: _Pipe, outgoing: _Pipe, *, speaks: bool = True) -> None:
        self._me = me
        self._peer_id = peer_id
        self._in = incoming
        self._out = outgoing
        self._speaks = speaks

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        has_begun = False
        try:
            while True:
                now_s = trio.current_time()
                if now_s >= self._out.broken_at_s[self._me] or self._out.finished_at_s < math.inf:
                    raise StreamBrokenError("the stream to the peer is gone")
                if not rest:
                    return
                room = min(len(rest), WINDOW_BYTES - self._out.n_bytes)
                if room <= 0:
                    await self._out.wait(self._out.broken_at_s[self._me])
                    continue
                self._out.chunks.append((self._out.due_s(), bytes(rest[:room])))
                self._out.n_bytes += room
                self._out.changed.unpark_all()
                rest, has_begun = rest[room:], True
        except trio.Cancelled:
            if has_begun:
                self._reset()
            raise

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self._in
        while True:
            now_s = trio.current_time()
            if now_s >= pipe.broken_at_s[self._me]:
                raise StreamBrokenError("the peer reset the stream or its connection died")
            if not self._speaks and now_s >= pipe.finished_at_s:
                raise StreamBrokenError("the peer does not speak this protocol; it may run another version")
            if pipe.chunks and pipe.chunks[0][0] <= now_s:
                return self._take(now_s)
            if not pipe.chunks and now_s >= pipe.finished_at_s:
                return b""
            head_s = pipe.chunks[0][0] if pipe.chunks else pipe.finished_at_s
            await pipe.wait(min(head_s, pipe.broken_at_s[self._me]))

    def _take(self, now_s: float) -> bytes:
        taken = bytearray()
        chunks = self._in.chunks
        while chunks and chunks[0][0] <= now_s and len(taken) < MAX_RECEIVE_BYTES:
            due_s, chunk = chunks.popleft()
            room = MAX_RECEIVE_BYTES - len(taken)
            taken += chunk[:room]
            if chunk[room:]:
                chunks.appendleft((due_s, chunk[room:]))
        self._in.n_bytes -= len(taken)
        self._in.changed.unpark_all()
        return bytes(taken)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._finish()

    async def reset(self) -> None:
        self._reset()

    def abandon(self) -> None:
        self._finish()
        self._in.chunks.clear()

    def _finish(self) -> None:
        if self._out.finished_at_s == math.inf:
            self._out.finished_at_s = max(self._out.due_s(), trio.current_time())
            self._out.changed.unpark_all()

    def _reset(self) -> None:
        now_s = trio.current_time()
        if now_s >= self._in.broken_at_s[self._me]:
            return
        arrives_s = self._out.due_s()
        for pipe in (self._in, self._out):
            pipe.break_for(self._me, now_s)
            pipe.break_for(self._peer_id, arrives_s)

    def _lose(self) -> None:
        """The connection is gone: both ends know now."""
        for pipe in (self._in, self._out):
            for peer_id in (self._me, self._peer_id):
                pipe.break_for(peer_id, trio.current_time())


class MemoryMesh:
    """One peer of a MemoryNet; implements ports.Mesh."""

    def __init__(self, net: MemoryNet, peer_id: PeerId, index: int) -> None:
        self._net = net
        self._peer_id = peer_id
        self._address = f"/ip4/127.0.{index // 250}.{index % 250 + 1}/tcp/4101/p2p/{peer_id}"
        self._handlers: dict[str, StreamHandler] = {}
        self._links: dict[PeerId, tuple[bool, float]] = {}
        self._told: list[tuple[Callable[[Link], None], Callable[[PeerId], None]]] = []
        self._judge: Callable[[bytes, PeerId], Verdict] | None = None
        self._streams: dict[PeerId, list[MemoryStream]] = {}
        self.is_alive = True
        self.counts: Counter[str] = Counter()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> Sequence[str]:
        return [self._address]

    def links(self) -> Sequence[Link]:
        return [self._link(peer_id) for peer_id in self._links]

    def address_of(self, peer_id: PeerId) -> str:
        return self._net.public_addresses.get(peer_id, "")

    async def connect(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        if peer_id in self._links:
            return
        other = self._net.meshes.get(peer_id)
        if other is None or other is self or not other.is_alive:
            raise StreamBrokenError("no address of the peer answers; it may be offline or behind a NAT")
        if self._net.is_cut(self._peer_id, peer_id):
            await trio.sleep(CONNECT_S)
            raise StreamBrokenError("no address of the peer answers; it may be offline or behind a NAT")
        await trio.sleep(5 * self._net.latency_s(self._peer_id, peer_id))
        if peer_id not in self._links:
            self._net.link(self, other)

    async def open_stream(self, peer_id: PeerId, protocol: str, first: bytes) -> Stream:
        if peer_id != self._peer_id:  # to ourselves a stream needs no link, as in the real mesh
            await self.connect(peer_id, ())
        other = self._net.meshes[peer_id]
        there, back = _Pipe(self._net, self._peer_id, peer_id), _Pipe(self._net, peer_id, self._peer_id)
        handler = other._handlers.get(protocol)
        mine = MemoryStream(self._peer_id, peer_id, back, there, speaks=handler is not None)
        theirs = MemoryStream(peer_id, self._peer_id, there, back)
        self._streams.setdefault(peer_id, []).append(mine)
        self._streams[peer_id] = [stream for stream in self._streams[peer_id] if not _is_over(stream)]
        if first:
            await mine.send(first)
        self._net.nursery.start_soon(other._run_handler, handler, theirs, there.due_s())
        return mine

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    def on_record(self, judge: Callable[[bytes, PeerId], Verdict]) -> None:
        self._judge = judge

    def on_link(self, up: Callable[[Link], None], down: Callable[[PeerId], None]) -> None:
        self._told.append((up, down))

    def on_records_wanted(self, supply: Callable[[], Sequence[bytes]]) -> None:
        """Nobody asks: `publish` reaches everybody here."""

    def suggest(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Nothing to do: `open_stream` finds every peer of the net."""

    async def publish(self, record: bytes, digests: Sequence[ModelDigest]) -> None:
        """Reaches every peer of the net that is alive and not cut off, once, after one latency."""
        await trio.lowlevel.checkpoint()
        for other in list(self._net.meshes.values()):
            if other is not self and not self._net.is_cut(self._peer_id, other._peer_id):
                delay_s = self._net.latency_s(self._peer_id, other._peer_id)
                self._net.nursery.start_soon(other._hear, record, self._peer_id, delay_s)

    async def provide(self, digest: ModelDigest) -> None:
        await trio.lowlevel.checkpoint()
        self._net.providers.setdefault(digest, {})[self._peer_id] = None

    def withdraw(self, digest: ModelDigest) -> None:
        self._net.providers.get(digest, {}).pop(self._peer_id, None)

    async def find_providers(self, digest: ModelDigest) -> Sequence[PeerId]:
        await trio.lowlevel.checkpoint()
        found = [peer_id for peer_id in self._net.providers.get(digest, {}) if peer_id != self._peer_id]
        return found[:20]

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    # --- inside -----------------------------------------------------------------------------------------------

    async def _run_handler(self, handler: StreamHandler | None, stream: MemoryStream, at_s: float) -> None:
        await trio.sleep_until(at_s)
        if not self.is_alive:
            return
        if handler is None:
            stream._finish()
            return
        try:
            await handler(stream)
        except McdError:
            stream._reset()
        else:
            stream._finish()

    async def _hear(self, record: bytes, sender: PeerId, delay_s: float) -> None:
        await trio.sleep(delay_s)
        if self.is_alive and self._judge is not None:
            self.counts[f"records_{self._judge(record, sender)}"] += 1

    def _link(self, peer_id: PeerId) -> Link:
        is_outbound, since_s = self._links[peer_id]
        rtt_s = self._net.latency_s(self._peer_id, peer_id) + self._net.latency_s(peer_id, self._peer_id)
        address = self._net.meshes[peer_id]._address.partition("/p2p/")[0]
        return Link(peer_id, address, "direct tcp", is_outbound, rtt_s, since_s)

    def _up(self, peer_id: PeerId, *, is_outbound: bool) -> None:
        self._links[peer_id] = (is_outbound, trio.current_time())
        for up, _ in self._told:
            up(self._link(peer_id))

    def _down(self, peer_id: PeerId) -> None:
        if self._links.pop(peer_id, None) is None:
            return
        for stream in self._streams.pop(peer_id, []):
            stream._lose()
        for _, down in self._told:
            down(peer_id)


class MemoryNet:
    """The network: who exists, how far apart they are, and what is broken between them."""

    def __init__(self, nursery: trio.Nursery, latency_s: Latency) -> None:
        self.nursery = nursery
        self.latency_s = latency_s
        self.meshes: dict[PeerId, MemoryMesh] = {}
        self.providers: dict[ModelDigest, dict[PeerId, None]] = {}
        self.public_addresses: dict[PeerId, str] = {}
        """What `Mesh.address_of` says; set it."""
        self._cuts: set[frozenset[str]] = set()

    def mesh(self, peer_id: str) -> MemoryMesh:
        """A new peer, or a dead one come back without its links."""
        name = PeerId(peer_id)
        self.meshes[name] = MemoryMesh(self, name, len(self.meshes))
        return self.meshes[name]

    def is_cut(self, left: str, right: str) -> bool:
        return frozenset((left, right)) in self._cuts

    def cut(self, left: str, right: str) -> None:
        """Lose every byte between two peers from now on; both notice after SILENT_S."""
        self._cuts.add(frozenset((left, right)))
        self.nursery.start_soon(self._notice, PeerId(left), PeerId(right))

    def heal(self, left: str, right: str) -> None:
        """Undo ``cut``; links lost meanwhile stay lost, and so does what was sent."""
        self._cuts.discard(frozenset((left, right)))

    def unlink(self, left: str, right: str) -> None:
        """End the link between two peers now, with every stream on it."""
        for one, other in ((PeerId(left), PeerId(right)), (PeerId(right), PeerId(left))):
            if one in self.meshes:
                self.meshes[one]._down(other)

    def kill(self, peer_id: str) -> None:
        """A peer's process dies; its neighbours notice at once, as the kernel resets its connections."""
        dead = self.meshes[PeerId(peer_id)]
        dead.is_alive = False
        for other in list(dead._links):
            self.unlink(peer_id, other)

    def link(self, dialler: MemoryMesh, other: MemoryMesh) -> None:
        """Connect two peers now."""
        dialler._up(other.peer_id, is_outbound=True)
        other._up(dialler.peer_id, is_outbound=False)

    async def _notice(self, left: PeerId, right: PeerId) -> None:
        await trio.sleep(SILENT_S)
        if self.is_cut(left, right):
            self.unlink(left, right)


def _is_over(stream: MemoryStream) -> bool:
    return trio.current_time() >= stream._in.broken_at_s[stream._me]


@asynccontextmanager
async def open_net(latency_s: Latency = lambda _a, _b: 0.01) -> AsyncIterator[MemoryNet]:
    """A network for the time of a test; leaving ends everything in it."""
    async with trio.open_nursery() as nursery:
        yield MemoryNet(nursery, latency_s)
        nursery.cancel_scope.cancel()
