"""Predictions against a made-up provider whose true speeds are known."""

from __future__ import annotations

import json

import msgspec
import pytest

from mcd.api import chat
from mcd.entry.router import want_of
from mcd.ids import ModelDigest, PeerId
from mcd.routing import estimate as estimate_module
from mcd.routing.estimate import (
    COLD_ROUND_TRIPS,
    FAIL_COST_S,
    MAX_CORRECTION,
    MAX_OUTPUT_TOKENS_PER_S,
    MAX_PREFILL_TOKENS_PER_S,
    PREFILL_FIXED_S,
    RTT_UNKNOWN_S,
    SUSPECT_PENALTY_S,
    Estimates,
    Facts,
)

A, DIGEST = PeerId("a"), ModelDigest(b"d" * 32)
FACTS = Facts(A, DIGEST, 1000, 50, n_slots=2, rtt_s=0.1, is_linked=True)


def facts(**changes: object) -> Facts:
    return msgspec.structs.replace(FACTS, **changes)


def observe(estimates: Estimates, n_times: int = 20, prefill_rate: float = 1000, tpot_s: float = 0.02) -> None:
    """A provider that truly prefills and decodes at these speeds, over a round trip of 0.1 s."""
    for _ in range(n_times):
        estimates.first_token_came(FACTS, 500, 0.1 + PREFILL_FIXED_S + 500 / prefill_rate, 0.0, now=0.0)
        estimates.answer_ended(A, DIGEST, 101, 100 * tpot_s)


def test_a_claim_is_a_prior() -> None:
    prediction = Estimates().predict(FACTS, 500, 100, now=0.0)
    assert prediction.rtt_s == 0.1
    assert prediction.queue_s == 0.0
    assert prediction.prefill_s == pytest.approx(PREFILL_FIXED_S + 0.5)
    assert prediction.decode_s == pytest.approx(2.0)
    assert prediction.penalty_s == 0.0
    assert prediction.total_s == pytest.approx(2.62)
    assert prediction.notes == ("claimed",)


def test_measurements_replace_claims() -> None:
    estimates = Estimates()
    observe(estimates, prefill_rate=100, tpot_s=0.1)
    prediction = estimates.predict(FACTS, 500, 100, now=0.0)
    assert prediction.prefill_s == pytest.approx(5.0, rel=0.2)
    assert prediction.decode_s == pytest.approx(10.0, rel=0.01)
    assert "measured" in prediction.notes
    observe(estimates, n_times=30)
    assert estimates.predict(FACTS, 500, 100, now=0.0).prefill_s == pytest.approx(0.52, rel=0.3)


def test_the_announced_queue_is_not_blamed_on_prefill() -> None:
    estimates = Estimates()
    for _ in range(20):
        estimates.first_token_came(FACTS, 500, 0.1 + 3.0 + PREFILL_FIXED_S + 0.5, queue_s=3.0, now=0.0)
    assert estimates.predict(FACTS, 500, 0, now=0.0).prefill_s == pytest.approx(0.52, rel=0.01)


@pytest.mark.spec("EX-54")
def test_who_calls_all_its_slowness_a_queue_is_expected_to_be_slow_and_forgiven_when_it_is_not() -> None:
    """It says of 5 s of prefill that they were a queue, and before the next request that there is none."""
    estimates = Estimates()
    for at in range(0, 200, 20):
        estimates.first_token_came(FACTS, 500, 5.12, queue_s=5.0, now=at)
        estimates.queue_reported(A, DIGEST, 0.0, now=at)
    assert estimates.predict(FACTS, 500, 0, now=200).queue_s == pytest.approx(3.5, abs=1)
    assert estimates.predict(FACTS, 500, 0, now=480).queue_s < 0.2, "queues come and go"
    for at in range(200, 210):
        estimates.first_token_came(FACTS, 500, 0.62, queue_s=0.0, now=at)
    assert estimates.predict(FACTS, 500, 0, now=210).queue_s < 0.2


def test_no_claim_beyond_hardware_is_believed() -> None:
    liar = facts(claimed_prefill_tokens_per_s=4e9, claimed_output_tokens_per_s=4e9)
    prediction = Estimates().predict(liar, MAX_PREFILL_TOKENS_PER_S, MAX_OUTPUT_TOKENS_PER_S, now=0.0)
    assert prediction.prefill_s == pytest.approx(PREFILL_FIXED_S + 1.0)
    assert prediction.decode_s == pytest.approx(1.0)
    assert "claim capped" in prediction.notes


def test_a_silent_provider_is_taken_for_a_plain_cpu() -> None:
    silent = facts(claimed_prefill_tokens_per_s=0, claimed_output_tokens_per_s=0)
    assert Estimates().predict(silent, 100, 10, now=0.0).total_s == pytest.approx(0.1 + PREFILL_FIXED_S + 2.0)


def test_our_own_requests_in_flight_count_at_once() -> None:
    estimates = Estimates()
    observe(estimates)
    idle = estimates.predict(FACTS, 500, 100, now=0.0)
    estimates.sent(A, DIGEST)
    one = estimates.predict(FACTS, 500, 100, now=0.0)
    assert one.queue_s == 0.0
    assert idle.decode_s < one.decode_s < 1.2 * idle.decode_s
    estimates.sent(A, DIGEST)
    full = estimates.predict(FACTS, 500, 100, now=0.0)
    assert full.queue_s == pytest.approx((full.prefill_s + full.decode_s) / 2)
    assert "2 in flight" in full.notes
    for _ in range(3):
        estimates.ended(A, DIGEST)
    assert estimates.predict(FACTS, 500, 100, now=0.0).total_s == pytest.approx(idle.total_s)


def test_an_unproven_provider_has_one_slot() -> None:
    estimates = Estimates()
    estimates.sent(A, DIGEST)
    assert estimates.predict(facts(n_slots=64), 500, 100, now=0.0).queue_s > 2.0
    assert estimates.predict(facts(n_slots=64, is_own=True), 500, 100, now=0.0).queue_s == 0.0


def test_a_reported_queue_ages() -> None:
    estimates = Estimates()
    estimates.queue_reported(A, DIGEST, 3.0, now=10.0)
    assert estimates.predict(FACTS, 0, 0, now=10.0).queue_s == 3.0
    assert estimates.predict(FACTS, 0, 0, now=12.0).queue_s == 1.0
    assert estimates.predict(FACTS, 0, 0, now=99.0).queue_s == 0.0


def test_round_trips_come_from_the_link_then_from_the_world() -> None:
    estimates = Estimates()
    assert estimates.predict(facts(rtt_s=None), 0, 0, now=0.0).rtt_s == RTT_UNKNOWN_S
    assert estimates.predict(FACTS, 0, 0, now=0.0).rtt_s == 0.1
    assert estimates.predict(facts(is_own=True), 0, 0, now=0.0).rtt_s == 0.0


@pytest.mark.parametrize(
    ("changes", "penalty_s", "note"),
    [
        ({"is_linked": False}, COLD_ROUND_TRIPS * 0.1, "unlinked"),
        ({"is_suspect": True}, SUSPECT_PENALTY_S, "suspect"),
        ({"fail_fraction": 0.25}, 0.25 * FAIL_COST_S, "25% failed"),
        ({"is_own": True, "is_linked": False}, 0.0, "own engine"),
    ],
)
def test_penalties_are_named(changes: dict[str, object], penalty_s: float, note: str) -> None:
    prediction = Estimates().predict(facts(**changes), 0, 0, now=0.0)
    assert prediction.penalty_s == pytest.approx(penalty_s)
    assert note in prediction.notes


def test_a_cold_model_costs_its_loading_once() -> None:
    """What the provider says of its queue holds the rest of a loading; it is not counted twice."""
    estimates = Estimates()
    cold = facts(load_s=12.0)
    warm_s = estimates.predict(facts(), 100, 100, now=0.0).total_s
    prediction = estimates.predict(cold, 100, 100, now=0.0)
    assert prediction.load_s == 12.0
    assert prediction.total_s == pytest.approx(warm_s + 12.0)
    assert "cold model" in prediction.notes
    estimates.queue_reported(A, DIGEST, 11.0, now=0.0)
    assert estimates.predict(cold, 100, 100, now=0.0).total_s == pytest.approx(warm_s + 12.0)
    assert estimates.predict(facts(), 100, 100, now=11.0).total_s == pytest.approx(warm_s)


def test_absurd_measurements_stay_bounded_and_heal() -> None:
    estimates = Estimates()
    estimates.first_token_came(FACTS, 500, 1e9, 0.0, now=0.0)
    worst = estimates.predict(FACTS, 500, 0, now=0.0).prefill_s
    assert worst <= MAX_CORRECTION * 0.52
    estimates.first_token_came(FACTS, 500, 0.0, 1e9, now=0.0)
    observe(estimates, n_times=40)
    assert estimates.predict(FACTS, 500, 0, now=0.0).prefill_s == pytest.approx(0.52, rel=0.1)


def test_one_token_says_nothing_about_speed() -> None:
    estimates = Estimates()
    estimates.answer_ended(A, DIGEST, 1, 0.0)
    assert estimates.learned(A, DIGEST) is None
    estimates.answer_ended(A, DIGEST, 2, 0.0)
    learned = estimates.learned(A, DIGEST)
    assert learned is not None
    assert learned.is_proven


def test_time_to_first_token_is_kept_for_display() -> None:
    estimates = Estimates()
    estimates.first_token_came(FACTS, 1, 0.4, 0.0, now=0.0)
    learned = estimates.learned(A, DIGEST)
    assert learned is not None
    assert learned.ttft_s == 0.4


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "MAX_TRACKED", 2)
    estimates = Estimates()
    for peer in ("a", "b", "c"):
        estimates.sent(PeerId(peer), DIGEST)
    assert estimates.learned(A, DIGEST) is None
    assert estimates.learned(PeerId("c"), DIGEST) is not None


def test_tools_and_calls_count_as_prompt() -> None:
    schema = '{"type":"object","properties":{"a":{"type":"string","description":"' + "x" * 4000 + '"}}}'
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    tool = {"type": "function", "function": {"name": "f", "parameters": json.loads(schema)}}
    plain, with_tool = (want_of(chat.parse(json.dumps(asked | more).encode())) for more in ({}, {"tools": [tool]}))
    assert plain.n_prompt_tokens == 1
    assert 1000 <= with_tool.n_prompt_tokens <= 1100
