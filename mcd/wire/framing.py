"""Cut a byte stream into frames: a 4-byte big-endian length, then that many bytes.   [WIRE-01]

The length is judged as soon as its four bytes are there, so a peer that announces 4 GiB costs us four bytes. What
a reader holds is what it was fed: whoever reads a stream takes the frames out after each read and stops reading
while they wait (`n_buffered`).
"""

from __future__ import annotations

from mcd.errors import LimitError, LocalProtocolError, RemoteProtocolError
from mcd.wire.messages import MAX_REQUEST_FRAME_BYTES

LENGTH_BYTES = 4
"""Room for 4 GiB; two bytes would not hold a request, and a varint would give one length many spellings."""


def frame(body: bytes) -> bytes:
    """Put the length before ``body``.   [WIRE-02]

    Raises:
        LocalProtocolError: ``body`` is empty; a frame always holds a message.
        LimitError: ``body`` is longer than the largest message there is.
    """
    if not body:
        raise LocalProtocolError("refusing to send an empty frame")
    if len(body) > MAX_REQUEST_FRAME_BYTES:
        raise LimitError(f"a frame of {len(body)} bytes exceeds {MAX_REQUEST_FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader:
    """Collects what was received and hands out whole frames. Owner: whoever reads the stream.

    After an error it stays broken: a stream out of step cannot be brought back.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """Largest body accepted now; may change between frames, as the state of the exchange does."""
        self._buffer = bytearray()
        self._fault: str | None = None

    @property
    def n_buffered(self) -> int:
        """Bytes fed and not yet handed out."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add received bytes. Never raises; `next_frame` judges them. After an error they are dropped."""
        if self._fault is None:
            self._buffer += data

    def next_frame(self) -> bytes | None:
        """The body of the next whole frame; None when more bytes are needed.

        Raises:
            RemoteProtocolError: The next frame is empty or longer than ``max_bytes``.   [WIRE-03, WIRE-04]
        """
        if self._fault is not None:
            raise RemoteProtocolError(self._fault)
        if len(self._buffer) < LENGTH_BYTES:
            return None
        n_body = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if n_body == 0 or n_body > self.max_bytes:
            self._fault = FRAME_EMPTY if n_body == 0 else FRAME_TOO_LARGE
            self._buffer.clear()
            raise RemoteProtocolError(self._fault)
        end = LENGTH_BYTES + n_body
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[LENGTH_BYTES:end])
        del self._buffer[:end]  # CPython moves the start of a bytearray instead of its content: linear overall
        return body


FRAME_EMPTY = "the peer sent an empty frame"
FRAME_TOO_LARGE = "the peer announced a frame over the limit"
