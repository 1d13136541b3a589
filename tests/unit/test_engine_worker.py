"""The worker's loop: answers that are due about the same time are sealed in one turn."""

from __future__ import annotations

from types import SimpleNamespace

from mcd.engine.answer import Answer
from mcd.engine.backend import Piece
from mcd.engine.messages import Credit
from mcd.engine.worker import MAX_SHARED, SHARED_FLUSH_S, Worker
from tests.unit.envelope_kit import NOW_MS
from tests.unit.test_seal import config_of, request, started


class Due:
    """An answer that writes down when it was flushed."""

    is_over, is_paused, has_credit = False, False, True

    def __init__(self, id: int, due_at: float) -> None:
        self.id = id
        self.due_at = due_at
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def holding(answers: list[Due]) -> Worker:
    worker = Worker(SimpleNamespace(post=None), SimpleNamespace(), SimpleNamespace())
    worker._answers = {answer.id: answer for answer in answers}
    worker._turn.scheduled += answers
    return worker


def test_answers_due_soon_after_a_flush_wait_for_each_other() -> None:
    first, *_ = answers = [Due(1, 10.0), Due(2, 10.01), Due(3, 10.02)]
    worker = holding(answers)

    def flushed_at(now: float) -> list[int]:
        worker._turn.now = now
        worker._flush_due()
        return [answer.flushed for answer in answers]

    assert flushed_at(9.99) == [0, 0, 0]
    assert flushed_at(10.0) == [1, 0, 0]
    assert flushed_at(10.03) == [1, 0, 0]
    assert worker._next_flush_at() == 10.0 + SHARED_FLUSH_S
    assert flushed_at(10.0 + SHARED_FLUSH_S) == [1, 1, 1]
    first.due_at = 11.0
    worker._turn.scheduled.append(first)
    assert flushed_at(11.0) == [2, 1, 1]


def test_a_hundred_answers_due_at_once_leave_in_small_groups_within_the_time_that_they_share() -> None:
    answers = [Due(id, 10.0) for id in range(100)]
    worker = holding(answers)
    groups = []
    now = 10.0
    while sum(groups) < len(answers):
        worker._turn.now = now
        worker._flush_due()
        groups.append(sum(answer.flushed for answer in answers) - sum(groups))
        now = worker._next_flush_at() if worker._due else now
    assert groups == [MAX_SHARED] * 3 + [4]
    assert all(answer.flushed == 1 for answer in answers)
    assert now - 10.0 <= SHARED_FLUSH_S


def test_nothing_is_computed_for_who_does_not_read_until_he_does() -> None:
    """Kept back and computed on, an unread answer would grow in memory, and take its part of every step."""
    told: list[tuple[int, bool]] = []
    backend = SimpleNamespace(pause=lambda id, *, is_paused: told.append((id, is_paused)))
    keys = started()
    header, sealed, _ = request(config_of(keys))
    worker = Worker(SimpleNamespace(post=lambda frame, size_bytes=0: None), keys, backend)
    answer = worker._answers[7] = Answer(7, keys.open(header, sealed, NOW_MS), keys, worker._turn)
    answer.started(1)
    while answer.has_credit:
        worker._settle()
        assert told == []
        worker._turn.now += 1
        answer.piece(Piece(0, 1, "x"))
    worker._settle()
    worker._settle()
    assert told == [(7, True)]
    worker._handle(Credit(7, 1))
    assert told == [(7, True), (7, False)]
