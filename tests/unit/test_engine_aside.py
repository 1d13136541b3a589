"""Slow calls beside the worker's loop: which comes next, and what is left of one that nobody wants any more."""

from __future__ import annotations

import contextlib
import gc
import select
import threading
import weakref
from typing import Any, cast

import pytest

from mcd.api.tasks import TokenizeRequest
from mcd.engine.aside import Aside, Outcome
from mcd.engine.backend import Task
from mcd.engine.embed import MAX_TASK_TOKENS, judged
from mcd.engine.lexicon import MAX_PARTS_AT_ONCE, Lexicon
from mcd.engine.seal import FLUSH_INTERVAL_S
from mcd.errors import ContextLengthError, InvalidRequestError
from mcd.wire.messages import MAX_TOKENS_PER_CHUNK
from mcd.wire.payload import Part


class Vocabulary:
    """A model that tokenises once it is let."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def tokenize(self, data: bytes, **_: Any) -> list[int]:
        assert self.may_go_on.wait(30)
        return list(data)


def is_readable(fd: int, timeout_s: float = 0.0) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_a_task_taken_back_leaves_nothing_to_wake_for() -> None:
    """The loop would find its descriptor readable for ever, and turn as fast as it can."""
    model = Vocabulary()
    lexicon = Lexicon(cast(Any, model))
    request = TokenizeRequest(model="m", text="a")
    lexicon.add(Task(1, request, cast(Any, None), 1), request)
    assert lexicon.n_bytes == 1
    lexicon.cancel(1)
    model.may_go_on.set()
    assert is_readable(lexicon.waker(), 30)
    lexicon.step(0.0)
    assert not is_readable(lexicon.waker())
    assert (lexicon.n_open, lexicon.n_bytes) == (0, 0)


class Sink:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.n_parts, self.is_finished = 0, False

    def started(self, _: int) -> None:
        assert not self.n_parts

    def part(self, _: Part) -> None:
        self.n_parts += 1

    def finished(self, *_: object) -> None:
        self.is_finished = True


def test_a_long_list_leaves_bit_by_bit_and_a_short_one_passes_it() -> None:
    """A million ids took a third of a second to seal, for which nobody had a token."""
    model = Vocabulary()
    model.may_go_on.set()
    lexicon, sinks = Lexicon(cast(Any, model)), (Sink(), Sink())
    n_parts = 2 * MAX_PARTS_AT_ONCE + 1
    texts = "a" * (n_parts * MAX_TOKENS_PER_CHUNK), "a"
    for key, (text, sink) in enumerate(zip(texts, sinks, strict=True)):
        request = TokenizeRequest(model="m", text=text)
        lexicon.add(Task(key, request, cast(Any, sink), len(text)), request)
        assert is_readable(lexicon.waker(), 30)
        lexicon.step(0.0)
    assert (sinks[0].n_parts, sinks[1].is_finished) == (MAX_PARTS_AT_ONCE, True)
    assert lexicon.due_at == FLUSH_INTERVAL_S
    lexicon.step(FLUSH_INTERVAL_S / 2)
    assert sinks[0].n_parts == MAX_PARTS_AT_ONCE
    for n_rounds in (1, 2):
        assert not sinks[0].is_finished
        lexicon.step(n_rounds * FLUSH_INTERVAL_S)
    assert (sinks[0].n_parts, sinks[0].is_finished, lexicon.n_open, lexicon.due_at) == (n_parts, True, 0, None)


def test_an_answer_on_its_way_out_is_taken_back() -> None:
    model = Vocabulary()
    model.may_go_on.set()
    lexicon, sink = Lexicon(cast(Any, model)), Sink()
    text = "a" * ((MAX_PARTS_AT_ONCE + 1) * MAX_TOKENS_PER_CHUNK)
    request = TokenizeRequest(model="m", text=text)
    lexicon.add(Task(1, request, cast(Any, sink), len(text)), request)
    assert is_readable(lexicon.waker(), 30)
    lexicon.step(0.0)
    lexicon.cancel(1)
    lexicon.step(1.0)
    assert (sink.n_parts, sink.is_finished, lexicon.n_open, lexicon.due_at) == (MAX_PARTS_AT_ONCE, False, 0, None)


def test_the_smallest_comes_next() -> None:
    aside: Aside[int] = Aside()
    gate = threading.Event()
    aside.add(0, lambda: int(gate.wait(30)), 10)
    for key, size_bytes in ((1, 300), (2, 5), (3, 300), (4, 70)):
        aside.add(key, lambda: 1, size_bytes)
    aside.cancel(4)
    gate.set()
    order: list[int] = []
    while len(order) < 4:
        assert is_readable(aside.fileno(), 30)
        done = aside.take()
        assert done is not None
        order.append(done[0])
    assert order == [0, 2, 1, 3]
    assert aside.take() is None


def test_texts_are_judged_one_by_one_and_together() -> None:
    made: list[int] = []

    def texts(n_each: int) -> Any:
        for index in range(2048):
            made.append(index)
            yield [7] * n_each

    with pytest.raises(ContextLengthError) as too_long:
        judged("input", texts(11), 10)
    assert (too_long.value.param, len(made)) == ("input[0]", 1)
    with pytest.raises(InvalidRequestError, match="several requests") as too_many:
        judged("documents", texts(1024), 1024)
    assert too_many.value.param == "documents"
    assert len(made) == 2 + MAX_TASK_TOKENS // 1024
    with pytest.raises(InvalidRequestError) as empty:
        judged("input", [[1], []], 10)
    assert empty.value.param == "input[1]"
    assert judged("input", [[1], [2, 3]], 2) == [[1], [2, 3]]


def test_an_error_holds_nothing_once_it_was_heard() -> None:
    """It held its own traceback, and that the frames with the request's text."""

    class Request:
        pass

    held: list[weakref.ref[Request]] = []

    def call() -> None:
        request = Request()
        held.append(weakref.ref(request))
        raise InvalidRequestError("no")

    outcome: Outcome[None] = Outcome()
    gc.disable()
    try:
        outcome.run(call)
        with contextlib.suppress(InvalidRequestError):
            outcome.take()
        assert held[0]() is None
    finally:
        gc.enable()
