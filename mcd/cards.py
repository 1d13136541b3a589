"""What people are shown of the mesh: one card a model, one a peer, one line a candidate or a check. No user data."""

from __future__ import annotations

from typing import Literal

import msgspec

from mcd.ids import ModelDigest, PeerId
from mcd.units import Seconds


class ModelCard(msgspec.Struct, frozen=True):
    """One model somebody serves now, merged over its providers."""

    alias: str
    digest: ModelDigest
    n_ctx: int
    capabilities: tuple[str, ...]
    n_providers: int
    n_loaded: int
    """Providers that have it in memory; the others load it when asked."""
    load_s: Seconds
    """Until the provider that is ready soonest has it in memory, as it says; 0 when one has."""
    n_slots: int
    best_rtt_s: Seconds | None
    price_prompt: int
    """Cheapest offer, base units per 1M tokens."""
    price_output: int
    is_local: bool
    seen_unix_s: int


class PeerCard(msgspec.Struct, frozen=True):
    """One row of `mcd peers`."""

    peer_id: PeerId
    name: str
    region: str
    path: str
    rtt_s: Seconds | None
    device: str
    models: tuple[str, ...]
    n_running: int | None
    """What we last heard; None when never asked."""
    n_slots: int
    output_tokens_per_s: float | None
    """Measured by us, else None; the claim is in ``claimed_tokens_per_s``."""
    claimed_tokens_per_s: float | None
    price_output: int | None
    ok_fraction: float | None
    """Exchanges that ended well, of those we tried; None when none."""
    seen_s: Seconds
    """Since the newest proof of life."""
    state: Literal["alive", "suspect"]
    address: str
    agent: str
    is_outbound: bool | None


class RouteTerm(msgspec.Struct, frozen=True):
    """One candidate of a plan with every part of its predicted time, for `mcd route --explain`."""

    peer_id: PeerId
    name: str
    rank: int
    rtt_s: Seconds
    queue_s: Seconds
    prefill_s: Seconds
    decode_s: Seconds
    penalty_s: Seconds
    total_s: Seconds
    price_output: int
    why: str
    """Notes such as ``measured``, ``claimed``, ``breaker open until``."""
    load_s: Seconds = 0.0
    """Until a model that is not loaded there is."""


class Check(msgspec.Struct, frozen=True):
    """One line of `mcd doctor`."""

    check: str
    """What was looked at, e.g. ``engine seccomp``."""
    state: Literal["ok", "warn", "fail"]
    detail: str
    """What was found and, unless ok, what to do."""
