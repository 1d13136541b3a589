"""Each family's grammar of calls against its own reader: any call let through comes back, and fits its schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mcd.api.request import ChatMessage, ChatRequest, ToolFunction
from mcd.engine import abi
from mcd.engine.gbnf.constraint import Constraint, build
from mcd.engine.model import Model
from mcd.engine.parsers.families import FAMILIES, family_of
from mcd.engine.parsers.syntax import Family, HarmonyCalls, JsonCalls, NamedCalls, Parameters
from tests.fakes import gguf_make
from tests.fakes.grammar_sample import sample
from tests.fakes.json_check import fits
from tests.fakes.parse import read

SCHEMAS: dict[str, Any] = {
    "find": {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "unit": {"type": "string", "enum": ["a b", "c<d", 'e"f']},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50},
            "exact": {"type": "boolean"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
            "day": {"type": "string", "format": "date"},
            "short": {"type": "string", "minLength": 1, "maxLength": 4},
            "where": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "s": {"type": "string"}},
                "required": ["x"],
            },
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["auto"]}]},
            "maybe": {"type": ["string", "null"]},
            "kind": {"$ref": "#/$defs/kind"},
        },
        "required": ["query", "limit", "where"],
        "additionalProperties": False,
        "$defs": {"kind": {"enum": ["k1", 2, None]}},
    },
    "none": {"type": "object", "properties": {}, "additionalProperties": False},
    "text": {"type": "object", "properties": {"body": {"type": "string"}}, "required": ["body"]},
}
TOOLS = tuple(
    ToolFunction(name=name, parameters=msgspec.Raw(json.dumps(node).encode())) for name, node in SCHEMAS.items()
)
BARE = (
    ToolFunction(name="bare", parameters=msgspec.Raw(b"{}")),
    ToolFunction(name="perhaps", parameters=msgspec.Raw(b'{"type":["object","null"],"additionalProperties":{}}')),
)
FREE = (
    *BARE,
    ToolFunction(name="word", parameters=msgspec.Raw(b'{"type":"string"}')),
    ToolFunction(name="any"),
    ToolFunction(name="odd", parameters=msgspec.Raw(b'{"type":"object","minProperties":1}')),
)
NAMES = [each.name for each in FAMILIES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    loaded = Model(abi.load_library(), str(gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf")))
    yield loaded
    loaded.close()


def family(name: str) -> Family:
    return family_of(" ".join(next(each for each in FAMILIES if each.name == name).signs))


def ends(name: str) -> list[str]:
    calls = family(name).calls
    body = calls.body if isinstance(calls, NamedCalls) else "json"
    if isinstance(body, Parameters):
        return [body.pad + body.close, '"']
    return ['<|"|>'] if body == "gemma" else ['"']


def bound(name: str, tools: tuple[ToolFunction, ...], **members: Any) -> Constraint:
    request = ChatRequest(model="m", messages=(ChatMessage(role="user", content="x"),), tools=tools, **members)
    made = build(request, family(name), "unknown", may_think=True)
    assert made is not None
    return made


def check(text: str, name: str, tools: tuple[ToolFunction, ...], schemas: dict[str, Any], most: int) -> None:
    story = read(text, family(name), random.Random(len(text)).sample(range(len(text)), min(9, len(text))), tools=tools)
    assert 1 <= len(story.calls) <= most, text
    assert story.text.strip() == "", text
    for called, arguments in story.calls:
        assert fits(json.loads(arguments), schemas[called], schemas[called]), (text, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_forced_calls_are_read_back_and_fit(model: Model, name: str) -> None:
    answer = bound(name, TOOLS, tool_choice="required").answer
    single = bound(name, TOOLS, tool_choice="function:find", parallel_tool_calls=False).answer
    assert answer is not None
    assert single is not None
    for seed in range(12):
        check(sample(model, answer.text(), random.Random(seed), ends(name)), name, TOOLS, SCHEMAS, 16)
        check(sample(model, single.text(), random.Random(seed), ends(name)), name, TOOLS, SCHEMAS, 1)


@pytest.mark.parametrize("name", NAMES)
def test_one_call_is_all_there_is_room_for_where_no_more_are_wanted(model: Model, name: str) -> None:
    single = bound(name, BARE, tool_choice="required", parallel_tool_calls=False).answer
    assert single is not None
    for seed in range(6):
        text = sample(model, single.text(), random.Random(seed), ends(name))
        check(text, name, BARE, {tool.name: {"type": "object"} for tool in BARE}, 1)


@pytest.mark.parametrize("name", NAMES)
def test_calls_from_their_mark_are_read_back_and_fit(model: Model, name: str) -> None:
    """Those of ``auto``: bound from the mark on, and complete where what it opened is closed."""
    call = bound(name, TOOLS).call
    assert call is not None
    for seed in range(12):
        text = sample(model, call.text(), random.Random(seed), ends(name))
        before = "" if _needs_head(name, text) else "I call: "
        story = read(before + text, family(name), tools=TOOLS)
        assert story.text.strip() == before.strip()
        check(text, name, TOOLS, SCHEMAS, 16)


def _needs_head(name: str, text: str) -> bool:
    calls = family(name).calls
    is_bare = isinstance(calls, JsonCalls) and calls.is_bare_too and not text.startswith(calls.open)
    return is_bare or isinstance(calls, HarmonyCalls)


@pytest.mark.parametrize("name", NAMES)
def test_tools_without_a_schema_of_use_take_any_object(model: Model, name: str) -> None:
    """An agent hands arguments on by name: no schema makes a number or a list of them."""
    call = bound(name, FREE).call
    forced = bound(name, BARE, tool_choice="required").answer
    assert call is not None
    assert forced is not None
    schemas = {tool.name: {"type": "object"} for tool in FREE}
    for seed in range(8):
        check(sample(model, call.text(), random.Random(seed), ends(name)), name, FREE, schemas, 16)
        check(sample(model, forced.text(), random.Random(seed), ends(name)), name, FREE, schemas, 16)


@pytest.mark.parametrize("name", NAMES)
def test_thoughts_may_come_first(model: Model, name: str) -> None:
    made = bound(name, TOOLS, tool_choice="required")
    assert made.head is not None
    assert made.after_thoughts is not None
    think = family(name).think
    assert think is not None
    text = f"{think.open}why{think.close}" + sample(model, made.after_thoughts.text(), random.Random(1), ends(name))
    story = read(text, family(name), tools=TOOLS)
    assert (story.reasoning.strip(), story.text.strip()) == ("why", "")
    assert story.calls
