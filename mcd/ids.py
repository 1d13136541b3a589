"""Identifiers that must never be mixed up."""

from __future__ import annotations

from typing import NewType

PeerId = NewType("PeerId", str)
"""A peer's libp2p id in base58btc text; the multihash of its Ed25519 public key.   [ID-01]"""

ModelDigest = NewType("ModelDigest", bytes)
"""SHA-256 of the GGUF file, 32 bytes. Quantisation is therefore part of the name."""

ModelAlias = NewType("ModelAlias", str)
"""What a user may type, e.g. ``modelcloud-nano``; resolves to a digest through records."""

RequestId = NewType("RequestId", bytes)
"""16 random bytes chosen by the entry for one exchange."""

KeyId = NewType("KeyId", bytes)
"""First 8 bytes of SHA-256(suite || seal public key).   [ENV-06]"""
