"""How many compute, how batches are filled up, and when that is to be asked again: the pure parts of tuning."""

from __future__ import annotations

import pytest

from mcd.engine import measure
from mcd.engine.batch import n_padding
from mcd.engine.pace import RETUNE_PAUSE_S, WINDOW, Pace


def feed(pace: Pace, n_rows: int, step_s: float, now: float) -> bool:
    said = [pace.has_slowed(n_rows, step_s, now) for _ in range(WINDOW)]
    return any(said)


def test_steady_steps_are_left_alone() -> None:
    pace = Pace()
    assert not any(feed(pace, 4, 0.01 * (1 + i % 3 / 10), 100.0 + i) for i in range(20))


def test_doubled_steps_are_noticed_once_and_not_too_often() -> None:
    pace = Pace()
    pace.tuned(0.0)
    assert not feed(pace, 4, 0.01, 70.0)
    assert not feed(pace, 4, 0.019, 71.0)
    assert feed(pace, 4, 0.021, 72.0)
    pace.tuned(72.0)
    assert not feed(pace, 4, 0.021, 73.0), "what is usual was forgotten with the old threads"
    assert not feed(pace, 4, 0.05, 72.0 + RETUNE_PAUSE_S - 1)
    assert feed(pace, 4, 0.05, 72.0 + RETUNE_PAUSE_S)


def test_larger_batches_and_single_hiccups_are_no_slowing() -> None:
    pace = Pace()
    assert not feed(pace, 1, 0.01, 100.0)
    assert not feed(pace, 16, 0.05, 101.0)
    assert not any(pace.has_slowed(1, 1.0 if i % 4 == 0 else 0.01, 102.0) for i in range(WINDOW))


@pytest.mark.parametrize(
    ("n_rows", "extra"),
    [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 2),
        (7, 1),
        (8, 0),
        (9, 0),
        (12, 0),
        (13, 3),
        (15, 1),
        (16, 0),
        (30, 2),
    ],
)
def test_padding_is_added_where_it_was_measured_to_pay(n_rows: int, extra: int) -> None:
    assert n_padding(n_rows) == extra


@pytest.mark.parametrize(("times_s", "chosen"), [((3.0, 2.0, 1.0), 7), ((1.0, 0.97, 2.0), 1), ((2.0, 1.0, 0.99), 4)])
def test_more_threads_must_clearly_pay(times_s: tuple[float, ...], chosen: int) -> None:
    assert measure._fewest((1, 4, 7), times_s) == chosen


def test_a_wish_is_not_tried_out() -> None:
    assert measure.thread_choices(3) == (3,)
    assert measure.thread_choices(0)[0] == 1


def test_slow_models_get_few_slots() -> None:
    assert measure.slots_for(0.4, 8) == 2
    assert measure.slots_for(5.5, 8) == 5
    assert measure.slots_for(500.0, 8) == 8
    assert measure.slots_for(500.0, 1) == 1
