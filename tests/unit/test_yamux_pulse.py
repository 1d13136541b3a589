"""The pulse: when to ping, when to give up, what counts as a sample."""

from __future__ import annotations

import pytest

from mcd.mesh.yamux_pulse import DEAD_AFTER_S, PING_EVERY_S, Pulse


def run(pulse: Pulse, *, until_s: float, answers: bool, rtt_s: float = 0.0) -> list[tuple[float, str]]:
    """Follow the pulse's own timer; returns what it said."""
    said = []
    while (now_s := pulse.wake_at_s()) <= until_s:
        verdict = pulse.judge(now_s)
        said.append((now_s, verdict))
        if verdict == "dead":
            break
        if verdict == "ping" and answers:
            pulse.heard_at_s = now_s + rtt_s
            pulse.answered(pulse.ping_id, now_s + rtt_s)
    return said


def test_it_pings_at_once_and_then_every_so_often() -> None:
    assert run(Pulse(100.0), until_s=110.0, answers=True) == [
        (100.0 + turn * PING_EVERY_S, "ping") for turn in range(5)
    ]


def test_silence_kills_on_time() -> None:
    said = run(Pulse(0.0), until_s=100.0, answers=False)
    assert said[-1] == (DEAD_AFTER_S, "dead")


def test_the_round_trip_is_smoothed() -> None:
    pulse = Pulse(0.0)
    run(pulse, until_s=10.0, answers=True, rtt_s=0.1)
    assert pulse.rtt_s == pytest.approx(0.1)
    pulse.judge(pulse.wake_at_s())
    pulse.answered(pulse.ping_id, pulse.wake_at_s() - PING_EVERY_S + 0.9)
    assert pulse.rtt_s == pytest.approx(0.2)


def test_only_the_last_ping_counts_and_once() -> None:
    pulse = Pulse(0.0)
    assert pulse.judge(0.0) == "ping"
    pulse.answered(pulse.ping_id + 1, 0.5)
    assert pulse.rtt_s is None
    pulse.answered(pulse.ping_id, 0.5)
    pulse.answered(pulse.ping_id, 9.0)
    assert pulse.rtt_s == 0.5


def test_asked_too_early_it_waits() -> None:
    pulse = Pulse(0.0)
    pulse.judge(0.0)
    assert pulse.judge(1.0) == "wait"


def test_our_own_pause_gives_the_peer_one_more_ping() -> None:
    pulse = Pulse(0.0)
    pulse.judge(0.0)
    assert pulse.judge(3600.0) == "ping"
    assert pulse.judge(pulse.wake_at_s()) == "dead", "and no more than one"
