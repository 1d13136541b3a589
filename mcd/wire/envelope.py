r"""MCS/1: seal and open requests and response frames end to end.   [specs/06]

Only `mcd.entry.session` and `mcd.engine.seal` may import this module: that is the build rule behind "prompts never
leave the inference process".

Request: HPKE base mode, single shot, to the engine's seal key, with the clear header H as ``info``. Inside travel a
random k and an ephemeral X25519 key E. Response: the engine makes an ephemeral Y, and both sides derive

    th   = SHA-256("modelcloud seal v1 request\0" | H | sealed)
    okm  = HKDF-SHA256(salt = th | Y, ikm = k | X25519(y, E), info = "modelcloud seal v1 response\0" | th | Y, 76)
    okm  = key 32 | base nonce 12 | receipt salt 32

so that a later theft of the seal key opens recorded requests of that key's hours, but no answer. Frames are numbered
by the nonce and their type is authenticated: nothing can be cut, reordered, repeated or passed off as the end.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mcd.errors import EnvelopeError, LimitError
from mcd.ids import KeyId
from mcd.wire.frames import Opener, Sealer
from mcd.wire.header import (
    ENVELOPE_INVALID,
    SUITE_X25519,
    SUITE_XWING,
    Header,
    decode_header,
    encode_header,
)
from mcd.wire.keyconfig import KeyConfig, key_id
from mcd.wire.messages import MAX_BODY_BYTES, MAX_SEALED_BYTES
from mcd.wire.padding import MIN_REQUEST_PLAIN_BYTES, padme

REQUEST_LABEL = b"modelcloud seal v1 request\0"
_SECRETS = struct.Struct(">32s32sI")
"""k | E | length of the body, before the body in a request's plaintext."""
MLKEM_PUBLIC_BYTES = 1184

Random = Callable[[int], bytes]
"""os.urandom, or fixed bytes in tests and vectors."""


def _suite(kem: hpke.KEM) -> hpke.Suite:
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


_HPKE = {SUITE_X25519: _suite(hpke.KEM.X25519), SUITE_XWING: _suite(hpke.KEM.MLKEM768_X25519)}
ENC_BYTES = {SUITE_X25519: hpke.KEM.X25519.enc_length(), SUITE_XWING: hpke.KEM.MLKEM768_X25519.enc_length()}
"""Length of the encapsulated key at the start of a sealed request."""


# --- seal keys -----------------------------------------------------------------------------------------------


class SealKey:
    """A private seal key, in memory only. Its repr shows nothing."""

    __slots__ = ("key", "key_id", "public_key", "suite")

    def __init__(self, classic: X25519PrivateKey, lattice: MLKEM768PrivateKey | None) -> None:
        public_key = classic.public_key().public_bytes_raw()
        self.key: X25519PrivateKey | hpke.MLKEM768X25519PrivateKey = classic
        self.suite = SUITE_X25519
        if lattice is not None:
            public_key = lattice.public_key().public_bytes_raw() + public_key
            self.key = hpke.MLKEM768X25519PrivateKey(lattice, classic)
            self.suite = SUITE_XWING
        self.public_key = public_key
        self.key_id = key_id(self.suite, public_key)

    @classmethod
    def generate(cls, suite: int) -> SealKey:
        """A fresh key; its secret bytes exist in OpenSSL's memory only, which wipes them when it is dropped."""
        return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate() if suite == SUITE_XWING else None)

    def __repr__(self) -> str:
        return "<SealKey redacted>"


@lru_cache(maxsize=64)  # parsing a lattice key costs 40 us, and a provider's key serves for an hour
def _public_key(config: KeyConfig) -> X25519PublicKey | hpke.MLKEM768X25519PublicKey:
    if config.suite == SUITE_X25519:
        return X25519PublicKey.from_public_bytes(config.public_key)
    lattice, classic = config.public_key[:MLKEM_PUBLIC_BYTES], config.public_key[MLKEM_PUBLIC_BYTES:]
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(lattice), X25519PublicKey.from_public_bytes(classic)
    )


# --- the request ---------------------------------------------------------------------------------------------


class Terms(msgspec.Struct, frozen=True):
    """What the entry writes into the header besides the key."""

    request_id: bytes
    """16 random bytes, new for each attempt."""
    model_digest: bytes
    issued_ms: int
    ttl_ms: int
    quote: bytes = b""
    """The provider's signed quote as received; empty on the free rail."""
    flags: int = 0


def transcript_hash(header: bytes, sealed: bytes) -> bytes:
    """th, the name of one sealed request.   [ENV-15]"""
    digest = hashlib.sha256(REQUEST_LABEL)
    digest.update(header)
    digest.update(sealed)
    return digest.digest()


def seal_request(
    body: bytes, config: KeyConfig, terms: Terms, random: Random = os.urandom
) -> tuple[bytes, bytes, Opener]:
    """Seal a request body to an engine: (header, sealed, opener of the response).   [ENV-12]

    Args:
        body: JSON of `mcd.wire.payload.Body`.
        config: A config that `verify_key_config` returned; its peer is the provider.
        terms: The rest of the header.
        random: Source of k and of the ephemeral key; HPKE draws its own.

    Raises:
        LimitError: The body exceeds MAX_BODY_BYTES.
        EnvelopeError: The seal key is not a usable key.
    """
    if len(body) > MAX_BODY_BYTES:
        raise LimitError(f"the request exceeds {MAX_BODY_BYTES} bytes")
    header = encode_header(
        Header(
            suite=config.suite,
            request_id=terms.request_id,
            provider=config.peer_key,
            key_id=config.key_id,
            model_digest=terms.model_digest,
            quote_hash=hashlib.sha256(terms.quote).digest(),
            issued_ms=terms.issued_ms,
            ttl_ms=terms.ttl_ms,
            flags=terms.flags,
        )
    )
    k = random(32)
    ephemeral = X25519PrivateKey.from_private_bytes(random(32))
    plain = _SECRETS.pack(k, ephemeral.public_key().public_bytes_raw(), len(body)) + body
    padded_bytes = padme(max(MIN_REQUEST_PLAIN_BYTES, len(plain)))
    try:
        sealed = _HPKE[config.suite].encrypt(
            plain.ljust(padded_bytes, b"\0"), _public_key(config), info=REQUEST_LABEL + header
        )
    except ValueError:  # a key that is not on the curve, not a lattice key, or of low order
        raise EnvelopeError(ENVELOPE_INVALID) from None
    return header, sealed, Opener(transcript_hash(header, sealed), k, ephemeral)


def open_request(
    header: bytes,
    sealed: bytes,
    find_key: Callable[[KeyId], SealKey | None],
    ephemeral: X25519PrivateKey | None = None,
) -> tuple[bytes, Sealer]:
    """Open a sealed request: (body, sealer of the response).   [ENV-16]

    Freshness, replay and addressee are the caller's to judge (`mcd.engine.seal`); a vector fixes ``ephemeral``.

    Raises:
        EnvelopeError: Anything is wrong.
    """
    parsed = decode_header(header)
    key = find_key(KeyId(parsed.key_id))
    if key is None or key.suite != parsed.suite or not ENC_BYTES[key.suite] < len(sealed) <= MAX_SEALED_BYTES:
        raise EnvelopeError(ENVELOPE_INVALID)
    try:
        plain = _HPKE[key.suite].decrypt(sealed, key.key, info=REQUEST_LABEL + header)
        body_start = _SECRETS.size
        k, entry_key, n_body = _SECRETS.unpack_from(plain)
        if n_body > MAX_BODY_BYTES or plain.count(0, body_start + n_body) != len(plain) - body_start - n_body:
            raise EnvelopeError(ENVELOPE_INVALID)
        sealer = Sealer(transcript_hash(header, sealed), k, entry_key, ephemeral)
    except (InvalidTag, ValueError, struct.error):
        raise EnvelopeError(ENVELOPE_INVALID) from None
    return plain[body_start : body_start + n_body], sealer
