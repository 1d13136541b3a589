"""Slot policy: reuse what is shared, never overdraw the memory, never cross a cache key."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.slots import (
    ANYWHERE,
    CHECKPOINT_TOKENS,
    MIN_HOLD_TOKENS,
    MIN_REUSE_TOKENS,
    Cuts,
    Slot,
    common_prefix,
    in_turn,
    marks_of,
    must_hold,
    place,
    reach,
    share_prefill,
)

SYSTEM = list(range(1000, 1100))
RECURRENT = Cuts(is_recurrent=True)
WINDOW = Cuts(window=32)


def slots(n: int) -> list[Slot]:
    return [Slot(index) for index in range(n)]


def idle(slot: Slot, tokens: list[int], key: str = "k", last_used: float = 0.0) -> None:
    slot.tokens, slot.cache_key, slot.last_used = tokens, key, last_used


def busy(slot: Slot, tokens: list[int], reserved: int, key: str = "k", planned: list[int] | None = None) -> None:
    idle(slot, tokens, key)
    slot.is_busy, slot.reserved, slot.planned = True, reserved, planned or ()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_common_prefix(first: list[int], second: list[int]) -> None:
    expected = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    assert common_prefix(first, second) == expected


def test_conversation_goes_on_in_its_own_slot() -> None:
    pool = slots(3)
    idle(pool[1], SYSTEM, last_used=5.0)
    found = place(pool, [*SYSTEM, 1, 2], "k", 200, 1000, cuts=ANYWHERE)
    assert found is not None
    assert (found.slot, found.source, found.n_reused) == (pool[1], pool[1], len(SYSTEM))


def test_last_prompt_token_is_always_computed() -> None:
    pool = slots(1)
    idle(pool[0], SYSTEM)
    found = place(pool, list(SYSTEM), "k", 200, 1000, cuts=ANYWHERE)
    assert found is not None
    assert found.n_reused == len(SYSTEM) - 1


def test_other_key_is_never_reused() -> None:
    pool = slots(2)
    idle(pool[0], SYSTEM, key="other")
    found = place(pool, [*SYSTEM, 1], "k", 200, 1000, cuts=ANYWHERE)
    assert found is not None
    assert found.n_reused == 0
    assert not must_hold(pool, [*SYSTEM, 1], "k")


def test_long_cache_is_copied_from_not_cut_short() -> None:
    pool = slots(2)
    idle(pool[0], [*SYSTEM, *range(400)])
    found = place(pool, [*SYSTEM, 7], "k", 200, 1000, cuts=ANYWHERE)
    assert found is not None
    assert (found.slot, found.source) == (pool[1], pool[0])


def test_busy_neighbour_is_a_source() -> None:
    pool = slots(2)
    busy(pool[0], [*SYSTEM, 1, 2, 3], 300)
    found = place(pool, [*SYSTEM, 9], "k", 200, 1000, cuts=ANYWHERE)
    assert found is not None
    assert (found.slot, found.source, found.n_reused) == (pool[1], pool[0], len(SYSTEM))


def test_recurrent_memory_continues_at_an_end_or_a_checkpoint() -> None:
    pool = slots(2)
    idle(pool[1], SYSTEM)
    whole = place(pool, [*SYSTEM, 9], "k", 200, 1000, cuts=RECURRENT)
    assert whole is not None
    assert (whole.slot, whole.n_reused) == (pool[1], len(SYSTEM))
    part = place(pool, [*SYSTEM[:50], 9], "k", 200, 1000, cuts=RECURRENT)
    assert part is not None
    assert part.n_reused == 0
    pool[1].checkpoints = [20, 40, 80]
    kept = place(pool, [*SYSTEM[:50], 9], "k", 200, 1000, cuts=RECURRENT)
    assert kept is not None
    assert (kept.slot, kept.source, kept.n_reused) == (pool[0], pool[1], 40)


def test_recurrent_neighbour_is_copied_whole() -> None:
    pool = slots(2)
    busy(pool[0], SYSTEM, 300)
    found = place(pool, [*SYSTEM, 9], "k", 200, 1000, cuts=RECURRENT)
    assert found is not None
    assert (found.slot, found.source, found.n_reused) == (pool[1], pool[0], len(SYSTEM))
    pool[0].tokens = [*SYSTEM, 5]
    moved_on = place(pool, [*SYSTEM, 9], "k", 200, 1000, cuts=RECURRENT)
    assert moved_on is not None
    assert moved_on.n_reused == 0


def test_window_is_cut_only_where_all_it_looks_at_is_left() -> None:
    slot = slots(1)[0]
    idle(slot, SYSTEM)
    assert reach(slot, 50, WINDOW, is_copy=False) == 50
    slot.first_kept = 50 - WINDOW.window
    assert reach(slot, 50, WINDOW, is_copy=False) == 50
    slot.first_kept += 1
    assert reach(slot, 50, WINDOW, is_copy=False) == 0
    slot.checkpoints = [30, 45, 60]
    assert reach(slot, 50, WINDOW, is_copy=False) == 45
    assert reach(slot, len(SYSTEM), WINDOW, is_copy=False) == len(SYSTEM)


def test_copy_of_a_window_takes_only_what_its_end_looks_at() -> None:
    slot = slots(1)[0]
    idle(slot, SYSTEM)
    assert reach(slot, 90, WINDOW, is_copy=True) == 0
    assert reach(slot, len(SYSTEM), WINDOW, is_copy=True) == len(SYSTEM)
    idle(slot, SYSTEM[: WINDOW.window])
    assert reach(slot, 20, WINDOW, is_copy=True) == 20


def test_marks_are_at_the_end_where_prompts_part_and_regular() -> None:
    pool = slots(3)
    idle(pool[0], [*SYSTEM, 1, 2])
    idle(pool[1], SYSTEM, key="another")
    prompt = [*SYSTEM, *range(2 * CHECKPOINT_TOKENS)]
    idle(pool[2], [])
    assert marks_of(pool, pool[2], prompt) == [64, CHECKPOINT_TOKENS, 2 * CHECKPOINT_TOKENS, len(prompt) - 1]


def test_prefill_is_asked_for_a_checkpoint_where_a_waiting_prompt_parts() -> None:
    pool = slots(2)
    busy(pool[0], [], 300, planned=[*SYSTEM, 1])
    assert must_hold(pool, [*SYSTEM, 2], "k", RECURRENT)
    assert pool[0].marks == [64]
    pool[0].tokens = SYSTEM[:64]
    pool[0].checkpoints = [64]
    pool[0].marks = []
    assert not must_hold(pool, [*SYSTEM, 2], "k", RECURRENT)
    pool[0].tokens = [*SYSTEM, 1]
    pool[0].checkpoints = []
    assert not must_hold(pool, [*SYSTEM, 2], "k", RECURRENT), "it would wait for a checkpoint that never comes"


def test_full_memory_waits_and_idle_caches_yield_oldest_first() -> None:
    pool = slots(3)
    busy(pool[0], [1], 600)
    assert place(pool, [5, 6], "k", 500, 1000, cuts=ANYWHERE) is None
    idle(pool[1], list(range(150)), last_used=2.0)
    idle(pool[2], list(range(150, 300)), last_used=1.0)
    found = place(pool, [5, 6], "k", 300, 1000, cuts=ANYWHERE)
    assert found is not None
    assert found.slot is pool[2]
    assert found.evict == [pool[1]]


def test_the_cache_used_longest_ago_makes_room() -> None:
    pool = slots(4)
    for slot, last_used in zip(pool[1:], (3.0, 1.0, 2.0), strict=True):
        idle(slot, list(range(100 * slot.index, 100 * slot.index + 100)), last_used=last_used)
    for n_wanted, evicted in (
        (100, []),
        (150, [pool[2]]),
        (250, [pool[2], pool[3]]),
        (350, [pool[2], pool[3], pool[1]]),
    ):
        found = place(pool, [5, 6], "k", n_wanted, 400, cuts=ANYWHERE)
        assert found is not None
        assert (found.slot, found.evict) == (pool[0], evicted)


def test_a_source_that_must_make_room_goes_last() -> None:
    """Its cells are copied first, and cleared after that."""
    pool = slots(3)
    busy(pool[0], [1], 1)
    idle(pool[1], [*SYSTEM, *range(900, 900 + 2 * len(SYSTEM))], last_used=1.0)
    found = place(pool, [*SYSTEM, 1, 2], "k", 3 * len(SYSTEM), 4 * len(SYSTEM), cuts=ANYWHERE)
    assert found is not None
    assert found.slot is pool[2]
    assert (found.source, found.n_reused) == (pool[1], len(SYSTEM))
    assert found.evict == [pool[1]]


def test_nobody_waits_for_the_prefill_of_another_key() -> None:
    pool = slots(2)
    busy(pool[0], SYSTEM[:10], 300, key="k", planned=SYSTEM)
    assert must_hold(pool, [*SYSTEM, 1], "k")
    assert not must_hold(pool, [*SYSTEM, 1], "another")


def test_same_prefix_waits_for_the_prefill_under_way() -> None:
    pool = slots(3)
    busy(pool[0], SYSTEM[:10], 300, planned=SYSTEM)
    assert must_hold(pool, [*SYSTEM, 1], "k")
    pool[0].tokens = list(SYSTEM[: len(SYSTEM) - MIN_HOLD_TOKENS + 1])
    assert not must_hold(pool, [*SYSTEM, 1], "k")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_cells_are_never_overdrawn(data: st.DataObject) -> None:
    """Random life of a small engine: what slots may come to hold never exceeds the memory."""
    n_cells = 200
    pool = slots(4)
    for now in range(data.draw(st.integers(1, 25))):
        live = [slot for slot in pool if slot.is_busy]
        if live and data.draw(st.booleans()):
            done = data.draw(st.sampled_from(live))
            done.is_busy, done.reserved, done.last_used = False, 0, float(now)
            continue
        shared = data.draw(st.integers(0, 40))
        prompt = [*SYSTEM[:shared], *data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=30))]
        key = data.draw(st.sampled_from(["a", "b"]))
        wanted = len(prompt) + data.draw(st.integers(1, 80))
        found = place(pool, prompt, key, wanted, n_cells, cuts=ANYWHERE)
        if found is None:
            continue
        assert not found.slot.is_busy
        assert found.source is None or found.source.cache_key == key
        assert found.n_reused == 0 or (
            found.source is not None
            and found.n_reused >= MIN_REUSE_TOKENS
            and found.source.tokens[: found.n_reused] == prompt[: found.n_reused]
        )
        for victim in found.evict:
            assert not victim.is_busy
            victim.tokens = []
        busy(found.slot, list(prompt), wanted, key)
        assert sum(slot.n_cells() for slot in pool) <= n_cells


def test_a_question_does_not_wait_for_a_book_nor_the_book_for_ever() -> None:
    assert share_prefill([10_000], 256) == [(0, 256)]
    assert share_prefill([10_000, 100], 256) == [(0, 156), (1, 100)]
    assert share_prefill([10_000, 500, 60], 256) == [(0, 128), (1, 68), (2, 60)]
    assert share_prefill([20, 30], 256) == [(0, 20), (1, 30)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=8), st.integers(1, 512))
def test_every_row_is_used_and_none_twice(left: list[int], n_rows: int) -> None:
    shares = dict(share_prefill(left, n_rows))
    assert sum(shares.values()) == min(sum(left), n_rows)
    assert all(0 < n <= left[index] for index, n in shares.items())
    assert shares.get(0, 0) >= min(left[0], n_rows // 2)


class Asked(msgspec.Struct):
    """A choice's request: ``"a1"`` is request 1 of asker a."""

    id: int
    asker: int
    max_slots: int


def asked(names: str, max_slots: int = 0) -> list[Asked]:
    return [Asked(int(name[1:]), ord(name[0]), max_slots) for name in names.split()]


def test_further_choices_of_a_request_do_not_stand_before_the_first_of_another() -> None:
    assert in_turn(asked("a7 a7 a7 b8 c9"), asked("a7")) == [3, 4, 0, 1, 2]
    assert in_turn(asked("a7 a7 b8 b8"), []) == [0, 2, 1, 3]
    assert in_turn(asked("a5 b6 c7"), asked("d1 e2")) == [0, 1, 2]


@pytest.mark.spec("EX-46")
def test_further_choices_go_to_who_holds_fewest_whatever_the_number_of_requests() -> None:
    assert in_turn(asked("a1 b2"), asked("a1 a3 b2")) == [1, 0], "of a, two requests with a slot each"


@pytest.mark.spec("EX-46")
def test_nobody_holds_more_slots_than_he_may_by_asking_for_several_choices() -> None:
    assert in_turn(asked("a1 a1 a1 a1", 3), []) == [0, 1, 2]
    assert in_turn(asked("a1 b2 b2", 3), asked("a1 a1 a1", 3)) == [1, 2]
    assert in_turn(asked("a2 b3", 3), asked("a1 a1 a1", 3)) == [1], "nor by a second request beside them"
    assert in_turn(asked("a1 a1", 0), asked("a1 a1 a1", 0)) == [0, 1], "but where nothing bounds him"
