"""Exact resume where a family's own syntax is at work: forced calls, calls begun freely, thoughts, formats, stops."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from mcd.api.request import ChatRequest, ResponseFormat, ToolFunction
from mcd.engine.binding import Bindings
from mcd.engine.compiler import Dialect
from mcd.engine.compiling import Compiling
from mcd.engine.llama import LlamaBackend
from mcd.engine.load import open_llama
from mcd.engine.messages import EngineOptions
from mcd.engine.parsers import families
from mcd.engine.parsers.families import FAMILIES, family_of
from mcd.engine.parsers.syntax import Family, NamedCalls, Think
from mcd.engine.rendering import Rendering
from mcd.engine.sequence import Vocabulary
from tests.fakes import gguf_make
from tests.fakes.engine_entry import chat
from tests.fakes.json_check import fits
from tests.integration.test_engine_resume import Shown, answer, told

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "kind": {"type": "string", "enum": ["día", "日本", "n"]},
        "n": {"type": "integer", "minimum": 10, "maximum": 99},
        "on": {"type": "boolean"},
    },
    "required": ["city", "kind", "n"],
    "additionalProperties": False,
}
RAW = msgspec.Raw(json.dumps(SCHEMA).encode())
TOOLS = (ToolFunction(name="lamp", parameters=RAW), ToolFunction(name="door", parameters=RAW))
FORM = ResponseFormat(type="json_schema", schema=RAW)
TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }} {{ t.function.description }}{% endfor %}" + gguf_make.TEMPLATE
)
Speak = Callable[[Family, str], None]
TALKING = Family("talking", (), NamedCalls("g", ": ", ";"), Think("<q>", "th"))
"""Marks that a model of random letters writes by itself: its calls begin, and its thoughts end, freely."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    """Every cut must give the very same tokens: it prefills token by token, so that rounding has no part in it."""
    path = gguf_make.make(
        tmp_path_factory.mktemp("models") / "tiny.gguf", template=TEMPLATE, n_ctx=1024, text_only=True
    )
    backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=2), Rendering.start(), Compiling.start())
    backend._scheduler._max_prefill_rows = 1
    yield backend
    backend.close()


@pytest.fixture
def speak(engine: LlamaBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Speak]:
    """Make the engine take its model for one of a family."""
    started: list[Bindings] = []

    def as_one_of(family: Family, thinking: str) -> None:
        monkeypatch.setattr(families, "family_of", lambda dialect: family)
        compiling = Compiling.start()
        compiling.load(Dialect("", may_think=True))
        started.append(Bindings(compiling))
        monkeypatch.setattr(engine, "_bindings", started[-1])
        monkeypatch.setattr(engine, "_family", family)
        monkeypatch.setattr(engine, "_vocabulary", Vocabulary(engine._model, families.marks(family)))
        monkeypatch.setattr(families, "thinking_after", lambda family, prompt: thinking)

    yield as_one_of
    for bindings in started:
        bindings.close()


def joined(shown: Shown) -> tuple[str, str, list[list[Any]]]:
    return _joined(told(shown.pieces))


def _joined(parts: tuple[str, str, list[Any]]) -> tuple[str, str, list[list[Any]]]:
    text, reasoning, pieces = parts
    calls: list[list[Any]] = []
    for index, id, name, arguments in pieces:
        if id:
            calls.append([index, id, name, ""])
        calls[-1][3] += arguments
    return text, reasoning, calls


def check_cuts(engine: LlamaBackend, request: ChatRequest, n_cuts: int = 10) -> Shown:
    whole = answer(engine, request)
    assert whole.end is not None
    cuts = range(1, len(whole.tokens) + 1)
    for cut in sorted({*random.Random(7).sample(cuts, min(len(cuts), n_cuts)), len(whole.tokens)}):
        rest = answer(engine, request, whole.tokens[:cut])
        assert rest.end is not None
        assert rest.tokens == whole.tokens[cut:], cut
        first, second = told(whole.pieces[:cut]), told(rest.pieces)
        # what is left when the limit cuts it off comes with no token, from whoever was last
        assert _joined((first[0] + second[0], first[1] + second[1], first[2] + second[2])) == joined(whole), cut
        assert rest.end[0] == whole.end[0]
    return whole


@pytest.mark.parametrize(
    ("name", "is_single"),
    [
        ("hermes", True), ("qwen xml", False), ("gpt-oss", True), ("gemma 4", False), ("mistral args", False),
        ("deepseek v3.2", True), ("llama 3", True), ("glm", False), ("granite 3", False),
    ],
)  # fmt: skip
def test_forced_calls(engine: LlamaBackend, speak: Speak, name: str, is_single: bool) -> None:
    signs = next(family.signs for family in FAMILIES if family.name == name)
    speak(family_of(" ".join(signs)), "closed")
    members = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": not is_single}
    request = chat("what is mcd?", temperature=1.0, seed=3, max_tokens=400, **members)
    whole = check_cuts(engine, request, 6)
    text, _, calls = joined(whole)
    assert whole.end is not None
    assert text == ""
    assert calls
    if whole.end[0] == ("tool_calls",):
        assert len(calls) == 1 or not is_single
        for call in calls:
            assert call[2] in ("lamp", "door")
            assert fits(json.loads(call[3]), SCHEMA, SCHEMA)
    if is_single:
        assert whole.end[0] == ("tool_calls",)


def test_calls_that_begin_freely(engine: LlamaBackend, speak: Speak) -> None:
    """The model talks; where it writes the mark, it is bound: a name of ours, arguments that fit, and free again."""
    speak(TALKING, "closed")
    whole = check_cuts(engine, chat("what is mcd?", temperature=1.0, seed=3, max_tokens=300, tools=TOOLS))
    text, _, calls = joined(whole)
    assert text
    assert calls
    for call in calls[:-1]:
        assert fits(json.loads(call[3]), SCHEMA, SCHEMA)
    check_cuts(engine, chat("what?", temperature=0.0, max_tokens=300, tools=TOOLS, frequency_penalty=0.5))


def test_one_call_is_enough_where_no_more_are_wanted(engine: LlamaBackend, speak: Speak) -> None:
    speak(TALKING, "closed")
    request = chat("what is mcd?", temperature=1.0, seed=3, max_tokens=300, tools=TOOLS, parallel_tool_calls=False)
    whole = check_cuts(engine, request)
    assert whole.end is not None
    assert whole.end[0] == ("tool_calls",)
    assert len(joined(whole)[2]) == 1


def test_tools_that_must_not_be_called_are_neither_shown_nor_heard(engine: LlamaBackend, speak: Speak) -> None:
    """The model writes what begins a call, as in the test before: to someone who wants no calls it is text."""
    speak(TALKING, "closed")
    asked: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 300}
    without = answer(engine, chat("what is mcd?", **asked))
    refused = answer(engine, chat("what is mcd?", tools=TOOLS, tool_choice="none", **asked))
    assert TALKING.calls.open in joined(without)[0]
    assert (joined(refused), refused.end) == (joined(without), without.end)


def test_calls_of_two_choices_never_share_an_id(engine: LlamaBackend, speak: Speak) -> None:
    speak(family_of(" ".join(next(family.signs for family in FAMILIES if family.name == "hermes"))), "closed")
    request = chat("what?", temperature=1.0, seed=3, max_tokens=60, n=2, tools=TOOLS, tool_choice="required")
    pieces = answer(engine, request).pieces
    ids = [{call.id for piece in pieces if piece.choice == choice for call in piece.tool_calls} for choice in (0, 1)]
    assert all(found - {""} for found in ids)
    assert ids[0] & ids[1] <= {""}


@pytest.mark.parametrize("members", [{"response_format": FORM}, {"tools": TOOLS, "tool_choice": "required"}])
def test_thoughts_first_then_bound(engine: LlamaBackend, speak: Speak, members: dict[str, Any]) -> None:
    speak(TALKING, "open")
    whole = check_cuts(engine, chat("what is mcd?", temperature=1.0, seed=3, max_tokens=150, **members))
    text, reasoning, calls = joined(whole)
    assert reasoning
    assert "th" not in reasoning
    assert whole.end is not None
    assert 0 < whole.end[1].n_reasoning_tokens < len(whole.tokens)
    for found in [call[3] for call in calls[:1]] or [text]:
        assert fits(json.loads(found), SCHEMA, SCHEMA)


def test_a_stop_string_is_looked_for_in_the_answer_alone(engine: LlamaBackend, speak: Speak) -> None:
    """Thoughts may hold it: what the client cannot see as content must not end the content."""
    speak(TALKING, "closed")
    members: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 200}
    free = joined(answer(engine, chat("what is mcd?", **members)))[0]
    thought, _, rest = free.partition("th")
    thought_stop, stop = thought[5:7], rest.strip()[20:22]
    assert len(thought_stop) == len(stop) == 2
    speak(TALKING, "open")
    whole = check_cuts(engine, chat("what is mcd?", stop=(stop,), **members))
    text, reasoning, _ = joined(whole)
    assert thought_stop in reasoning
    assert text == rest.strip().partition(stop)[0]
    assert whole.end is not None
    assert whole.end[0] == ("stop",)
    only_thought = answer(engine, chat("what is mcd?", stop=(thought_stop,), **members))
    assert thought_stop in joined(only_thought)[1]
