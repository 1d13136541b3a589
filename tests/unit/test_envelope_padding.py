"""The padding keeps what it is worth: an attacker on frame sizes, and what time tells him all the same."""

from __future__ import annotations

import pytest

from tests.bench.padding import attack, passages, wire_ratio

TEXTS = passages(80)


@pytest.mark.spec("ENV-23", "ENV-24", "ENV-26")
@pytest.mark.parametrize("view", ["sizes", "bytes"])
def test_sizes_name_few_answers(view: str) -> None:
    assert attack(TEXTS, "a frame a token", view) >= 0.95  # the attacker is able
    assert attack(TEXTS, "100 ms, pad 64, end", view) <= 0.25


def test_padding_costs_less_than_a_frame_a_token() -> None:
    assert wire_ratio(TEXTS, "100 ms, pad 64, end") < wire_ratio(TEXTS, "a frame a token")
