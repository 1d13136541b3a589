r"""The engine's signed statement of what one exchange delivered: the thing payment settles on.   [ENV-30]

Fixed layout, big-endian: ver u8 | th 32 | n_prompt u32 | n_cached u32 | n_output u32 | output_digest 32 |
amount u64 | sig 64. The signature is Ed25519 by the engine key over "mcs v1 receipt\0" and all before it.
Signing and checking live in `mcd.wire.signing`, so that this room knows no keys.
"""

from __future__ import annotations

import struct

import msgspec

from mcd.errors import RemoteProtocolError

RECEIPT_LABEL = b"mcs v1 receipt\0"
_LAYOUT = struct.Struct(">B32sIII32sQ")
SIGNATURE_BYTES = 64
RECEIPT_BYTES = _LAYOUT.size + SIGNATURE_BYTES


class Receipt(msgspec.Struct, frozen=True):
    """What was delivered. ``amount`` is in 1e-6 base units; 0 on the free rail."""

    transcript_hash: bytes
    n_prompt_tokens: int
    n_cached_tokens: int
    n_output_tokens: int
    output_digest: bytes
    amount: int = 0


def encode_unsigned(receipt: Receipt) -> bytes:
    """The bytes the engine signs (after the label) and sends before the signature."""
    return _LAYOUT.pack(
        1,
        receipt.transcript_hash,
        receipt.n_prompt_tokens,
        receipt.n_cached_tokens,
        receipt.n_output_tokens,
        receipt.output_digest,
        receipt.amount,
    )


def decode(data: bytes) -> tuple[Receipt, bytes, bytes]:
    """Split a received receipt into (receipt, signed bytes, signature); the signature is not checked here.

    Raises:
        RemoteProtocolError: Wrong length or version.
    """
    if len(data) != RECEIPT_BYTES or data[0] != 1:
        raise RemoteProtocolError("the receipt has the wrong size or version")
    body, signature = data[: _LAYOUT.size], data[_LAYOUT.size :]
    _, th, n_prompt, n_cached, n_output, digest, amount = _LAYOUT.unpack(body)
    return Receipt(th, n_prompt, n_cached, n_output, digest, amount), body, signature
