"""The receipt as the money rooms know it; its layout is wire's, which signs and checks it."""

from __future__ import annotations

from mcd.wire.receipt import RECEIPT_BYTES, RECEIPT_LABEL, Receipt, decode, encode_unsigned

__all__ = ["RECEIPT_BYTES", "RECEIPT_LABEL", "Receipt", "decode", "encode_unsigned"]
