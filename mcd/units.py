"""Units: seconds, unix milliseconds, token counts and integer money."""

from __future__ import annotations

from typing import NewType

Seconds = float
"""A duration or a monotonic instant; never a wall-clock time."""

UnixMs = NewType("UnixMs", int)
"""Wall-clock time as integer milliseconds since 1970, the only time on the wire."""

Price = NewType("Price", int)
"""Token base units per 1,000,000 model tokens; 0 is free."""

Amount = NewType("Amount", int)
"""Ledger amount in 1e-6 of a token base unit, so that price x tokens is exact."""


def cost(price: Price, n_tokens: int) -> Amount:
    """What ``n_tokens`` cost, exactly: base units per 1M tokens times tokens is 1e-6 base units."""
    return Amount(price * n_tokens)


def unix_ms(unix_s: float) -> UnixMs:
    """Convert a wall-clock reading in seconds to wire milliseconds, rounding down."""
    return UnixMs(int(unix_s * 1000))
