"""Our yamux: one connection, many streams, wire-compatible with every libp2p.

Why not the one py-libp2p 0.8.1 ships: it loses the whole connection when a write is cancelled, buffers without
bound for a peer that ignores the window, hangs at the 257th stream, resets a stream whose reader pauses for 5 s,
never notices a frozen peer, and costs 15 times the CPU per chunk.

How it works. Streams append frames to one send buffer; one task moves that buffer to the secured connection, up
to 16 KiB a write, so that everything queued since the last write shares one Noise message and one system call.
Only that task writes, and nobody cancels it but the connection's end: a cancelled application write can tear at
most its own stream. One task reads and hands bodies to streams. One pings and declares a silent peer dead.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from mcd.errors import RemoteProtocolError
from mcd.mesh import yamux_frame as wire
from mcd.mesh.bell import Bell
from mcd.mesh.limits import ReceiveBudget
from mcd.mesh.yamux_pulse import Pulse, Stall
from mcd.mesh.yamux_queue import SendQueue
from mcd.mesh.yamux_stream import YamuxStream

MAX_STREAMS = 1024
"""Inbound streams of one connection, open at once; more are reset."""
MAX_BACKLOG = 256
"""Streams opened and not yet acknowledged, in each direction (go-yamux's AcceptBacklog)."""
OPEN_S = 5.0
"""For a place in the backlog; a peer that leaves 256 streams unacknowledged is not serving."""
MAX_WRITE_BYTES = 16 * 1024
"""One Noise message. Stock readers give up on a message that arrives in over 100 pieces, so keep it small."""
MAX_SEND_QUEUE_BYTES = 128 * 1024
"""Writers wait above this: enough to fill a fast link, little enough that a token never queues long."""
MAX_CONTROL_QUEUE_BYTES = 512 * 1024
"""Control frames pass the limit above up to here; a peer that makes us queue more reads nothing we send."""
MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Received and unread on one connection; beyond it the stream that holds most is reset."""
HALF_CLOSED_S = 300.0
"""A stream we have closed and whose peer stays silent is reset after this (go-yamux's StreamCloseTimeout)."""
ABANDONED_S = 30.0
"""The same for a stream whose handler has returned."""
CLOSE_FLUSH_S = 0.3
RELEASE_S = 1.0
"""Closing a socket and the swarm's bookkeeping of it, each."""


class Yamux(IMuxedConn):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """One multiplexed connection. ``start`` runs it; every other method may be called from any task."""

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        budget: ReceiveBudget | None = None,
    ) -> None:
        self.secured_conn = secured_conn
        self.peer_id = peer_id
        self.on_close = on_close
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.end_reason = ""
        """Why the connection ended, a fixed phrase; empty while it lives."""
        self._is_initiator: bool = secured_conn.is_initiator if is_initiator is None else is_initiator
        self._budget = budget if budget is not None else ReceiveBudget()
        self.n_unread_bytes = 0
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if self._is_initiator else 2
        self._n_inbound = 0
        self._n_unacked = 0
        self._backlog: deque[YamuxStream] = deque()
        self._arrived = Bell()
        self._queue = SendQueue()
        self._n_written = 0
        self._is_writing = False
        self._work = Bell()
        self._room = Bell()
        self._is_dead = False
        self._is_peer_going = False
        self._scope = trio.CancelScope()
        self._pulse = Pulse(trio.current_time())
        self._last_sweep_s = trio.current_time()

    # --- what libp2p asks -------------------------------------------------------------------------------------

    @property
    def is_initiator(self) -> bool:
        """True when we dialled."""
        return self._is_initiator

    @property
    def is_established(self) -> bool:
        """True between start and end."""
        return self.event_started.is_set() and not self._is_dead

    @property
    def is_closed(self) -> bool:
        """True once the connection has ended."""
        return self._is_dead

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the peer."""
        return self.secured_conn.get_remote_address()  # type: ignore[no-any-return]  # libp2p ships no types

    def get_transport_addresses(self) -> list[Any]:
        """Multiaddrs of the underlying connection."""
        return self.secured_conn.get_transport_addresses()  # type: ignore[no-any-return]  # as above

    def get_connection_type(self) -> Any:
        """Direct or relayed."""
        return self.secured_conn.get_connection_type()

    async def open_stream(self) -> YamuxStream:
        """Open a stream; waits at most OPEN_S while MAX_BACKLOG of ours are unacknowledged.

        Raises:
            MuxedConnUnavailable: The connection has ended, the peer is leaving or takes no more streams.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._n_unacked >= MAX_BACKLOG:
            await self._wait_for_place()
        if self._is_dead or self._is_peer_going or self._next_id > 0xFFFF_FFFF:
            raise MuxedConnUnavailable("connection has ended")
        stream = YamuxStream(self._next_id, self, is_outbound=True)
        self._next_id += 2
        self._n_unacked += 1
        self._streams[stream.stream_id] = stream
        self.put(wire.encode(wire.WINDOW, wire.SYN, stream.stream_id, 0))
        return stream

    async def _wait_for_place(self) -> None:
        with trio.move_on_after(OPEN_S):
            while self._n_unacked >= MAX_BACKLOG and not self._is_dead:
                await self._room.wait()
            return
        raise MuxedConnUnavailable("the peer leaves its new streams unacknowledged")

    async def accept_stream(self) -> YamuxStream:
        """The next stream the peer opened, acknowledged by this call.

        Raises:
            MuxedConnUnavailable: The connection has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._is_dead:
            if not self._backlog:
                await self._arrived.wait()
                continue
            stream = self._backlog.popleft()
            if not stream.is_closed:
                self._queue.put(wire.encode(wire.WINDOW, wire.ACK, stream.stream_id, 0))
                return stream  # no ring: the answer to the stream's negotiation is about to take it along
        raise MuxedConnUnavailable("connection has ended")

    async def start(self) -> None:
        """Run the connection until it ends, whoever ends it."""
        self._pulse = Pulse(trio.current_time())
        self._budget.members.add(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop)
                    nursery.start_soon(self._watch)
                    self.event_started.set()
                    await self._read_loop()
        finally:
            self._end("closed")
            with trio.CancelScope(shield=True):
                await self._release()

    async def close(self) -> None:
        """Say go-away, flush for at most CLOSE_FLUSH_S, end. Idempotent."""
        if self._is_dead:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_FLUSH_S):
            self.put(wire.encode(wire.GO_AWAY, 0, 0, wire.GO_AWAY_NORMAL))
            while (self._queue or self._is_writing) and self.is_established:
                await self._room.wait()
        self._end("closed by us")
        if not self.event_started.is_set():
            with trio.CancelScope(shield=True):
                await self._release()

    # --- what streams ask (yamux_stream.Outlet) ---------------------------------------------------------------

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip of our pings; None before the first answer."""
        return self._pulse.rtt_s

    @property
    def n_streams(self) -> int:
        """Streams now open, both directions."""
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        """False while writers must wait."""
        return len(self._queue) < MAX_SEND_QUEUE_BYTES

    async def wait_for_room(self) -> None:
        """Return when the queue may have become shorter, or the connection has ended."""
        if not self._is_dead:
            await self._room.wait()

    def put(self, frame: bytes) -> None:
        """Queue a control frame; a peer that lets too many pile up ends the connection."""
        if self._is_dead:
            return
        self._queue.put(frame)
        if len(self._queue) > MAX_SEND_QUEUE_BYTES + MAX_CONTROL_QUEUE_BYTES:
            self._end("peer does not read")
        self._work.ring()

    def put_data(self, stream_id: int, body: bytes | memoryview) -> None:
        """Queue data of a stream."""
        if self._is_dead:
            return
        self._queue.put_data(stream_id, body)
        self._work.ring()

    def released(self, n_bytes: int) -> None:
        """So many unread bytes are unread no more."""
        self.n_unread_bytes -= n_bytes
        self._budget.n_bytes -= n_bytes

    def shed(self) -> None:
        """Reset the stream that holds most unread bytes."""
        if self._streams:
            max(self._streams.values(), key=lambda stream: stream.n_unread_bytes).reset_now()

    def forget(self, stream: YamuxStream) -> None:
        """Take an ended stream off the books."""
        if self._streams.pop(stream.stream_id, None) is None:
            return
        if not stream.is_outbound:
            self._n_inbound -= 1
        self._acknowledged(stream)

    # --- tasks ------------------------------------------------------------------------------------------------

    async def _write_loop(self) -> None:
        try:
            while True:
                while not self._queue:
                    await self._work.wait()
                self._is_writing = True
                await self.secured_conn.write(self._queue.take(MAX_WRITE_BYTES))
                self._is_writing = False
                self._n_written += 1
                if len(self._queue) < MAX_SEND_QUEUE_BYTES // 2:
                    self._room.ring()
        except Exception:  # noqa: BLE001  # supervision: the layers below raise a dozen types, each ends the connection
            self._end("write failed")

    async def _read_loop(self) -> None:
        parser = wire.FrameParser()
        try:
            while data := await self.secured_conn.read(None):
                self._pulse.heard_at_s = trio.current_time()
                for frame in parser.feed(data):
                    self._handle(frame)
        except RemoteProtocolError as error:
            self._end(error.message)
        except Exception:  # noqa: BLE001  # supervision: peer-made bytes may fail anywhere below; it ends this connection only
            self._end("read failed")
        self._end("closed by peer")

    async def _watch(self) -> None:
        """Ping, and end the connection of a peer that was not heard, or did not read, for too long."""
        stall = Stall(trio.current_time())
        while True:
            await trio.sleep_until(self._pulse.wake_at_s())
            now_s = trio.current_time()
            if stall.judge(self._n_written, self._is_writing, now_s):
                self._end("write stalled")
                return
            match self._pulse.judge(now_s):
                case "dead":
                    self._end("peer is silent")
                    return
                case "ping":
                    self.put(wire.encode(wire.PING, wire.SYN, 0, self._pulse.ping_id))
                    self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        """Reset half-closed streams whose peer has gone quiet, so that they cannot pile up."""
        if now_s - self._last_sweep_s < ABANDONED_S / 3:
            return
        self._last_sweep_s = now_s
        for stream in list(self._streams.values()):
            patience_s = ABANDONED_S if stream.is_abandoned else HALF_CLOSED_S
            if stream.is_half_closed and now_s - stream.quiet_since_s > patience_s:
                stream.reset_now()

    # --- frames -----------------------------------------------------------------------------------------------

    def _handle(self, frame: wire.Frame) -> None:
        match frame.kind:
            case wire.DATA | wire.WINDOW:
                self._handle_stream_frame(frame)
            case wire.PING:
                self._handle_ping(frame)
            case _:
                self._is_peer_going = True

    def _handle_ping(self, frame: wire.Frame) -> None:
        if frame.flags & wire.SYN:
            self.put(wire.encode(wire.PING, wire.ACK, 0, frame.value))
        else:
            self._pulse.answered(frame.value, self._pulse.heard_at_s)

    def _handle_stream_frame(self, frame: wire.Frame) -> None:
        flags = frame.flags
        stream = self._streams.get(frame.stream_id)
        if flags & wire.SYN:
            stream = self._open_inbound(frame.stream_id, stream)
        if stream is None:
            if frame.body and not flags & wire.RST:
                self.put(wire.encode(wire.WINDOW, wire.RST, frame.stream_id, 0))
            return
        if flags & wire.ACK:
            self._acknowledged(stream)
        if frame.kind == wire.WINDOW:
            stream.widen(frame.value)
        elif frame.body:
            self._take(stream, frame.body)
        if flags & wire.RST:
            stream.break_off()
        elif flags & wire.FIN:
            stream.remote_finished()

    def _take(self, stream: YamuxStream, body: bytes) -> None:
        stream.quiet_since_s = self._pulse.heard_at_s
        self.n_unread_bytes += len(body)
        self._budget.n_bytes += len(body)
        if not stream.deliver(body):
            self.released(len(body))
            raise RemoteProtocolError("peer exceeded the window of a stream")
        if self.n_unread_bytes > MAX_UNREAD_BYTES:
            self.shed()
        elif self._budget.is_exceeded:
            self._budget.shed()

    def _open_inbound(self, stream_id: int, known: YamuxStream | None) -> YamuxStream | None:
        is_ours = bool(stream_id & 1) == self._is_initiator
        if known is not None or stream_id == 0 or is_ours:
            raise RemoteProtocolError("peer opened a stream it may not open")
        if self._n_inbound >= MAX_STREAMS or len(self._backlog) >= MAX_BACKLOG:
            self.put(wire.encode(wire.WINDOW, wire.RST, stream_id, 0))
            return None
        stream = YamuxStream(stream_id, self, is_outbound=False)
        self._n_inbound += 1
        self._streams[stream_id] = stream
        self._backlog.append(stream)
        self._arrived.ring()
        return stream

    def _acknowledged(self, stream: YamuxStream) -> None:
        if not stream.is_acked:
            stream.is_acked = True
            self._n_unacked -= 1
            self._room.ring()

    # --- the end ----------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        """Mark the connection dead and wake everyone; the first reason stays."""
        if self._is_dead:
            return
        self._is_dead = True
        self.end_reason = reason
        for stream in list(self._streams.values()):
            stream.lose()
        self._arrived.ring()
        self._room.ring()
        self._scope.cancel()

    async def _release(self) -> None:
        """Close what is below and tell the swarm. Runs shielded, so each half is bounded: RELEASE_S."""
        with trio.move_on_after(RELEASE_S):
            with contextlib.suppress(Exception):  # a broken connection fails to close in many ways
                await self.secured_conn.close()
        self._budget.members.discard(self)
        self.event_closed.set()
        if self.on_close is not None:
            with trio.move_on_after(RELEASE_S):
                await self.on_close()
