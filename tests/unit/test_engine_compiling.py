"""What compiled schemas are kept: of one salt only, few enough, and not for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import pytest

from mcd.api.request import ChatMessage, ChatRequest, ResponseFormat
from mcd.engine import compiler, compiling
from mcd.engine.compiler import Compiled, Refused
from mcd.engine.compiling import Compiling, Kept
from mcd.engine.gbnf.constraint import Bound, Constraint
from mcd.engine.killable import Status, receive, send
from mcd.engine.parsers.families import TAGS
from mcd.engine.slots import MAX_IDLE_CACHE_S
from mcd.errors import InvalidRequestError, UnsupportedError, UserError
from tests.fakes.engine_entry import chat


def made(text: str = "x") -> Compiled:
    return Compiled(Constraint(TAGS, "unknown", "response_format", 1, answer=Bound('"x"', f"a ::= {text}")))


class Compiler:
    """The other end of the channel, played by the test."""

    def __init__(self) -> None:
        requests, answers = os.pipe(), os.pipe()
        self.compiling = Compiling((requests[1], answers[0]))
        self._requests, self._answers = requests[0], answers[1]
        self._next_id = 0

    def ask(self, request: ChatRequest, salt: str, now: float = 0.0) -> bool:
        """Whether it is asked to compile."""
        self._next_id += 1
        self.compiling.submit(self._next_id, request, "unknown", salt, now)
        if found := self.compiling.take(now):
            assert [job_id for job_id, _ in found] == [self._next_id]
            return False
        assert receive(self._requests, compiler.MAX_REQUEST_BYTES)
        self.answer(bytes([Status.DONE]) + msgspec.msgpack.encode(made()))
        ((_, compiled),) = self.compiling.take(now)
        assert isinstance(compiled, Compiled)
        return True

    def answer(self, body: bytes) -> None:
        send(self._answers, body)

    def fails_with(self, body: bytes) -> UserError:
        self.compiling.submit(0, form("{}"), "unknown", "salt", 0.0)
        assert receive(self._requests, compiler.MAX_REQUEST_BYTES)
        self.answer(body)
        ((_, error),) = self.compiling.take(0.0)
        assert isinstance(error, UserError)
        return error

    def close(self) -> None:
        self.compiling.close()
        os.close(self._requests)
        os.close(self._answers)


@pytest.fixture
def other_end() -> Iterator[Compiler]:
    end = Compiler()
    yield end
    end.close()


def form(schema: str, text: str = "x") -> ChatRequest:
    return chat(text, response_format=ResponseFormat(type="json_schema", schema=msgspec.Raw(schema.encode())))


def test_the_same_tools_of_one_requester_are_compiled_once(other_end: Compiler) -> None:
    assert other_end.ask(form("{}"), "a")
    assert not other_end.ask(form("{}", "another turn"), "a")
    later = msgspec.structs.replace(form("{}"), messages=(ChatMessage(role="user", content="y"),) * 9, temperature=0.5)
    assert not other_end.ask(later, "a")
    assert other_end.ask(form('{"type":"null"}'), "a")


def test_another_salt_and_none_at_all_find_nothing(other_end: Compiler) -> None:
    """How soon a first token comes would tell who else brought this schema."""
    assert other_end.ask(form("{}"), "a")
    assert other_end.ask(form("{}"), "b")
    assert other_end.ask(form("{}"), "")
    assert other_end.ask(form("{}"), "")
    assert len(other_end.compiling.kept) == 2


def test_what_nobody_comes_back_for_is_forgotten(other_end: Compiler) -> None:
    assert other_end.ask(form("{}"), "a", 0.0)
    assert not other_end.ask(form("{}"), "a", MAX_IDLE_CACHE_S - 1)
    assert other_end.compiling.kept.expires_at == 2 * MAX_IDLE_CACHE_S - 1
    other_end.compiling.kept.expire(2 * MAX_IDLE_CACHE_S - 1)
    assert other_end.compiling.kept.expires_at is None
    assert other_end.ask(form("{}"), "a", 2 * MAX_IDLE_CACHE_S)


def test_few_are_kept_and_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MAX_KEPT_CHARS", 4000)
    kept = Kept()
    for number in range(compiling.MAX_KEPT + 3):
        kept.keep(bytes([number]), made(), 0.0)
    assert len(kept) == compiling.MAX_KEPT
    assert kept.find(bytes([2]), 0.0) is None
    assert kept.find(bytes([3]), 1.0) is not None  # and used last from now on
    kept.keep(b"large", made("y" * 1001), 1.0)
    assert kept.find(b"large", 1.0) is None
    for number in range(4):
        kept.keep(bytes([100 + number]), made("y" * 900), 2.0)
    assert kept.find(bytes([3]), 2.0) is not None
    assert kept._n_chars <= 4000
    kept.keep(bytes([100]), made("y" * 900), 2.0)
    kept.expire(MAX_IDLE_CACHE_S + 2)
    assert (len(kept), kept._n_chars) == (0, 0)


def test_every_end_of_the_process_is_an_error_with_words(other_end: Compiler) -> None:
    for status, words in (
        (Status.TOO_SLOW, "more than 2 s"),
        (Status.TOO_LARGE, "more than 512 MiB"),
        (Status.CRASHED, "more than the parser"),
    ):
        error = other_end.fails_with(bytes([status]))
        assert isinstance(error, UnsupportedError)
        assert words in error.message
        assert error.param == "response_format"
    for body in (b"", b"\xc1", msgspec.msgpack.encode([1, 2])):
        assert "nonsense" in other_end.fails_with(bytes([Status.DONE]) + body).message
    refused = msgspec.msgpack.encode(Refused(False, "no such tool", "tool_choice"))
    error = other_end.fails_with(bytes([Status.REFUSED]) + refused)
    assert isinstance(error, InvalidRequestError)
    assert (error.message, error.param) == ("no such tool", "tool_choice")
    assert len(other_end.compiling.kept) == 0


def test_a_request_taken_back_is_nobodys(other_end: Compiler) -> None:
    for job_id in (1, 2, 3):
        other_end.compiling.submit(job_id, form("{}"), "unknown", "", 0.0)
    other_end.compiling.cancel(1)
    other_end.compiling.cancel(2)
    for _ in (1, 3):
        other_end.answer(bytes([Status.DONE]) + msgspec.msgpack.encode(made()))
    assert other_end.compiling.take(0.0) == []
    ((job_id, _),) = other_end.compiling.take(0.0)
    assert job_id == 3
