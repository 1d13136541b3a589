"""How long a request would take at one provider: learned from our own exchanges, claimed only until then.

Model (research: routing by prediction)::

    total   = rtt + queue + load + prefill + decode + penalty
    prefill = correction * (PREFILL_FIXED_S + n_prompt_tokens / claimed rate)
    decode  = n_output_tokens * tpot
    queue   = what the provider last said or our requests waited there of late, aged, + our own beyond its slots
    load    = what its record says loading the model takes, 0 when it is loaded; less what it last said of its queue,
              which holds the rest of a loading under way

Two things are learned the hard way by others. A claim is never believed beyond what hardware can do, and an unproven
provider counts as having one slot, so that a liar is found out by one request at a time. And what we ourselves have
sent counts at once: routers blind to their own requests in flight all pick the same provider.
Time is an argument, monotonic seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import msgspec

from mcd.ids import ModelDigest, PeerId
from mcd.units import Seconds

RTT_UNKNOWN_S = 0.15
"""Assumed round trip to a peer never measured; the median between cities of the world is 0.14 s."""
COLD_ROUND_TRIPS = 7.5
"""Round trips that dialling, Noise and negotiation cost over a warm connection (8.5 to 1, measured)."""
TPOT_WEIGHT = 0.3
"""Weight of a new decode speed: three exchanges replace the past."""
WAIT_HALF_LIFE_S = 60.0
"""In so long half of a wait that we met is forgotten: queues come and go. But who calls every slow prefill a queue, and
none in advance, is expected to do so again.   [EX-54]"""
CORRECTION_MEMORY = 0.9
"""Weight of past exchanges in the correction of claimed prefill speed."""
CLAIM_WEIGHT = 0.25
"""How many exchanges a claim counts for: after one measurement it has a fifth of the say."""
MAX_CORRECTION = 64.0
"""Bound on how wrong a claim can be believed to be, so that one absurd measurement heals."""
PREFILL_FIXED_S = 0.02
"""Work before the first token besides prefill: open, template, tokenise, one decode step."""
MAX_PREFILL_TOKENS_PER_S = 50_000
"""No single machine prefills faster: 7,760 tokens/s at 8B on an H100, and small models a few times that."""
MAX_OUTPUT_TOKENS_PER_S = 2_000
"""No single stream decodes faster: 144 tokens/s at 8B on an H100; tiny models reach a thousand."""
DEFAULT_PREFILL_TOKENS_PER_S = 100
DEFAULT_OUTPUT_TOKENS_PER_S = 10
"""Assumed when a provider claims nothing: a plain CPU."""
CROWDING = 0.1
"""Slower decode for each of our own requests already running there (measured 0.06 to 0.15)."""
SUSPECT_PENALTY_S = 5.0
"""What asking a suspect is likely to cost: the time-out before the next candidate."""
FAIL_COST_S = 10.0
"""Time lost when an exchange fails, weighted by how often that happens."""
MAX_TRACKED = 10_000
"""Peer-model pairs remembered, least recently used first out."""


class Facts(msgspec.Struct, frozen=True):
    """What is known about one provider of one model besides what we learned ourselves."""

    peer_id: PeerId
    digest: ModelDigest
    claimed_prefill_tokens_per_s: float = 0.0
    claimed_output_tokens_per_s: float = 0.0
    n_slots: int = 1
    load_s: Seconds = 0.0
    """Expected time to load the model; 0 when it is loaded."""
    rtt_s: Seconds | None = None
    """The link's own measurement, if there is a link."""
    is_linked: bool = False
    is_suspect: bool = False
    is_own: bool = False
    fail_fraction: float = 0.0


class Prediction(msgspec.Struct, frozen=True):
    """Every part of the predicted time of one request at one provider."""

    rtt_s: Seconds
    queue_s: Seconds
    prefill_s: Seconds
    decode_s: Seconds
    penalty_s: Seconds
    load_s: Seconds
    facts: Facts
    is_measured: bool
    n_in_flight: int

    @property
    def total_s(self) -> Seconds:
        """All parts together."""
        return self.rtt_s + self.queue_s + self.load_s + self.prefill_s + self.decode_s + self.penalty_s

    @property
    def notes(self) -> tuple[str, ...]:
        """In words: ``measured`` or ``claimed``, ``unlinked``, ``suspect``, ``cold model``, ``2 in flight``."""
        facts, is_claimed = self.facts, not self.is_measured
        claims_too_much = (
            facts.claimed_prefill_tokens_per_s > MAX_PREFILL_TOKENS_PER_S
            or facts.claimed_output_tokens_per_s > MAX_OUTPUT_TOKENS_PER_S
        )
        said = (
            ("claimed" if is_claimed else "measured", True),
            ("claim capped", claims_too_much and is_claimed),
            ("own engine", facts.is_own),
            ("unlinked", not facts.is_linked and not facts.is_own),
            ("suspect", facts.is_suspect),
            ("cold model", facts.load_s > 0),
            (f"{self.n_in_flight} in flight", self.n_in_flight > 0),
            (f"{facts.fail_fraction:.0%} failed", facts.fail_fraction >= 0.01),
        )
        return tuple(text for text, is_so in said if is_so)


class Learned(msgspec.Struct):
    """What our own exchanges taught us about one peer and model. Owner: Estimates."""

    ttft_s: Seconds | None = None
    """Smoothed time to first token, for display."""
    tpot_s: Seconds | None = None
    log_correction: float = 0.0
    correction_weight: float = 0.0
    n_in_flight: int = 0
    queue_s: Seconds = 0.0
    queue_at: Seconds = 0.0
    """What the provider last said of its queue, and when."""
    wait_s: Seconds = 0.0
    wait_at: Seconds = 0.0
    """What our requests waited there and the provider called a queue, on the mean, and when the newest did."""

    def usual_wait_s(self, now: Seconds) -> Seconds:
        """What is left of the mean wait."""
        return self.wait_s * math.exp2((self.wait_at - now) / WAIT_HALF_LIFE_S)

    @property
    def correction(self) -> float:
        """Observed over claimed prefill time; shrunk towards 1 while there are few observations."""
        return math.exp(self.log_correction / (self.correction_weight + CLAIM_WEIGHT))

    @property
    def is_proven(self) -> bool:
        """Whether a whole answer came from there."""
        return self.tpot_s is not None


class Estimates:
    """Learned numbers of all peers, and predictions from them. Owner: the entry."""

    def __init__(self) -> None:
        self._learned: OrderedDict[tuple[PeerId, ModelDigest], Learned] = OrderedDict()

    # --- what happened ---------------------------------------------------------------------------------------

    def sent(self, peer_id: PeerId, digest: ModelDigest) -> None:
        """A request of ours went out."""
        self._entry(peer_id, digest).n_in_flight += 1

    def ended(self, peer_id: PeerId, digest: ModelDigest) -> None:
        """A request of ours is over, however it ended. Once for each `sent`."""
        learned = self._entry(peer_id, digest)
        learned.n_in_flight = max(0, learned.n_in_flight - 1)

    def queue_reported(self, peer_id: PeerId, digest: ModelDigest, queue_s: Seconds, now: Seconds) -> None:
        """The provider said how long its queue is (Accepted, Waiting, Quote or a refusal's retry-after)."""
        learned = self._entry(peer_id, digest)
        learned.queue_s, learned.queue_at = max(0.0, queue_s), now

    def first_token_came(
        self, facts: Facts, n_prompt_tokens: int, ttft_s: Seconds, queue_s: Seconds, now: Seconds
    ) -> None:
        """The first token came ``ttft_s`` after sending, of which the request waited ``queue_s`` as announced."""
        learned = self._entry(facts.peer_id, facts.digest)
        learned.wait_s = _blend(learned.usual_wait_s(now), queue_s, TPOT_WEIGHT)
        learned.wait_at = now
        learned.ttft_s = _blend(learned.ttft_s, ttft_s, TPOT_WEIGHT)
        spent_s = max(1e-4, ttft_s - queue_s - _rtt_s(facts))
        ratio = spent_s / _claimed_prefill_s(facts, n_prompt_tokens)
        step = max(-math.log(MAX_CORRECTION), min(math.log(MAX_CORRECTION), math.log(ratio)))
        learned.log_correction = learned.log_correction * CORRECTION_MEMORY + step
        learned.correction_weight = learned.correction_weight * CORRECTION_MEMORY + 1

    def waited_in_vain(self, peer_id: PeerId, digest: ModelDigest, wait_s: Seconds, now: Seconds) -> None:
        """A request waited there for so long and was taken elsewhere; so will the next, until that fades.   [EX-56]"""
        learned = self._entry(peer_id, digest)
        learned.wait_s, learned.wait_at = max(wait_s, learned.usual_wait_s(now)), now

    def answer_ended(self, peer_id: PeerId, digest: ModelDigest, n_output_tokens: int, decode_s: Seconds) -> None:
        """``n_output_tokens`` came within ``decode_s`` of the first. Fewer than two tell nothing about speed."""
        if n_output_tokens >= 2:
            learned = self._entry(peer_id, digest)
            learned.tpot_s = _blend(learned.tpot_s, max(1e-5, decode_s) / (n_output_tokens - 1), TPOT_WEIGHT)

    # --- what follows from it --------------------------------------------------------------------------------

    def learned(self, peer_id: PeerId, digest: ModelDigest) -> Learned | None:
        """What we know of a pair; None when we never asked."""
        return self._learned.get((peer_id, digest))

    def predict(self, facts: Facts, n_prompt_tokens: int, n_output_tokens: int, now: Seconds) -> Prediction:
        """The time a request of that size would take if sent now."""
        learned = self._learned.get((facts.peer_id, facts.digest)) or Learned()
        rtt_s = _rtt_s(facts)
        prefill_s = learned.correction * _claimed_prefill_s(facts, n_prompt_tokens)
        tpot_s = learned.tpot_s if learned.tpot_s is not None else 1 / _claimed_output_rate(facts)
        crowded_s = tpot_s * (1 + CROWDING * learned.n_in_flight)
        decode_s = n_output_tokens * crowded_s
        n_slots = max(1, facts.n_slots) if learned.is_proven or facts.is_own else 1
        n_ahead = max(0, learned.n_in_flight + 1 - n_slots)
        told_s = max(0.0, learned.queue_s - (now - learned.queue_at))
        queue_s = max(told_s, learned.usual_wait_s(now)) + n_ahead / n_slots * (prefill_s + decode_s)
        load_s = max(0.0, facts.load_s - told_s)
        return Prediction(
            rtt_s=rtt_s,
            queue_s=queue_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            penalty_s=_penalty_s(facts, rtt_s),
            load_s=load_s,
            facts=facts,
            is_measured=learned.is_proven,
            n_in_flight=learned.n_in_flight,
        )

    # --- inside ----------------------------------------------------------------------------------------------

    def _entry(self, peer_id: PeerId, digest: ModelDigest) -> Learned:
        learned = self._learned.setdefault((peer_id, digest), Learned())
        self._learned.move_to_end((peer_id, digest))
        if len(self._learned) > MAX_TRACKED:
            self._learned.popitem(last=False)
        return learned


def _rtt_s(facts: Facts) -> Seconds:
    if facts.is_own:
        return 0.0
    return RTT_UNKNOWN_S if facts.rtt_s is None else facts.rtt_s


def _blend(old: Seconds | None, new: Seconds, weight: float) -> Seconds:
    return new if old is None else old + weight * (new - old)


def _claimed_prefill_s(facts: Facts, n_prompt_tokens: int) -> Seconds:
    claim = facts.claimed_prefill_tokens_per_s or DEFAULT_PREFILL_TOKENS_PER_S
    return PREFILL_FIXED_S + n_prompt_tokens / min(claim, MAX_PREFILL_TOKENS_PER_S)


def _claimed_output_rate(facts: Facts) -> float:
    return min(facts.claimed_output_tokens_per_s or DEFAULT_OUTPUT_TOKENS_PER_S, MAX_OUTPUT_TOKENS_PER_S)


def _penalty_s(facts: Facts, rtt_s: Seconds) -> Seconds:
    unlinked_s = 0.0 if facts.is_linked or facts.is_own else COLD_ROUND_TRIPS * rtt_s
    suspect_s = SUSPECT_PENALTY_S if facts.is_suspect else 0.0
    return unlinked_s + suspect_s + facts.fail_fraction * FAIL_COST_S
