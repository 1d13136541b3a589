"""Ready-made parties of a sealed exchange, for the tests of the envelope."""

from __future__ import annotations

import os

from mcd.wire.envelope import SealKey, Terms, open_request, seal_request
from mcd.wire.frames import Opener, Sealer
from mcd.wire.keyconfig import KeyConfig, certify, sign_key_config, verify_key_config
from mcd.wire.signing import SigningKey

NOW_MS = 1_790_000_000_000
PEER, ENGINE = SigningKey(b"p" * 32), SigningKey(b"e" * 32)
MODEL = b"m" * 32
CERTIFICATE = certify(ENGINE.public_key, NOW_MS, PEER)
KEYS = {suite: SealKey.generate(suite) for suite in (1, 2)}


def key_config(suite: int) -> KeyConfig:
    made = KeyConfig(suite, PEER.public_key, ENGINE.public_key, NOW_MS, NOW_MS + 3_600_000, 1, KEYS[suite].public_key)
    return verify_key_config(sign_key_config(made, ENGINE), CERTIFICATE, PEER.public_key, NOW_MS)


CONFIGS = {suite: key_config(suite) for suite in (1, 2)}


def find_key(key_id: bytes) -> SealKey | None:
    return next((key for key in KEYS.values() if key.key_id == key_id), None)


def sealed(body: bytes = b"{}", suite: int = 2) -> tuple[bytes, bytes, Opener]:
    return seal_request(body, CONFIGS[suite], Terms(os.urandom(16), MODEL, NOW_MS, 60_000))


def pair(suite: int = 1) -> tuple[Sealer, Opener]:
    """A sealer and the started opener of the same exchange."""
    header, request, opener = sealed(suite=suite)
    _, sealer = open_request(header, request, find_key)
    opener.start(sealer.response_key)
    return sealer, opener
