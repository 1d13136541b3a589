"""The response stream of MCS/1: numbered, typed, padded frames under a key that dies with the exchange.   [ENV-21]

    frame = type u8 | length u32 | ChaCha20-Poly1305(key, base XOR number, n u32 | data n | zeros, aad = type | length)

Only `mcd.wire.envelope`, `mcd.entry.session` and `mcd.engine.seal` may import this module.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcd.errors import EnvelopeError, LimitError
from mcd.wire.header import ENVELOPE_INVALID
from mcd.wire.messages import MAX_SEALED_FRAME_BYTES
from mcd.wire.padding import (
    FRAME_OVERHEAD_BYTES,
    FRAME_PAD_BYTES,
    MAX_FRAME_PLAIN_BYTES,
    last_frame,
    round_up,
)
from mcd.wire.payload import Private

RESPONSE_LABEL = b"modelcloud seal v1 response\0"

MAX_FRAMES = 1 << 20
MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""All frames of one answer as sent."""

FRAME_DATA, FRAME_FINAL, FRAME_ERROR = 0, 1, 2
_HEAD = struct.Struct(">BI")
_COUNT = struct.Struct(">I")
_TAG_BYTES = 16
MIN_SEALED_FRAME_BYTES = FRAME_OVERHEAD_BYTES + _COUNT.size
_END_RESERVE_BYTES = MAX_SEALED_FRAME_BYTES
"""Data may not eat the room of the last frame."""
_TOO_MUCH = "the answer exceeds what one response may hold, or has ended"


def _fail() -> NoReturn:
    raise EnvelopeError(ENVELOPE_INVALID) from None


class _Frames:
    """What both ends of a response share: the AEAD, the frame counter, the limits and the output digest."""

    __slots__ = ("_aead", "_base", "_digest", "_n_bytes", "_n_frames")

    def __init__(self, transcript_hash: bytes, response_key: bytes, k: bytes, shared: bytes) -> None:
        context = transcript_hash + response_key
        okm = HKDF(SHA256(), 76, salt=context, info=RESPONSE_LABEL + context).derive(k + shared)
        self._aead = ChaCha20Poly1305(okm[:32])
        self._base = int.from_bytes(okm[32:44], "big")
        self._digest = hashlib.sha256(okm[44:])
        self._n_frames = 0
        self._n_bytes = 0

    def _next_nonce(self, frame_bytes: int) -> bytes:
        nonce = (self._base ^ self._n_frames).to_bytes(12, "big")
        self._n_frames += 1
        self._n_bytes += frame_bytes
        return nonce

    def output_digest(self) -> bytes:
        """SHA-256(receipt salt | every data plaintext so far), for the final frame and the receipt.   [ENV-31]"""
        return self._digest.copy().digest()


class Sealer(_Frames):
    """The engine's end of one response: seals frames in order. Owner: the engine's worker."""

    __slots__ = ("_is_finished", "response_key", "transcript_hash")

    def __init__(
        self, transcript_hash: bytes, k: bytes, entry_key: bytes, ephemeral: X25519PrivateKey | None = None
    ) -> None:
        ephemeral = ephemeral or X25519PrivateKey.generate()
        self.response_key = ephemeral.public_key().public_bytes_raw()
        """Y, 32 bytes, to be sent before the first frame."""
        self.transcript_hash = transcript_hash
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(entry_key))
        super().__init__(transcript_hash, self.response_key, k, shared)
        self._is_finished = False

    def seal_data(self, data: bytes, pad_to: int = FRAME_PAD_BYTES) -> bytes:
        """One data frame, its plaintext padded to a multiple of ``pad_to``.   [ENV-21]

        Raises:
            LimitError: The frame or the answer would exceed its limit.
        """
        padded_bytes = round_up(_COUNT.size + len(data), pad_to)
        if self._n_bytes + padded_bytes + FRAME_OVERHEAD_BYTES > MAX_RESPONSE_BYTES - _END_RESERVE_BYTES:
            raise LimitError(_TOO_MUCH)
        self._digest.update(data)
        return self._seal(FRAME_DATA, data, padded_bytes)

    def seal_final(self, final: bytes) -> bytes:
        """The frame that ends a whole answer and fills its bucket; nothing can follow.   [ENV-26]"""
        return self._seal(FRAME_FINAL, final, last_frame(self._n_bytes, len(final)))

    def seal_error(self, failure: bytes) -> bytes:
        """The frame that says the request cannot be served as written; nothing can follow.   [ENV-26]"""
        return self._seal(FRAME_ERROR, failure, last_frame(self._n_bytes, len(failure)))

    def _seal(self, kind: int, data: bytes, padded_bytes: int) -> bytes:
        frame_bytes = padded_bytes + FRAME_OVERHEAD_BYTES
        is_data = kind == FRAME_DATA
        if (
            self._is_finished
            or padded_bytes > MAX_FRAME_PLAIN_BYTES
            or self._n_frames >= MAX_FRAMES - is_data
            or self._n_bytes + frame_bytes > MAX_RESPONSE_BYTES
        ):
            raise LimitError(_TOO_MUCH)
        self._is_finished = not is_data
        head = _HEAD.pack(kind, padded_bytes + _TAG_BYTES)
        plain = _COUNT.pack(len(data)) + data
        nonce = self._next_nonce(frame_bytes)
        return head + self._aead.encrypt(nonce, plain.ljust(padded_bytes, b"\0"), head)


class DataFrame(Private, frozen=True):
    """A piece of the answer; empty when it is padding."""

    plaintext: bytes


class FinalFrame(Private, frozen=True):
    """The authenticated end of a whole answer."""

    plaintext: bytes


class ErrorFrame(Private, frozen=True):
    """The engine's statement that the request cannot be served as written."""

    plaintext: bytes


Frame = DataFrame | FinalFrame | ErrorFrame
_FRAME_TYPES = (DataFrame, FinalFrame, ErrorFrame)


class _OpenFrames(_Frames):
    """The receiving half of `_Frames`."""

    __slots__ = ()

    def open(self, frame: bytes) -> Frame:
        if not MIN_SEALED_FRAME_BYTES <= len(frame) <= MAX_SEALED_FRAME_BYTES:
            _fail()
        head, sealed = frame[: _HEAD.size], frame[_HEAD.size :]
        kind, sealed_bytes = _HEAD.unpack(head)
        if (
            kind > FRAME_ERROR
            or sealed_bytes != len(sealed)
            or self._n_frames >= MAX_FRAMES
            or self._n_bytes + len(frame) > MAX_RESPONSE_BYTES
        ):
            _fail()
        plain = self._aead.decrypt(self._next_nonce(len(frame)), sealed, head)
        end = _COUNT.size + _COUNT.unpack_from(plain)[0]
        if end > len(plain) or plain.count(0, end) != len(plain) - end:
            _fail()
        data = plain[_COUNT.size : end]
        if kind == FRAME_DATA:
            self._digest.update(data)
        frame_type: type[Frame] = _FRAME_TYPES[kind]
        return frame_type(data)


class Opener:
    """The entry's end of one response. After any failure it is dead and every call fails alike.   [ENV-40]"""

    __slots__ = ("_ephemeral", "_frames", "_k", "_state", "transcript_hash")

    def __init__(self, transcript_hash: bytes, k: bytes, ephemeral: X25519PrivateKey) -> None:
        self.transcript_hash = transcript_hash
        """th: names this very request in the receipt."""
        self._k = k
        self._ephemeral = ephemeral
        self._frames: _OpenFrames | None = None
        self._state: Literal["sealed", "open", "finished", "dead"] = "sealed"

    @property
    def is_finished(self) -> bool:
        """A final or error frame was opened; a stream that ends before that was cut off.   [ENV-25]"""
        return self._state == "finished"

    def start(self, response_key: bytes) -> None:
        """Derive the response keys from the engine's Y; once.

        Raises:
            EnvelopeError: Y is unusable, or this is the second one.
        """
        was_sealed, self._state = self._state == "sealed", "dead"
        if not was_sealed:
            _fail()
        try:
            shared = self._ephemeral.exchange(X25519PublicKey.from_public_bytes(response_key))
        except ValueError:  # wrong length, or a low-order point
            _fail()
        self._frames = _OpenFrames(self.transcript_hash, response_key, self._k, shared)
        self._state = "open"

    def open_frame(self, frame: bytes) -> Frame:
        """Open the next frame in order.

        Raises:
            EnvelopeError: It is not the next frame the engine sealed; the answer must be discarded unpaid.
        """
        was_open, self._state = self._state == "open", "dead"
        if not was_open or self._frames is None:
            _fail()
        try:
            opened = self._frames.open(frame)
        except InvalidTag:
            _fail()
        self._state = "open" if isinstance(opened, DataFrame) else "finished"
        return opened

    def output_digest(self) -> bytes:
        """What the final frame and the receipt must state.   [ENV-31]

        Raises:
            EnvelopeError: No response was opened.
        """
        if self._frames is None:
            _fail()
        return self._frames.output_digest()
