"""The scripted engine without its process: the file's rules, pacing by the given clock, resume, limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcd.engine import script
from mcd.engine.backend import Job, Piece
from mcd.engine.scripted import ScriptedBackend
from mcd.errors import ConfigError, UserError
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import Usage
from tests.fakes.engine_entry import chat


class Notes:
    """A sink that writes everything down."""

    def __init__(self) -> None:
        self.n_prompt: int | None = None
        self.pieces: list[Piece] = []
        self.end: tuple[Sequence[str], Usage] | None = None
        self.error: UserError | None = None
        self.reason: RefuseReason | None = None
        self.code: int | None = None

    def started(self, n_prompt_tokens: int) -> None:
        self.n_prompt = n_prompt_tokens

    def piece(self, piece: Piece) -> None:
        self.pieces.append(piece)

    def finished(self, finish_reasons: Sequence[str], usage: Usage) -> None:
        self.end = (finish_reasons, usage)

    def failed(self, error: UserError) -> None:
        self.error = error

    def refused(self, reason: RefuseReason) -> None:
        self.reason = reason

    def broken(self, code: int) -> None:
        self.code = code

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(piece.token for piece in self.pieces if piece.token is not None)


def backend(*rules: dict[str, Any], **top: Any) -> ScriptedBackend:
    return ScriptedBackend(script.parse(json.dumps({"rules": rules, **top}).encode(), "test"))


def submit(engine: ScriptedBackend, text: str, job_id: int = 1, **how: Any) -> Notes:
    notes = Notes()
    resume = how.pop("resume", ())
    limit = how.pop("max_output_tokens", 0)
    engine.submit(Job(job_id, chat(text, **how), notes, resume=resume, max_output_tokens=limit))
    return notes


def play(engine: ScriptedBackend, until_s: float = 1000.0) -> float:
    now = 0.0
    while (wait_s := engine.wait_s(now)) is not None and now + wait_s <= until_s:
        now += wait_s
        engine.step(now)
    return now


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a script"),
        (b"{}", "rules"),
        (b"[]", "no rules"),
        (b'{"rules": []}', "rules"),
        (b'[{"txt": "x"}]', "txt"),
        (b'[{"match": "a"}]', "rule 0"),
        (b'[{"text": "x"}, {"text": "x", "echo": true}]', "rule 1"),
        (b'[{"refuse": "MAYBE"}]', "BUSY"),
        (b'[{"text": "x", "regex": "("}]', "regex"),
        (b'[{"text": "x", "tokens_per_s": 0}]', "tokens_per_s"),
        (b'[{"text": "x", "tokens_per_s": "fast"}]', "tokens_per_s"),
        (b"\xff\xfe", "not a script"),
    ],
)
def test_mistakes_are_named(data: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        script.parse(data, "file.json")


def test_documented_example_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scripted-engine.md").read_text()
    example = page.split("```json\n")[1].split("```")[0]
    assert len(script.parse(example.encode(), "docs").rules) == 4
    for name in script.Rule.__struct_fields__ + script.Script.__struct_fields__:
        assert f"`{name}`" in page, f"docs/scripted-engine.md does not mention {name}"


def test_first_matching_rule_answers() -> None:
    engine = backend({"match": "cat", "text": "meow"}, {"regex": "^d.g$", "text": "woof"}, {"echo": True})
    for question, answer in (("a cat?", "meow"), ("dig", "woof"), ("other words", "other words")):
        notes = submit(engine, question)
        play(engine)
        assert notes.text == answer
        assert notes.end is not None
        assert notes.end[0] == ("stop",)


def test_pace_delay_and_stall_follow_the_clock() -> None:
    engine = backend({"text": "a b c d", "tokens_per_s": 10, "delay_first_s": 2, "stall_at_token": 2, "stall_s": 5})
    notes = submit(engine, "x")
    seen = []
    for until_s in (1.9, 2.05, 2.15, 6.9, 7.25, 7.35):
        play(engine, until_s)
        seen.append(len(notes.pieces))
    assert seen == [0, 1, 2, 2, 3, 4]
    assert play(engine) == pytest.approx(7.4)
    assert notes.end is not None


def test_limits_and_stops() -> None:
    engine = backend({"text": "one two three four"})
    for how, text, reason in (
        ({"max_tokens": 2}, "one two", "length"),
        ({"max_output_tokens": 3}, "one two three", "length"),
        ({"stop": ("thr",)}, "one two ", "stop"),
    ):
        notes = submit(engine, "x", **how)
        play(engine)
        assert notes.text == text
        assert notes.end is not None
        assert notes.end[0] == (reason,)


def test_resume_goes_on_and_checks_the_tokens() -> None:
    engine = backend({"reasoning": "hm hm ", "text": "one two three", "tool_calls": [{"name": "f"}]})
    whole = submit(engine, "x")
    play(engine)
    for cut in range(len(whole.tokens) + 1):
        rest = submit(engine, "x", resume=whole.tokens[:cut])
        play(engine)
        assert rest.tokens == whole.tokens[cut:]
        assert rest.end is not None
        assert rest.end[0] == ("tool_calls",)
        assert rest.end[1].n_output_tokens == len(whole.tokens) - cut
    wrong = submit(engine, "x", resume=(1, 2))
    assert wrong.error is not None
    assert wrong.error.param == "resume"


def test_output_limit_counts_what_was_resumed() -> None:
    engine = backend({"text": "one two three four"})
    whole = submit(engine, "x")
    play(engine)
    rest = submit(engine, "x", resume=whole.tokens[:2], max_output_tokens=3)
    play(engine)
    assert rest.text == " three"
    assert rest.end is not None
    assert rest.end[0] == ("length",)


def test_refusal_break_and_no_match() -> None:
    engine = backend({"match": "r", "refuse": "BUSY"}, {"match": "b", "text": "1 2 3", "break_at_token": 2})
    assert submit(engine, "r").reason == RefuseReason.BUSY
    broken = submit(engine, "b")
    play(engine)
    assert (len(broken.pieces), broken.code) == (2, 1)
    assert submit(engine, "z").error is not None


def test_slots_wait_pause_and_cancel() -> None:
    engine = backend({"text": "a b c", "tokens_per_s": 1}, n_slots=1)
    first, second = submit(engine, "x", 1), submit(engine, "x", 2)
    engine.step(0.0)
    assert engine.load() == (1, 1)
    engine.pause(1, is_paused=True)
    engine.step(5.0)
    assert len(first.pieces) == 1
    engine.pause(1, is_paused=False)
    engine.step(5.0)
    assert len(first.pieces) == 3
    engine.step(5.1)
    assert (first.end is not None, engine.load()) == (True, (1, 0))
    engine.cancel(2)
    assert engine.load() == (0, 0)
    assert second.end is None
