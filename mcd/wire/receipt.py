r"""The receipt, the engine's statement of what one exchange delivered: fixed layout, encode and decode.   [ENV-30]

Payment settles on it. Big-endian: ver u8 | th 32 | n_prompt u32 | n_cached u32 | n_output u32 | output_digest 32 |
amount u64 | sig 64. The signature is Ed25519 by the engine key over "mcs v1 receipt\0" and all before it.
Signing and checking live in `mcd.wire.signing`.
"""

from __future__ import annotations

import struct

import msgspec

from mcd.errors import LocalProtocolError, RemoteProtocolError

RECEIPT_LABEL = b"mcs v1 receipt\0"
_LAYOUT = struct.Struct(">B32sIII32sQ")
HASH_BYTES = 32
SIGNATURE_BYTES = 64
RECEIPT_BYTES = _LAYOUT.size + SIGNATURE_BYTES
RECEIPT_INVALID = "the receipt has the wrong size or version"


class Receipt(msgspec.Struct, frozen=True):
    """What was delivered. ``amount`` is in 1e-6 base units; 0 on the free rail."""

    transcript_hash: bytes
    n_prompt_tokens: int
    n_cached_tokens: int
    n_output_tokens: int
    output_digest: bytes
    amount: int = 0


def encode_unsigned(receipt: Receipt) -> bytes:
    """The bytes the engine signs (after the label) and sends before the signature.

    Raises:
        LocalProtocolError: A count is negative or too large, or a hash is not 32 bytes.
    """
    if len(receipt.transcript_hash) != HASH_BYTES or len(receipt.output_digest) != HASH_BYTES:
        raise LocalProtocolError("a receipt's hashes have 32 bytes")  # struct would pad or cut them silently
    try:
        return _LAYOUT.pack(
            1,
            receipt.transcript_hash,
            receipt.n_prompt_tokens,
            receipt.n_cached_tokens,
            receipt.n_output_tokens,
            receipt.output_digest,
            receipt.amount,
        )
    except struct.error:
        raise LocalProtocolError("a receipt's counts do not fit their fields") from None


def decode(data: bytes) -> tuple[Receipt, bytes, bytes]:
    """Split a received receipt into (receipt, signed bytes, signature); the signature is not checked here.

    Raises:
        RemoteProtocolError: Wrong length or version.
    """
    if len(data) != RECEIPT_BYTES or data[0] != 1:
        raise RemoteProtocolError(RECEIPT_INVALID)
    body, signature = data[: _LAYOUT.size], data[_LAYOUT.size :]
    _, th, n_prompt, n_cached, n_output, digest, amount = _LAYOUT.unpack(body)
    return Receipt(th, n_prompt, n_cached, n_output, digest, amount), body, signature
