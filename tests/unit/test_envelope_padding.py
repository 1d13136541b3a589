"""The padding keeps what it is worth: an attacker on frame sizes, and what time tells him all the same."""

from __future__ import annotations

import pytest

from tests.bench.padding import attack, passages, wire_ratio

TEXTS = passages(80)


@pytest.mark.spec("ENV-23", "ENV-24", "ENV-26")
def test_bytes_name_few_answers() -> None:
    assert attack(TEXTS, "a frame a token", "bytes") >= 0.95  # the attacker is able
    assert attack(TEXTS, "100 ms, pad 64, end", "bytes") <= 0.1


@pytest.mark.spec("ENV-23", "ENV-24")
@pytest.mark.parametrize("view", ["sizes", "traffic"])
def test_who_sees_each_flush_learns_less_from_its_size_than_from_the_time(view: str) -> None:
    assert attack(TEXTS, "a frame a token", view) >= 0.95
    assert attack(TEXTS, "100 ms, pad 64, end", view) < attack(TEXTS, "100 ms, pad 64, end", "duration")


def test_padding_costs_less_than_a_frame_a_token() -> None:
    assert wire_ratio(TEXTS, "100 ms, pad 64, end") < wire_ratio(TEXTS, "a frame a token")
