"""Pictures among tokens: positions, whole cuts, and the slots' policy with them."""

from __future__ import annotations

import pytest

from mcd.engine.slots import Cuts, Slot, marks_of, must_hold, place
from mcd.engine.spans import Span, key_of, last_position, next_span, position, whole

CAT, DOG = key_of("cat", 0), key_of("dog", 0)


def test_the_number_of_a_picture_is_its_own_and_no_token() -> None:
    keys = {key_of(name, index) for name in ("a", "b", "1 a") for index in range(3)}
    assert len(keys) == 9
    assert all(key < 0 for key in keys)


def test_positions_behind_a_picture_that_takes_fewer() -> None:
    spans = [Span(2, 6, 3, is_flat=False), Span(10, 4, 2, is_flat=False)]
    assert [position(spans, n) for n in (0, 2, 8, 10, 14, 20)] == [0, 2, 5, 7, 9, 15]
    assert [last_position(spans, n) for n in (1, 2, 8, 9, 14, 15)] == [0, 1, 2, 5, 7, 9]
    flat = [Span(2, 6, 6, is_flat=True)]
    assert [last_position(flat, n) for n in (2, 8, 9)] == [1, 7, 8]
    assert next_span(spans, 3) is spans[1]
    assert next_span(spans, 11) is None


@pytest.mark.parametrize(("n", "kept"), [(0, 0), (2, 2), (3, 2), (6, 2), (7, 7), (8, 8), (9, 9), (10, 9), (11, 11)])
def test_no_cut_goes_through_a_picture(n: int, kept: int) -> None:
    prompt = [1, 2, *[CAT] * 5, 3, 4, *[DOG] * 2]
    assert whole(prompt, n) == kept


def test_equal_pictures_side_by_side_are_two() -> None:
    prompt = [1, *[key_of("cat", 0)] * 3, *[key_of("cat", 1)] * 3, 2]
    assert whole(prompt, 4) == 4
    assert whole(prompt, 5) == 4


def test_a_prompt_shares_a_picture_whole_or_not_at_all() -> None:
    slot = Slot(0)
    slot.cache_key = "k"
    slot.tokens = [*range(20), *[CAT] * 30, 7, 8]
    with_cat = [*range(20), *[CAT] * 30, 9, 9]
    with_dog = [*range(20), *[DOG] * 30, 9, 9]
    shorter = [*range(20), *[CAT] * 30]
    reused = [place([slot, Slot(1)], p, "k", 100, 1000, cuts=Cuts()) for p in (with_cat, with_dog, shorter)]
    assert [found.n_reused for found in reused if found] == [50, 20, 20]


def test_checkpoints_are_taken_at_no_place_within_a_picture() -> None:
    cuts = Cuts(is_recurrent=True)
    prompt = [*range(100), *[CAT] * 300, *range(50)]
    slot, other = Slot(0), Slot(1)
    other.tokens = [*prompt[:200]]
    slot.cache_key = other.cache_key = "k"
    assert marks_of([slot, other], slot, prompt) == [64, 449]
    slot.is_busy, slot.planned = True, prompt
    assert must_hold([slot], [*prompt[:420], 7, 7], "k", cuts)
    assert slot.marks == [100]
