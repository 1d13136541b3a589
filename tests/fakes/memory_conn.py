"""A secured connection in memory, for muxers: latency, stalls and odd splits, on trio's clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from libp2p.io.exceptions import ConnectionClosedError
from trio.testing import wait_all_tasks_blocked

from mcd.mesh import yamux_frame as wire
from mcd.mesh.yamux import Yamux
from mcd.mesh.yamux_stream import YamuxStream


class MemoryConn:
    """One end; what libp2p calls ISecureConn, as far as muxers use it."""

    def __init__(self, name: str, *, is_initiator: bool, latency_s: float, splits: random.Random | None) -> None:
        self.name = name
        self.is_initiator = is_initiator
        self.latency_s = latency_s
        self.splits = splits
        self.other: MemoryConn
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.changed = trio.lowlevel.ParkingLot()
        self.is_closed = False
        self.is_stalled = False
        """True: our writes never return, as when the peer does not read."""
        self.is_lost = False
        """True: our writes vanish."""
        self.n_writes = 0
        self.max_write_bytes = 0

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self.is_stalled and not self.is_closed:
            await self.changed.park()
        if self.is_closed or self.other.is_closed:
            raise ConnectionClosedError("closed")
        self.n_writes += 1
        self.max_write_bytes = max(self.max_write_bytes, len(data))
        if not self.is_lost:
            for piece in self._pieces(data):
                self.other.chunks.append((trio.current_time() + self.latency_s, piece))
            self.other.changed.unpark_all()

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.chunks:
                due_s, piece = self.chunks[0]
                if trio.current_time() < due_s:
                    await trio.sleep_until(due_s)
                    continue
                self.chunks.popleft()
                if n is not None and len(piece) > n:
                    self.chunks.appendleft((due_s, piece[n:]))
                    piece = piece[:n]
                return piece
            if self.is_closed or self.other.is_closed:
                raise ConnectionClosedError("closed")
            await self.changed.park()

    async def close(self) -> None:
        self.is_closed = True
        self.changed.unpark_all()
        self.other.changed.unpark_all()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        return ("127.0.0.1", 4101)

    def get_transport_addresses(self) -> list[object]:
        return []

    def get_connection_type(self) -> str:
        return "direct"

    def _pieces(self, data: bytes) -> list[bytes]:
        if self.splits is None:
            return [data]
        pieces = []
        while data:
            size = self.splits.choice((1, 2, 11, 12, 13, 100, 5000, len(data)))
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def conn_pair(*, latency_s: float = 0.0, seed: int | None = None) -> tuple[MemoryConn, MemoryConn]:
    """Initiator and acceptor; with a seed every write arrives in odd pieces."""
    splits = random.Random(seed) if seed is not None else None
    left = MemoryConn("left", is_initiator=True, latency_s=latency_s, splits=splits)
    right = MemoryConn("right", is_initiator=False, latency_s=latency_s, splits=splits)
    left.other, right.other = right, left
    return left, right


class RawPeer:
    """The other end of a Yamux under test, frame by frame, with no manners of its own."""

    def __init__(self, conn: MemoryConn) -> None:
        self.conn = conn
        self.frames: list[wire.Frame] = []
        self.answers_pings = True

    async def run(self) -> None:
        """Collect what the Yamux sends; answer pings; return at the end of the connection."""
        parser = wire.FrameParser()
        with suppress(ConnectionClosedError):
            while True:
                for frame in parser.feed(await self.conn.read(None)):
                    if frame.kind != wire.PING:
                        self.frames.append(frame)
                    elif frame.flags & wire.SYN and self.answers_pings:
                        await self.send(wire.PING, wire.ACK, 0, frame.value)

    async def send(self, kind: int, flags: int, stream_id: int, value: int = 0, body: bytes = b"") -> None:
        await self.conn.write(wire.encode(kind, flags, stream_id, value or len(body)) + body)

    async def data(self, stream_id: int, body: bytes, flags: int = 0) -> None:
        await self.send(wire.DATA, flags, stream_id, len(body), body)

    def sent(self, kind: int, flags: int = 0) -> list[wire.Frame]:
        """Frames of a kind that carry all of ``flags``."""
        return [frame for frame in self.frames if frame.kind == kind and frame.flags & flags == flags]


@asynccontextmanager
async def yamux_and_peer(*, latency_s: float = 0.0) -> AsyncIterator[tuple[Yamux, RawPeer]]:
    """Our Yamux, dialled by a RawPeer."""
    theirs, ours = conn_pair(latency_s=latency_s)
    muxer, peer = Yamux(ours, "peer"), RawPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        nursery.start_soon(peer.run)
        await muxer.event_started.wait()
        yield muxer, peer
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_yamux(*, latency_s: float = 0.0, seed: int | None = None) -> AsyncIterator[tuple[Yamux, Yamux]]:
    """Two of ours, wired to each other."""
    left_conn, right_conn = conn_pair(latency_s=latency_s, seed=seed)
    left, right = Yamux(left_conn, "right"), Yamux(right_conn, "left")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.start)
        nursery.start_soon(right.start)
        await left.event_started.wait()
        await right.event_started.wait()
        yield left, right
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Let everything happen that needs no time to pass."""
    await wait_all_tasks_blocked(0.001)


async def read_exactly(stream: YamuxStream, n_bytes: int) -> bytes:
    got = bytearray()
    while len(got) < n_bytes:
        got += await stream.read(65_536)
    return bytes(got)
