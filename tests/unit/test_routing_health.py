"""Breakers and waits: when a peer is asked again."""

from __future__ import annotations

import pytest

from mcd.ids import ModelDigest, PeerId
from mcd.routing import health as health_module
from mcd.routing.health import BACKOFF_FIRST_S, MAX_BACKOFF_S, MAX_WAIT_S, TRIAL_TIMEOUT_S, Health

A, DIGEST, OTHER = PeerId("a"), ModelDigest(b"d" * 32), ModelDigest(b"e" * 32)


def usable_at(health: Health, digest: ModelDigest = DIGEST, now: float = 0.0) -> float:
    return health.standing(A, digest, now).not_before


def test_a_stranger_may_be_asked() -> None:
    standing = Health().standing(A, DIGEST, 0.0)
    assert standing.not_before <= 0.0
    assert (standing.why, standing.fail_fraction) == ("", 0.0)
    assert Health().ok_fraction(A) is None


def test_each_failure_in_a_row_doubles_the_wait_up_to_a_minute() -> None:
    health, now, waits = Health(), 100.0, []
    for _ in range(10):
        health.failed(A, now)
        waits.append(usable_at(health, now=now) - now)
        now += 1000
    assert waits[:4] == [BACKOFF_FIRST_S, 1.0, 2.0, 4.0]
    assert waits[-1] == MAX_BACKOFF_S


def test_after_the_wait_one_trial_at_a_time() -> None:
    health = Health()
    health.failed(A, 0.0)
    assert health.standing(A, DIGEST, 0.1).why == "breaker open"
    assert health.standing(A, DIGEST, 0.5).not_before <= 0.5
    health.asked(A, 0.5)
    assert health.standing(A, DIGEST, 0.6).why == "on trial"
    assert health.standing(A, DIGEST, 0.6).not_before > 0.6
    health.succeeded(A)
    assert health.standing(A, DIGEST, 0.6).not_before <= 0.6


def test_a_failed_trial_waits_longer() -> None:
    health = Health()
    health.failed(A, 0.0)
    health.asked(A, 0.5)
    health.failed(A, 0.7)
    assert usable_at(health, now=0.7) == pytest.approx(0.7 + 2 * BACKOFF_FIRST_S)


def test_a_trial_that_never_reported_does_not_block_for_ever() -> None:
    health = Health()
    health.failed(A, 0.0)
    health.asked(A, 1.0)
    assert usable_at(health, now=2.0) == 1.0 + TRIAL_TIMEOUT_S
    health.released(A)
    assert health.standing(A, DIGEST, 2.0).not_before <= 2.0


def test_asking_a_healthy_peer_is_no_trial() -> None:
    health = Health()
    health.succeeded(A)
    health.asked(A, 0.0)
    assert health.standing(A, DIGEST, 0.0).not_before <= 0.0


@pytest.mark.spec("EX-14")
def test_busy_is_a_wait_for_that_model_and_no_failure() -> None:
    health = Health()
    health.refused(A, DIGEST, 1.5, 10.0)
    assert usable_at(health, now=10.0) == 11.5
    assert health.standing(A, DIGEST, 10.0).why == "busy"
    assert health.standing(A, DIGEST, 10.0).fail_fraction == 0.0
    assert health.standing(A, OTHER, 10.0).not_before <= 10.0
    assert health.standing(A, DIGEST, 11.5).not_before <= 11.5


def test_an_honest_no_closes_the_breaker() -> None:
    health = Health()
    health.failed(A, 0.0)
    health.refused(A, OTHER, 5.0, 0.1)
    assert health.standing(A, DIGEST, 0.1).not_before <= 0.1


def test_a_retry_after_is_bounded() -> None:
    health = Health()
    health.refused(A, DIGEST, 3600.0, 0.0)
    assert usable_at(health) == MAX_WAIT_S
    health.refused(A, DIGEST, -5.0, 0.0)
    assert usable_at(health) == 0.0


def test_the_later_of_wait_and_breaker_counts() -> None:
    health = Health()
    health.refused(A, DIGEST, 0.2, 0.0)
    health.failed(A, 0.0)
    assert health.standing(A, DIGEST, 0.0).why == "breaker open"
    health.refused(A, DIGEST, 30.0, 0.0)
    health.failed(A, 0.0)
    assert health.standing(A, DIGEST, 0.0).why == "busy"


def test_the_fraction_of_good_exchanges_forgets_slowly() -> None:
    health = Health()
    health.failed(A, 0.0)
    assert health.ok_fraction(A) == 0.0
    assert health.standing(A, DIGEST, 9.0).fail_fraction == pytest.approx(0.5)
    for _ in range(100):
        health.succeeded(A)
    assert health.ok_fraction(A) == pytest.approx(1.0, abs=0.01)
    assert health.standing(A, DIGEST, 9.0).fail_fraction < 0.01


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MAX_TRACKED", 2)
    health = Health()
    for peer in ("a", "b", "c"):
        health.failed(PeerId(peer), 0.0)
        health.refused(PeerId(peer), DIGEST, 5.0, 0.0)
    assert health.standing(A, DIGEST, 0.0).not_before <= 0.0
    assert health.standing(PeerId("c"), DIGEST, 0.0).not_before > 0.0
