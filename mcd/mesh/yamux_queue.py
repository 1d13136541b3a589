"""What waits to be written on a connection: frames in order, with what one stream writes in a row in one frame."""

from __future__ import annotations

from mcd.mesh import yamux_frame as wire

MAX_DATA_BYTES = 16 * 1024 - wire.HEADER_BYTES
"""One data frame fits one Noise message of 16 KiB, so that streams take turns."""


class SendQueue:
    """Bytes in the order of sending. Owner: its Yamux."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._last_id = 0
        """Whose data frame stands at the end and may grow; 0 when none does."""
        self._last_at = 0
        """Where that frame begins."""

    def __len__(self) -> int:
        return len(self._bytes)

    def put(self, frame: bytes) -> None:
        """Add a control frame."""
        self._bytes += frame
        self._last_id = 0

    def put_data(self, stream_id: int, body: bytes | memoryview) -> None:
        """Add data of a stream: a frame, or more of the one that it just added."""
        size = len(self._bytes) - self._last_at - wire.HEADER_BYTES + len(body)
        if stream_id == self._last_id and size <= MAX_DATA_BYTES:
            wire.HEADER.pack_into(self._bytes, self._last_at, wire.VERSION, wire.DATA, 0, stream_id, size)
        else:
            self._last_id, self._last_at = stream_id, len(self._bytes)
            self._bytes += wire.encode(wire.DATA, 0, stream_id, len(body))
        self._bytes += body

    def take(self, max_bytes: int) -> bytes:
        """Remove what to write next."""
        taken = bytes(self._bytes[:max_bytes])
        del self._bytes[:max_bytes]
        self._last_id = 0
        return taken
