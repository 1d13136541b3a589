"""Shares of a thread: whoever has had least time is next, and nobody gains by coming late or by bringing much."""

from __future__ import annotations

from collections import Counter

from mcd.engine.shares import Shares

SLOW, QUICK, LATE = 1, 2, 3


def begun(shares: Shares[float]) -> int:
    """Run the next call, which takes as many seconds as it says; whose it was."""
    following = shares.next()
    assert following is not None
    asker, seconds = following
    shares.took(asker, seconds)
    return asker


def test_calls_of_one_asker_keep_their_order() -> None:
    shares: Shares[str] = Shares()
    for call in "abc":
        shares.add(SLOW, call)
    assert [shares.next() for _ in range(4)] == [(SLOW, "a"), (SLOW, "b"), (SLOW, "c"), None]


def test_a_quick_call_waits_for_one_slow_one_at_most_and_has_as_much_time() -> None:
    shares: Shares[float] = Shares()
    for _ in range(16):
        shares.add(SLOW, 5.0)
    assert begun(shares) == SLOW
    order = []
    for _ in range(110):
        shares.add(QUICK, 0.05)
        order.append(begun(shares))
    assert order[:99] == [QUICK] * 99
    assert Counter(order)[SLOW] == 1


def test_who_comes_late_has_no_credit_for_the_time_before() -> None:
    shares: Shares[float] = Shares()
    for _ in range(100):
        shares.add(QUICK, 1.0)
        begun(shares)
    for _ in range(20):
        shares.add(LATE, 1.0)
        shares.add(QUICK, 1.0)
    assert min(Counter(begun(shares) for _ in range(20)).values()) >= 9


def test_nothing_is_remembered_of_who_has_no_lead() -> None:
    shares: Shares[float] = Shares()
    for asker in range(1000):
        shares.add(asker, 1.0)
    while shares._waiting:
        begun(shares)
    for _ in range(3):
        shares.add(LATE, 1.0)
        begun(shares)
    assert len(shares._had_s) == 1
