r"""Seal keys as others see them: the engine's certificate and its signed key configs.   [ENV-05]

Three levels. The peer key (daemon, long-lived) certifies the engine key once per engine process; the engine key
(made in the inference process, never written) signs short-lived seal keys. A daemon that swapped in an engine of
its own would have to sign a second certificate, which stays as evidence.

    certificate = ver u8 | engine_key 32 | created_ms u64 | Ed25519 by the peer key 64
    config      = ver u8 | suite u16 | peer_key 32 | engine_key 32 | not_before_ms u64 | not_after_ms u64 |
                  epoch u32 | key_bytes u16 | key | Ed25519 by the engine key 64
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from functools import cached_property

import msgspec

from mcd.errors import EnvelopeError
from mcd.ids import KeyId
from mcd.wire.header import ENVELOPE_INVALID, SUITE_X25519, SUITE_XWING, VERSION
from mcd.wire.messages import MAX_CLOCK_SKEW_MS
from mcd.wire.signing import SIGNATURE_BYTES, SigningKey, verify

CERTIFICATE_LABEL = b"mcs v1 engine cert\0"
CONFIG_LABEL = b"mcs v1 key config\0"
MAX_CONFIG_LIFETIME_MS = 7_200_000
"""Two hours: bounds what a stolen seal key can open."""
SEAL_KEY_BYTES = {SUITE_X25519: 32, SUITE_XWING: 1216}

_CERTIFICATE = struct.Struct(">B32sQ")
_CONFIG = struct.Struct(">BH32s32sQQIH")
CERTIFICATE_BYTES = _CERTIFICATE.size + SIGNATURE_BYTES


class KeyConfig(msgspec.Struct, frozen=True, dict=True):
    """One seal key, for whom and for how long."""

    suite: int
    peer_key: bytes
    engine_key: bytes
    not_before_ms: int
    not_after_ms: int
    epoch: int
    """Rises by one with each rotation of an engine."""
    public_key: bytes
    """Suite 1: X25519, 32 bytes. Suite 2: ML-KEM-768 (1184 bytes), then X25519."""

    @cached_property  # each request to a provider needs it twice, and the hash is over 1,218 bytes
    def key_id(self) -> KeyId:
        """First 8 bytes of SHA-256(suite | public_key).   [ENV-06]"""
        return key_id(self.suite, self.public_key)


def key_id(suite: int, public_key: bytes) -> KeyId:
    """The name of a seal key in headers and records.   [ENV-06]"""
    return KeyId(hashlib.sha256(suite.to_bytes(2, "big") + public_key).digest()[:8])


# --- the engine's certificate --------------------------------------------------------------------------------


def certify(engine_public_key: bytes, created_ms: int, peer_key: SigningKey) -> bytes:
    """Sign an engine's identity with the peer key; the daemon's whole part in sealing."""
    body = _CERTIFICATE.pack(VERSION, engine_public_key, created_ms)
    return body + peer_key.sign(CERTIFICATE_LABEL, body)


def verify_certificate(certificate: bytes, peer_public_key: bytes) -> tuple[bytes, int]:
    """Return (engine key, created_ms) of a certificate signed by this peer.   [ENV-08]

    Raises:
        EnvelopeError: Wrong size, version or signature.
    """
    body, signature = certificate[: _CERTIFICATE.size], certificate[_CERTIFICATE.size :]
    if len(certificate) != CERTIFICATE_BYTES or not verify(peer_public_key, CERTIFICATE_LABEL, body, signature):
        raise EnvelopeError(ENVELOPE_INVALID)
    version, engine_key, created_ms = _CERTIFICATE.unpack(body)
    if version != VERSION:
        raise EnvelopeError(ENVELOPE_INVALID)
    return engine_key, created_ms


# --- key configs ---------------------------------------------------------------------------------------------


def sign_key_config(config: KeyConfig, engine_key: SigningKey) -> bytes:
    """The bytes an engine publishes for one seal key."""
    body = _CONFIG.pack(
        VERSION,
        config.suite,
        config.peer_key,
        config.engine_key,
        config.not_before_ms,
        config.not_after_ms,
        config.epoch,
        len(config.public_key),
    )
    body += config.public_key
    return body + engine_key.sign(CONFIG_LABEL, body)


def parse_key_config(data: bytes) -> tuple[KeyConfig, bytes, bytes]:
    """Split received bytes into (config, signed bytes, signature); nothing is verified yet.

    Raises:
        EnvelopeError: Wrong size, version or suite.
    """
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if len(body) < _CONFIG.size:
        raise EnvelopeError(ENVELOPE_INVALID)
    version, suite, peer_key, engine_key, not_before_ms, not_after_ms, epoch, key_bytes = _CONFIG.unpack_from(body)
    public_key = body[_CONFIG.size :]
    if version != VERSION or SEAL_KEY_BYTES.get(suite) != key_bytes or len(public_key) != key_bytes:
        raise EnvelopeError(ENVELOPE_INVALID)
    config = KeyConfig(suite, peer_key, engine_key, not_before_ms, not_after_ms, epoch, public_key)
    return config, body, signature


def verify_key_config(
    data: bytes, certificate: bytes, peer_public_key: bytes, now_ms: int, min_epoch: int = 0
) -> KeyConfig:
    """Check one key config from certificate to clock; about 0.35 ms, so keep the result per key id.   [ENV-09]

    Args:
        data: The config as received.
        certificate: The engine's certificate as received.
        peer_public_key: The provider's Ed25519 key, from its peer id.
        now_ms: Our wall clock.
        min_epoch: The highest epoch seen from this engine key; keys never go back.

    Raises:
        EnvelopeError: Anything is wrong; the key must not be used.
    """
    engine_key, _ = verify_certificate(certificate, peer_public_key)
    config, body, signature = parse_key_config(data)
    lifetime_ms = config.not_after_ms - config.not_before_ms
    if (
        config.peer_key != peer_public_key
        or config.engine_key != engine_key
        or not 0 < lifetime_ms <= MAX_CONFIG_LIFETIME_MS
        or not config.not_before_ms - MAX_CLOCK_SKEW_MS <= now_ms < config.not_after_ms
        or config.epoch < min_epoch
        or not verify(engine_key, CONFIG_LABEL, body, signature)
    ):
        raise EnvelopeError(ENVELOPE_INVALID)
    return config


def choose_config(configs: Iterable[KeyConfig], min_suite: int = SUITE_XWING) -> KeyConfig:
    """Take the highest suite, of equals the newest; nothing is negotiated, so nothing can be talked down.   [ENV-10]

    Raises:
        EnvelopeError: No config of at least ``min_suite``: a provider (or whoever speaks for it) that offers only
            classic keys is not used, because every provider must offer the post-quantum suite.
    """
    usable = [config for config in configs if config.suite >= min_suite]
    if not usable:
        raise EnvelopeError(ENVELOPE_INVALID)
    return max(usable, key=lambda config: (config.suite, config.epoch, config.not_after_ms))
