"""One yamux stream: two windows, two halves, and what to do when its reader or writer is slow.

Both windows are enforced. Ours is granted back only as the application reads, so that a slow reader stops its own
sender and nobody else; when a reader outruns the round trip, its window doubles up to MAX_WINDOW_BYTES. The
peer's is what we may still send: ``write`` waits for it without end, because a paused reader is not an error.
"""

from __future__ import annotations

from typing import Protocol

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from mcd.mesh import yamux_frame as wire
from mcd.mesh.bell import Bell
from mcd.mesh.yamux_queue import MAX_DATA_BYTES

MAX_WINDOW_BYTES = 1024 * 1024
"""10 MB/s at 100 ms round trip; 256 KiB alone would give 2.5."""
MAX_SEND_WINDOW_BYTES = 16 * 1024 * 1024
"""A peer that grants more is clipped: we never need it, and its sum must not overflow anything."""


class Outlet(Protocol):
    """What a stream needs of its connection. Implemented by Yamux."""

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip, None before the first answer."""
        ...

    def put(self, frame: bytes) -> None:
        """Queue a control frame; never waits."""
        ...

    def put_data(self, stream_id: int, body: bytes | memoryview) -> None:
        """Queue at most MAX_DATA_BYTES of a stream; call only while ``has_room``."""
        ...

    @property
    def has_room(self) -> bool:
        """False while the send queue is long."""
        ...

    async def wait_for_room(self) -> None:
        """Return when the send queue may have become shorter."""
        ...

    def released(self, n_bytes: int) -> None:
        """``n_bytes`` received before are no longer held."""
        ...

    def forget(self, stream: YamuxStream) -> None:
        """Both halves of ``stream`` are over."""
        ...

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the peer."""
        ...


class YamuxStream(IMuxedStream):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """A stream of a Yamux connection; libp2p's IMuxedStream, but with every limit kept."""

    def __init__(self, stream_id: int, connection: Outlet, *, is_outbound: bool) -> None:
        self.stream_id = stream_id
        self.muxed_conn = connection
        self.is_outbound = is_outbound
        self.is_acked = not is_outbound
        """False while the peer has not answered our SYN."""
        self.quiet_since_s = trio.current_time()
        """When something last happened; a half-closed stream with nothing left to say is ended by it."""
        self.is_abandoned = False
        self._outlet = connection
        self._received = bytearray()
        self._receive_left = wire.INITIAL_WINDOW_BYTES
        self._receive_window = wire.INITIAL_WINDOW_BYTES
        self._consumed = 0
        self._granted_at_s = self.quiet_since_s
        self._send_left = wire.INITIAL_WINDOW_BYTES
        self._is_reset = False
        self._is_lost = False
        self._has_remote_finished = False
        self._has_finished = False
        self._is_counted = True
        """Whether our unread bytes still weigh on the connection's budget."""
        self._changed = Bell()

    # --- the application's side -------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """What has arrived, at least one byte and at most ``n``.

        Raises:
            MuxedStreamEOF: The peer has closed its half and all was read.
            MuxedStreamReset: Either side reset the stream, or the connection is gone.
        """
        while not self._received:
            if self._is_reset:
                raise MuxedStreamReset("stream was reset")
            if self._has_remote_finished:
                raise MuxedStreamEOF("peer closed its half")
            if self._is_lost:
                raise MuxedStreamReset("connection is gone")
            await self._changed.wait()
        if n is None or n < 0 or n >= len(self._received):
            data = bytes(self._received)
            self._received.clear()
        else:
            data = bytes(self._received[:n])
            del self._received[:n]
        self._grant(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Queue all of ``data``, waiting for the peer's window and for room on the connection.

        Cancelling it before the last byte is queued resets this stream, since what the peer got is a torn
        message; the connection and its other streams never notice.

        Raises:
            MuxedStreamClosed: Our half is closed already.
            MuxedStreamReset: Either side reset the stream, or the connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        has_begun = False
        try:
            while rest:
                self._check_writable()
                if self._send_left <= 0:
                    await self._changed.wait()
                elif not self._outlet.has_room:
                    await self._outlet.wait_for_room()
                else:
                    size = min(len(rest), self._send_left, MAX_DATA_BYTES)
                    self._send_left -= size
                    self._outlet.put_data(self.stream_id, rest[:size])
                    rest, has_begun = rest[size:], True
        except trio.Cancelled:
            if has_begun:
                self.reset_now()
            raise
        self._check_writable()

    async def close(self) -> None:
        """End our half; what was written before still arrives."""
        self.finish()
        await trio.lowlevel.checkpoint_if_cancelled()

    close_write = close

    async def reset(self) -> None:
        """End both halves at once."""
        self.reset_now()
        await trio.lowlevel.checkpoint_if_cancelled()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: trio's cancel scopes are the deadlines here.

        Raises:
            NotImplementedError: Always; nothing in libp2p 0.8.1 calls it.
        """
        raise NotImplementedError("use a cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the connection."""
        return self._outlet.get_remote_address()

    async def __aenter__(self) -> YamuxStream:
        return self

    # --- without waiting --------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End our half now."""
        if self._has_finished or self._is_reset or self._is_lost:
            return
        self._has_finished = True
        self.quiet_since_s = trio.current_time()
        self._outlet.put(wire.encode(wire.WINDOW, wire.FIN, self.stream_id, 0))
        self._changed.ring()
        self._forget_if_over()

    def reset_now(self) -> None:
        """End both halves now and tell the peer, unless it is over already."""
        if self.is_closed:
            self._is_reset = True
            self._drop()
            return
        self._outlet.put(wire.encode(wire.WINDOW, wire.RST, self.stream_id, 0))
        self.break_off()

    def abandon(self) -> None:
        """Say that nobody will read again: end our half, drop what comes; the connection resets it after a while."""
        self.finish()
        self.is_abandoned = True
        self._drop()

    def take(self, prefix: bytes) -> bool:
        """Read ``prefix`` if all of it has arrived and nothing is before it; else read nothing."""
        if not self._received.startswith(prefix):
            return False
        del self._received[: len(prefix)]
        self._grant(len(prefix))
        return True

    @property
    def is_closed(self) -> bool:
        """True when both halves are over."""
        return self._is_reset or self._is_lost or (self._has_finished and self._has_remote_finished)

    @property
    def is_half_closed(self) -> bool:
        """True when only the peer's half is still open."""
        return self._has_finished and not self._has_remote_finished

    @property
    def n_unread_bytes(self) -> int:
        """Received and not yet read."""
        return len(self._received)

    # --- the connection's side --------------------------------------------------------------------------------

    def deliver(self, body: bytes) -> bool:
        """Take received bytes; False when the peer has sent more than we granted."""
        self._receive_left -= len(body)
        if self._receive_left < 0 or self._has_remote_finished:
            return False
        if self.is_abandoned or self._is_reset:
            self._outlet.released(len(body))
            return True
        self._received += body
        self._changed.ring()
        return True

    def widen(self, n_bytes: int) -> None:
        """The peer lets us send ``n_bytes`` more."""
        self._send_left = min(self._send_left + n_bytes, MAX_SEND_WINDOW_BYTES)
        self._changed.ring()

    def remote_finished(self) -> None:
        """The peer closed its half."""
        self._has_remote_finished = True
        self.quiet_since_s = trio.current_time()
        self._changed.ring()
        self._forget_if_over()

    def break_off(self) -> None:
        """Either side has reset the stream."""
        self._is_reset = True
        self._drop()
        self._leave()

    def lose(self) -> None:
        """The connection has ended; what was received stays readable."""
        self._is_lost = True
        self._leave()

    def _check_writable(self) -> None:
        if self._is_reset or self._is_lost:
            raise MuxedStreamReset("stream was reset")
        if self._has_finished:
            raise MuxedStreamClosed("our half is closed")

    def _grant(self, n_bytes: int) -> None:
        if self._is_counted:
            self._outlet.released(n_bytes)
        self._consumed += n_bytes
        if self._consumed < self._receive_window // 4 or self._has_remote_finished or self._is_reset:
            return
        now_s = trio.current_time()
        rtt_s = self._outlet.rtt_s
        if rtt_s is not None and now_s - self._granted_at_s < 2 * rtt_s and self._receive_window < MAX_WINDOW_BYTES:
            self._consumed += self._receive_window
            self._receive_window *= 2
        self._granted_at_s = now_s
        self._outlet.put(wire.encode(wire.WINDOW, 0, self.stream_id, self._consumed))
        self._receive_left += self._consumed
        self._consumed = 0

    def _drop(self) -> None:
        if self._is_counted:
            self._outlet.released(len(self._received))
        self._received.clear()

    def _forget_if_over(self) -> None:
        """Leave the connection once both halves are over; what is unread is the application's to hold."""
        if self._has_finished and self._has_remote_finished:
            self._leave()

    def _leave(self) -> None:
        if self._is_counted:
            self._outlet.released(len(self._received))
        self._is_counted = False
        self._changed.ring()
        self._outlet.forget(self)
