"""The frames of yamux 1.0 (github.com/hashicorp/yamux/blob/master/spec.md): encode one, parse many, no I/O.

A frame is a 12-byte header and, for data frames only, that many bytes of body:

    version 1 | type 1 | flags 2 | stream id 4 | length 4      big endian

``length`` is the body's size in a data frame, the window's growth in a window update, an opaque value in a ping
and the reason in a go-away.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from mcd.errors import RemoteProtocolError

HEADER = struct.Struct("!BBHII")
HEADER_BYTES: Final = 12
VERSION: Final = 0

DATA: Final = 0
WINDOW: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8
_AT_END = FIN | RST
"""Flags that speak of what follows the body; the others of what precedes it."""

GO_AWAY_NORMAL: Final = 0

INITIAL_WINDOW_BYTES: Final = 256 * 1024
"""Both sides of every new stream may send this much unasked; fixed by the specification."""


class Frame(NamedTuple):
    """One frame, or one piece of a data frame whose body came in pieces."""

    kind: int
    flags: int
    stream_id: int
    value: int
    """The header's length; in a piece of a body, the piece's size."""
    body: bytes = b""


def encode(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    """A header; the caller appends the body of a data frame."""
    return HEADER.pack(VERSION, kind, flags, stream_id, value)


class FrameParser:
    """Turns received bytes into frames, holding at most one header: bodies are passed on as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_left = 0
        self._stream_id = 0
        self._end_flags = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by ``data``, and the part of a body it holds.

        Raises:
            RemoteProtocolError: Not yamux 1.0; nothing after it can be understood.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at, end = 0, len(buffer)
        while True:
            if self._body_left:
                at = self._piece(at, end, frames)
                if self._body_left:
                    break
            if end - at < HEADER_BYTES:
                break
            version, kind, flags, stream_id, value = HEADER.unpack_from(buffer, at)
            if version != VERSION or kind > GO_AWAY:
                raise RemoteProtocolError("peer sent a frame that is not yamux 1.0")
            at += HEADER_BYTES
            if kind == DATA and value > end - at:
                frames.append(Frame(DATA, flags & ~_AT_END, stream_id, 0))
                self._body_left, self._stream_id, self._end_flags = value, stream_id, flags & _AT_END
            elif kind == DATA:
                frames.append(Frame(DATA, flags, stream_id, value, bytes(buffer[at : at + value])))
                at += value
            else:
                frames.append(Frame(kind, flags, stream_id, value))
        del buffer[:at]
        return frames

    def _piece(self, at: int, end: int, frames: list[Frame]) -> int:
        """Take what has arrived of the body in progress; returns where the buffer goes on."""
        size = min(self._body_left, end - at)
        if size:
            self._body_left -= size
            flags = 0 if self._body_left else self._end_flags
            frames.append(Frame(DATA, flags, self._stream_id, size, bytes(self._buffer[at : at + size])))
        return at + size
