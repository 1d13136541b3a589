"""Admission: accept, queue or refuse one request, pure.

Refusing at once is the kindest answer an overloaded provider has: the entry asks the next candidate one round trip
later, while a request that waits in vain costs its user seconds. So what cannot start within MAX_QUEUE_S is refused,
and every refusal says when asking again makes sense. Nothing here sees content: sizes, counts and speeds only.
"""

from __future__ import annotations

import math

import msgspec

from mcd.exchange.size import generates, is_too_large
from mcd.ports import EngineStatus
from mcd.units import Seconds
from mcd.wire.messages import MAX_QUEUE_MS, MAX_RETRY_AFTER_MS, Accepted, Refused, RefuseReason

MAX_QUEUE_S = 10.0
"""Longest announced wait. Beyond it another provider, or a polite no, serves the user better."""
BYTES_PER_TOKEN = 4
"""Sealed bytes per prompt token, for estimating prefill: English text; JSON and padding make it an upper bound."""
TYPICAL_OUTPUT_TOKENS = 256
"""Assumed answer length when the request sets none (median of public traces: 211)."""
MIN_TOKENS_PER_S = 1.0
"""Floor under measured speeds, so that a starting engine does not divide by zero."""
MAX_LOAD_S = 90.0
"""A request is held while a model loads that takes at most this long; the entry knew it from the record and chose us
all the same. A refusal would send it on to wake the next provider's model as well."""
MAX_HELD_S = 100.0
"""An accepted request is held for a slot this long, as long as any wait that we may announce (MAX_LOAD_S and
MAX_QUEUE_S): its seal lives 120 s, and whoever still waits then is better off elsewhere.   [EX-37]"""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Sealed requests in line of one engine, together: seven of the largest, thousands of the usual.   [EX-38]"""
RETRY_RESTART_S = 2.0
"""A crashed engine is back within this, model loading aside."""
RETRY_DOWN_S = 60.0
"""An engine that gave up needs its operator."""
SERVICE_WEIGHT = 0.2
"""Weight of a new observation in the mean time a request holds its slot."""


class Ask(msgspec.Struct, frozen=True):
    """The sizes of one request, all that may be known of it."""

    n_sealed_bytes: int
    max_output_tokens: int
    resume_from: int = 0


class Load(msgspec.Struct, frozen=True):
    """What is under way here now, as it concerns one that asks; an engine's own counts lag behind."""

    n_open: int
    """Accepted and not over."""
    n_of_asker: int
    """Of them the asker's, or its address's."""
    n_ahead: int
    """Who would have their turn before it."""
    may_begin: bool
    """A slot is free for it now."""
    n_hoped_for: int
    """Slots of which one must come free: all, or those of its address if that may have no more."""
    held_s: Seconds = 0.0
    """How long those who run have had their slots, on the mean."""
    n_held_bytes: int = 0
    """Sealed requests in line."""


class Accept(msgspec.Struct, frozen=True):
    """Yes; work begins after about ``queue_s``."""

    position: int
    """Requests ahead in the queue; 0 starts now."""
    queue_s: Seconds

    def message(self) -> Accepted:
        """As it is sent."""
        return Accepted(min(self.position, 65_535), min(MAX_QUEUE_MS, math.ceil(self.queue_s * 1000)))


class Refuse(msgspec.Struct, frozen=True):
    """No, before any work."""

    reason: RefuseReason
    retry_after_s: Seconds = 0.0
    """0 where asking again is pointless."""

    def message(self) -> Refused:
        """As it is sent."""
        return Refused(int(self.reason), min(MAX_RETRY_AFTER_MS, math.ceil(self.retry_after_s * 1000)))


Decision = Accept | Refuse


class Admission:
    """Who may use one engine. Owner: `mcd.provider.serve`, one for each engine."""

    def __init__(self, max_running: int, max_waiting: int, per_peer: int) -> None:
        """Set the limits.

        Args:
            max_running: Requests in the engine at once, its slots.
            max_waiting: Accepted requests beyond those.
            per_peer: Most of both together for one entry or address, so that one cannot take every place.
        """
        self.max_running = max(1, max_running)
        self.max_waiting = max_waiting
        self.per_peer = per_peer
        self.is_stopping = False
        """Set on shutdown: running requests end, new ones are refused."""
        self._service_s: Seconds | None = None

    def observe(self, service_s: Seconds) -> None:
        """A request held its slot for this long."""
        old = self._service_s
        self._service_s = service_s if old is None else old + SERVICE_WEIGHT * (service_s - old)

    def decide(self, status: EngineStatus | None, load: Load, ask: Ask) -> Decision:
        """Accept with a place and a wait, or refuse; ``status`` is None when no engine here serves the digest."""
        if self.is_stopping:
            return Refuse(RefuseReason.SHUTTING_DOWN)
        if status is None or status.state == "stopped":
            return Refuse(RefuseReason.MODEL_UNKNOWN)
        if not 0.0 <= status.ready_in_s <= MAX_LOAD_S or (status.state != "ready" and not status.ready_in_s):
            return Refuse(RefuseReason.LOADING, _retry_loading_s(status))
        most_tokens = max(ask.max_output_tokens, ask.resume_from)
        if is_too_large(status.n_ctx, status.capabilities, ask.n_sealed_bytes, most_tokens):
            return Refuse(RefuseReason.TOO_LARGE)
        place = self._find_place(status, load, ask)
        if isinstance(place, Accept) and status.ready_in_s:
            return Accept(place.position, place.queue_s + status.ready_in_s)
        return place

    def _find_place(self, status: EngineStatus, load: Load, ask: Ask) -> Decision:
        has_enough = load.n_of_asker >= self.per_peer
        is_full = load.n_open >= self.max_running + self.max_waiting
        if load.may_begin and not load.n_ahead and not is_full and not has_enough:
            return Accept(position=0, queue_s=0.0)
        slot_s = self.wait_s(status, msgspec.structs.replace(load, n_ahead=0), ask)
        if has_enough:
            return Refuse(RefuseReason.PEER_LIMIT, slot_s)
        queue_s = self.wait_s(status, load, ask)
        if is_full or queue_s > MAX_QUEUE_S or load.n_held_bytes + ask.n_sealed_bytes > MAX_HELD_BYTES:
            return Refuse(RefuseReason.BUSY, max(slot_s, queue_s - MAX_QUEUE_S))
        return Accept(position=load.n_ahead + 1, queue_s=queue_s)

    def wait_s(self, status: EngineStatus, load: Load, ask: Ask) -> Seconds:
        """Expected wait for a slot: of S running requests one ends every service/S.   [EX-36]

        Requests that have run for longer than was usual of late are no usual requests.
        """
        return (load.n_ahead + 1) * max(self.service_s(status, ask), load.held_s) / load.n_hoped_for

    def service_s(self, status: EngineStatus, ask: Ask) -> Seconds:
        """How long a request holds a slot: as observed lately, else from the engine's measured speeds."""
        if self._service_s is not None:
            return self._service_s
        n_prompt_tokens: float = ask.n_sealed_bytes / BYTES_PER_TOKEN
        n_output_tokens = 0
        if generates(status.capabilities):
            n_prompt_tokens = min(n_prompt_tokens, status.n_ctx)  # a megabyte of picture is a few hundred tokens
            n_output_tokens = min(ask.max_output_tokens or TYPICAL_OUTPUT_TOKENS, TYPICAL_OUTPUT_TOKENS)
        prefill_s = n_prompt_tokens / max(MIN_TOKENS_PER_S, status.prefill_tokens_per_s)
        return prefill_s + n_output_tokens / max(MIN_TOKENS_PER_S, status.output_tokens_per_s)


def _retry_loading_s(status: EngineStatus) -> Seconds:
    if status.state in {"loading", "asleep"}:
        return max(RETRY_RESTART_S, status.ready_in_s)
    return RETRY_RESTART_S if status.state == "restarting" else RETRY_DOWN_S
