r"""The clear header of a sealed request: what relays and both daemons see, bound into the seal by MCS/1.   [ENV-01]

Fixed layout, big-endian, 136 bytes: ver u8 | suite u16 | request_id 16 | provider 32 | kid 8 | model_digest 32 |
quote_hash 32 | issued_ms u64 | ttl_ms u32 | flags u8.
"""

from __future__ import annotations

import struct

import msgspec

from mcd.errors import EnvelopeError
from mcd.wire.messages import HEADER_BYTES

VERSION = 1
SUITE_X25519 = 1
"""DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305."""
SUITE_XWING = 2
"""X-Wing (ML-KEM-768 with X25519), HKDF-SHA256, ChaCha20Poly1305: the default; survives a quantum recorder."""
SUITES = (SUITE_XWING, SUITE_X25519)
"""Best first."""

FLAG_STREAM = 1
"""The client reads the answer as it is made."""
KNOWN_FLAGS = FLAG_STREAM
"""Bit 1 (one-time key) and bits 2-3 (padding policy) are reserved; an engine refuses what it does not know."""

MAX_TTL_MS = 600_000
"""Longest time a request may wait and still begin; as MAX_QUEUE_MS."""
ENVELOPE_INVALID = "the envelope did not open"
"""The only text an EnvelopeError has: it must not tell a prober which check failed.   [ENV-40]"""

_LAYOUT = struct.Struct(">BH16s32s8s32s32sQIB")
assert _LAYOUT.size == HEADER_BYTES


class Header(msgspec.Struct, frozen=True):
    """Who is to answer what, for which price, and until when."""

    suite: int
    request_id: bytes
    """16 random bytes, new for each attempt."""
    provider: bytes
    """The provider's Ed25519 peer key, 32 bytes."""
    key_id: bytes
    """Which seal key opens it, 8 bytes."""
    model_digest: bytes
    quote_hash: bytes
    """SHA-256 of the provider's signed quote; of nothing on the free rail."""
    issued_ms: int
    ttl_ms: int
    flags: int = 0


def encode_header(header: Header) -> bytes:
    """The 136 bytes of a header."""
    return _LAYOUT.pack(
        VERSION,
        header.suite,
        header.request_id,
        header.provider,
        header.key_id,
        header.model_digest,
        header.quote_hash,
        header.issued_ms,
        header.ttl_ms,
        header.flags,
    )


def decode_header(data: bytes) -> Header:
    """Parse a received header; its truth is proved only by opening the seal.   [ENV-02]

    Raises:
        EnvelopeError: Wrong size, version, suite, time to live or flags.
    """
    if len(data) != HEADER_BYTES:
        raise EnvelopeError(ENVELOPE_INVALID)
    version, *fields = _LAYOUT.unpack(data)
    header = Header(*fields)
    is_known = version == VERSION and header.suite in SUITES and not header.flags & ~KNOWN_FLAGS
    if not is_known or not 0 < header.ttl_ms <= MAX_TTL_MS:
        raise EnvelopeError(ENVELOPE_INVALID)
    return header
