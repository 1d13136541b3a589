"""Admission: every reason to say no, each with a retry-after, and the places there are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mcd.ids import ModelDigest
from mcd.ports import EngineStatus
from mcd.provider.admission import MAX_HELD_BYTES, MAX_LOAD_S, MAX_QUEUE_S, Accept, Admission, Ask, Load, Refuse
from mcd.wire.codec import encode_exchange
from mcd.wire.messages import Accepted, Refused, RefuseReason

READY = EngineStatus(
    alias="nano",
    digest=ModelDigest(b"d" * 32),
    state="ready",
    n_ctx=4096,
    n_slots=4,
    n_running=0,
    n_waiting=0,
    capabilities=("chat",),
    prefill_tokens_per_s=1000.0,
    output_tokens_per_s=100.0,
    sealing=0,
    device="CPU",
    restarts=0,
    load_ms=8000,
)
ASK = Ask(n_sealed_bytes=4000, max_output_tokens=100)
SERVICE_S = 2.0
"""1,000 prompt tokens at 1,000/s and 100 output tokens at 100/s."""


def admission(*, max_running: int = 4, max_waiting: int = 8, per_peer: int = 100) -> Admission:
    return Admission(max_running, max_waiting, per_peer)


def status(**changes: object) -> EngineStatus:
    return msgspec.structs.replace(READY, **changes)


def load(n_open: int = 0, n_ahead: int = 0, n_of_asker: int = 0, n_slots: int = 4, **more: Any) -> Load:
    """With so many open here, the asker at that place in line."""
    return Load(n_open, n_of_asker, n_ahead, may_begin=n_open < n_slots, n_hoped_for=n_slots, **more)


@pytest.mark.spec("EX-24")
def test_free_slots_begin_now_then_a_queue_then_no() -> None:
    gate = admission(max_running=2, max_waiting=2)
    decisions = [gate.decide(READY, load(n, max(0, n - 2), n_slots=2), ASK) for n in range(5)]
    assert decisions == [
        Accept(0, 0.0),
        Accept(0, 0.0),
        Accept(1, pytest.approx(SERVICE_S / 2)),
        Accept(2, pytest.approx(SERVICE_S)),
        Refuse(RefuseReason.BUSY, pytest.approx(SERVICE_S / 2)),
    ]


@pytest.mark.spec("EX-24")
def test_what_cannot_begin_in_time_is_refused_at_once() -> None:
    gate = admission(max_running=1, max_waiting=100)
    gate.observe(4.0)
    assert gate.decide(READY, load(2, 1, n_slots=1), ASK) == Accept(2, 8.0)
    refused = gate.decide(READY, load(3, 2, n_slots=1), ASK)
    assert refused == Refuse(RefuseReason.BUSY, 4.0)
    far = gate.decide(READY, load(10, 9, n_slots=1), ASK)
    assert far == Refuse(RefuseReason.BUSY, 40.0 - MAX_QUEUE_S)


@pytest.mark.spec("EX-26")
def test_one_entry_cannot_take_every_place() -> None:
    gate = admission(per_peer=2)
    assert isinstance(gate.decide(READY, load(3, n_of_asker=1), ASK), Accept)
    refused = gate.decide(READY, load(2, n_of_asker=2), ASK)
    assert refused == Refuse(RefuseReason.PEER_LIMIT, pytest.approx(SERVICE_S / 4))


@pytest.mark.spec("EX-36")
def test_a_wait_counts_the_slots_that_may_come_free_for_the_asker() -> None:
    gate = admission()
    assert gate.wait_s(READY, load(9, 2), ASK) == pytest.approx(3 * SERVICE_S / 4)
    spared = msgspec.structs.replace(load(9, 2), n_hoped_for=3)
    assert gate.wait_s(READY, spared, ASK) == pytest.approx(3 * SERVICE_S / 3)


@pytest.mark.spec("EX-36")
def test_who_has_run_for_long_is_not_expected_to_end_in_no_time() -> None:
    """Eight answers of an hour after a morning of short ones: the next entry was told half a second."""
    gate = admission(max_running=8)
    gate.observe(4.0)
    short = gate.decide(READY, load(8, n_slots=8, held_s=2.0), ASK)
    assert short == Accept(1, pytest.approx(0.5))
    long = gate.decide(READY, load(8, n_slots=8, held_s=1800.0), ASK)
    assert long == Refuse(RefuseReason.BUSY, 225.0)


@pytest.mark.spec("EX-38")
def test_what_waits_may_hold_so_much_memory() -> None:
    room = MAX_HELD_BYTES - ASK.n_sealed_bytes
    gate = admission(max_waiting=100)
    assert isinstance(gate.decide(READY, load(5, n_held_bytes=room), ASK), Accept)
    refused = gate.decide(READY, load(5, n_held_bytes=room + 1), ASK)
    assert isinstance(refused, Refuse)
    assert refused.reason is RefuseReason.BUSY
    assert gate.decide(READY, load(1, n_held_bytes=room + 1), ASK) == Accept(0, 0.0), "it does not wait"


@pytest.mark.spec("EX-25")
@pytest.mark.parametrize(
    ("state", "retry_after_s"), [("loading", 2.0), ("restarting", 2.0), ("degraded", 60.0), ("failed", 60.0)]
)
def test_an_engine_that_is_not_ready_says_when(state: str, retry_after_s: float) -> None:
    assert admission().decide(status(state=state), load(), ASK) == Refuse(RefuseReason.LOADING, retry_after_s)


@pytest.mark.spec("EX-25")
def test_every_no_that_may_change_says_when_to_ask_again() -> None:
    gate = admission(max_running=1, max_waiting=0, per_peer=1)
    for decision in (
        gate.decide(READY, load(1, n_slots=1), ASK),
        gate.decide(READY, load(1, n_of_asker=1, n_slots=1), ASK),
        gate.decide(status(state="loading", load_ms=0), load(), ASK),
        gate.decide(status(prefill_tokens_per_s=0.0, output_tokens_per_s=0.0), load(1, n_slots=1), ASK),
    ):
        assert isinstance(decision, Refuse)
        assert decision.reason in {RefuseReason.BUSY, RefuseReason.PEER_LIMIT, RefuseReason.LOADING}
        assert decision.retry_after_s > 0


@pytest.mark.parametrize("state", ["asleep", "loading"])
def test_a_model_that_loads_soon_enough_is_waited_for(state: str) -> None:
    """The entry knew the time from the record; a no would only send it on to wake the next provider."""
    gate = admission(max_running=1)
    assert gate.decide(status(state=state, ready_in_s=12.0), load(), ASK) == Accept(0, 12.0)
    queued = gate.decide(status(state=state, ready_in_s=12.0), load(1, n_slots=1), ASK)
    assert queued == Accept(1, pytest.approx(12.0 + SERVICE_S))
    slow = gate.decide(status(state=state, ready_in_s=MAX_LOAD_S + 1), load(), ASK)
    assert slow == Refuse(RefuseReason.LOADING, MAX_LOAD_S + 1)


def test_nobody_serves_an_unknown_or_stopped_model() -> None:
    assert admission().decide(None, load(), ASK) == Refuse(RefuseReason.MODEL_UNKNOWN)
    assert admission().decide(status(state="stopped"), load(), ASK) == Refuse(RefuseReason.MODEL_UNKNOWN)


def test_a_provider_that_stops_takes_nothing_more() -> None:
    gate = admission()
    gate.is_stopping = True
    assert gate.decide(READY, load(), ASK) == Refuse(RefuseReason.SHUTTING_DOWN)
    assert gate.decide(None, load(), ASK) == Refuse(RefuseReason.SHUTTING_DOWN)


@pytest.mark.spec("EX-45")
@pytest.mark.parametrize(
    ("ask", "is_fine"),
    [
        (Ask(65_536 + 64 * 4096, 0), True),
        (Ask(65_536 + 64 * 4096 + 1, 0), False),
        (Ask(100, 16 * 4096), True),
        (Ask(100, 16 * 4096 + 1), False),
        (Ask(100, 0, resume_from=16 * 4096 + 1), False),
    ],
)
def test_what_no_tokenizer_could_fit_is_too_large(ask: Ask, is_fine: bool) -> None:
    decision = admission().decide(READY, load(), ask)
    assert decision == (Accept(0, 0.0) if is_fine else Refuse(RefuseReason.TOO_LARGE))


@pytest.mark.spec("EX-45")
def test_a_picture_is_not_measured_by_its_bytes() -> None:
    sees = status(capabilities=("chat", "vision"))
    assert admission().decide(sees, load(), Ask(8_000_000, 0)) == Accept(0, 0.0)
    assert admission().decide(sees, load(), Ask(8_000_000, 16 * 4096 + 1)) == Refuse(RefuseReason.TOO_LARGE)


def test_a_prompt_takes_no_longer_than_a_full_context() -> None:
    """The first picture of five megabytes was reckoned as twenty minutes, and refused where one request ran."""
    sees = status(capabilities=("chat", "vision"))
    assert admission().service_s(sees, Ask(5_000_000, 100)) == pytest.approx(4.096 + 1.0)
    behind = admission(max_running=1).decide(sees, load(1, n_slots=1), Ask(5_000_000, 100))
    assert behind == Accept(1, pytest.approx(5.096))


def test_observed_times_replace_measured_speeds() -> None:
    gate = admission(max_running=1)
    assert gate.service_s(READY, ASK) == pytest.approx(SERVICE_S)
    gate.observe(1.0)
    gate.observe(2.0)
    assert gate.service_s(READY, ASK) == pytest.approx(1.2)


def test_decisions_become_messages_within_their_bounds() -> None:
    assert Accept(2, 1.2345).message() == Accepted(2, 1235)
    assert Refuse(RefuseReason.BUSY, 0.0001).message() == Refused(1, 1)
    for message in (Accept(10**9, 1e9).message(), Refuse(RefuseReason.LOADING, 1e9).message()):
        encode_exchange(message)


@pytest.mark.spec("EX-45")
def test_a_request_of_many_texts_is_not_measured_by_one_context() -> None:
    encoder = status(n_ctx=512, capabilities=("embeddings", "tokenize"), output_tokens_per_s=0.0)
    many = Ask(n_sealed_bytes=4_000_000, max_output_tokens=1)
    assert admission().decide(encoder, load(), many) == Accept(0, 0.0)
    assert admission().decide(status(n_ctx=512), load(), many) == Refuse(RefuseReason.TOO_LARGE)
    assert admission().service_s(encoder, Ask(4000, 1)) == pytest.approx(1.0)
