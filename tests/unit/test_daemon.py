"""What the composition root decides itself, which should be next to nothing."""

from __future__ import annotations

import pytest

from mcd.daemon import _clock_check


@pytest.mark.parametrize(
    ("counters", "state"),
    [
        ({}, "ok"),
        ({"accepted": 9, "dropped_expired": 2, "dropped_signature": 50}, "ok"),
        ({"accepted": 1, "dropped_future": 2}, "warn"),
        ({"dropped_expired": 1}, "warn"),
    ],
)
def test_a_clock_that_disagrees_with_most_records_is_doubted(counters: dict[str, int], state: str) -> None:
    check = _clock_check(counters)
    assert check.state == state
    assert ("set-ntp" in check.detail) == (state != "ok")
