"""Constrained answers from the real grammar engine: what a schema admits is admitted, what it forbids is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcd.api.request import ResponseFormat, ToolFunction
from mcd.engine import abi
from mcd.engine.catalogue import EngineSpec
from mcd.engine.gbnf.rules import Rules
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.guide import Grammar
from mcd.engine.messages import EngineOptions
from mcd.engine.model import Model
from tests.fakes import gguf_make
from tests.fakes.engine_entry import chat, running

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", 'c"d']}, "maxItems": 3},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
OPEN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": {"type": "null"}}
REST = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}}
EITHER = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "anyOf": [
        {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        {"properties": {"c": {"type": "null"}}, "required": ["c"]},
    ],
}
UNEVALUATED_EITHER = EITHER | {"unevaluatedProperties": False}
UNEVALUATED = {
    "allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}],
    "type": "object",
    "unevaluatedProperties": False,
}

ADMITTED: list[tuple[Any, str]] = [
    (PERSON, '{"name": "Zoë", "age": 31}'),
    (PERSON, '{"name":"x","age":0,"tags":["bé","c\\"d"]}'),
    (PERSON, '{"name":"x","age":150,"born":"2026-11-24"}'),
    (PERSON, '{"name":"x","age":9,"tags":[],"born":"1999-01-31"}'),
    (TREE, '{"value":-1.5e3,"kids":[{"value":0},{"value":2,"kids":[]}]}'),
    (OPEN, "{}"),
    (OPEN, '{"a":true}'),
    (OPEN, '{"a":false,"x":null,"y":null}'),
    (OPEN, '{"x":null}'),
    ({"type": ["string", "null"]}, "null"),
    ({"anyOf": [{"type": "integer"}, {"const": "auto"}]}, '"auto"'),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, '[1, "a"]'),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1,2,3]"),
    ({"allOf": [{"type": "object", "properties": {"a": {}}}], "properties": {"b": {}}}, '{"b":1,"a":[{}]}'),
    ({}, '[{"deep":[null,true,1.5,"x"]}]'),
    ({"type": "string", "format": "uuid"}, '"123e4567-e89b-12d3-a456-426614174000"'),
    ({"type": "string", "format": "date-time"}, '"2026-11-24T23:59:59.5Z"'),
    (REST, '{"a":1,"ab":false,"":true}'),
    (REST, '{"":true}'),
    (EITHER, '{"a":1,"b":null}'),
    ({"const": 1, "enum": [2, 1.0]}, "1.0"),
    ({"enum": [1, "a", None], "type": ["integer", "null"]}, "null"),
    ({"type": "integer", "nullable": True}, "null"),
    ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, "4"),
    ({"type": "integer", "minimum": 2.5, "maximum": 3.5}, "3"),
    ({"type": "integer", "exclusiveMinimum": 2.5, "exclusiveMaximum": 3.5}, "3"),
    ({"type": "integer", "minimum": 2, "exclusiveMinimum": 2, "maximum": 9, "exclusiveMaximum": 9}, "8"),
    ({"type": "integer", "minimum": 5, "exclusiveMinimum": 2, "maximum": 7, "exclusiveMaximum": 9}, "7"),
    ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 3}, "1.5"),
    ({"type": "number", "minimum": 1, "maximum": 3}, "3"),
    ({"allOf": [{"type": "integer", "minimum": 2, "maximum": 9}, {"minimum": 3, "maximum": 5}]}, "3"),
    ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2.0, 3, 4]}]}, "2"),
    (UNEVALUATED, '{"a":1,"b":2}'),
    (UNEVALUATED_EITHER, '{"a":1,"b":null}'),
]
FORBIDDEN: list[tuple[Any, str]] = [
    (PERSON, '{"age": 31, "name": "x"}'),
    (PERSON, '{"name": "x"}'),
    (PERSON, '{"name": "", "age": 1}'),
    (PERSON, '{"name": "ninechars", "age": 1}'),
    (PERSON, '{"name": "x", "age": 151}'),
    (PERSON, '{"name": "x", "age": 1, "more": 2}'),
    (PERSON, '{"name":"x","age":1,"tags":["a","a","a","a"]}'),
    (PERSON, '{"name":"x","age":1,"born":"2026-13-01"}'),
    (TREE, '{"kids":[]}'),
    (OPEN, '{"x":1}'),
    ({"type": "integer"}, "1.5"),
    ({"type": "integer"}, "01"),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1]"),
    ({"type": "string"}, '"a\nb"'),
    ({"const": 3}, "4"),
    (REST, '{"a":true}'),
    (REST, '{"a":1,"a":true}'),
    (REST, '{"ab":1}'),
    (EITHER, '{"b":null}'),
    (EITHER, '{"a":1}'),
    ({"const": 1, "enum": [2, 1]}, "2"),
    ({"enum": [1, "a", None], "type": ["integer", "null"]}, '"a"'),
    ({"type": "integer", "nullable": False}, "null"),
    ({"type": "integer", "exclusiveMinimum": 3}, "3"),
    ({"type": "integer", "exclusiveMaximum": 3}, "3"),
    ({"type": "integer", "exclusiveMinimum": 2.5}, "2"),
    ({"type": "integer", "exclusiveMaximum": 3.5}, "4"),
    ({"type": "integer", "minimum": 2.5}, "2"),
    ({"type": "integer", "minimum": 5, "exclusiveMinimum": 2}, "4"),
    ({"type": "integer", "exclusiveMinimum": 5, "minimum": 2}, "5"),
    ({"type": "integer", "maximum": 5, "exclusiveMaximum": 9}, "6"),
    ({"type": "number", "exclusiveMinimum": 1}, "1"),
    ({"type": "number", "exclusiveMaximum": 3}, "3"),
    ({"type": "number", "exclusiveMaximum": 3}, "3.5"),
    ({"type": "number", "minimum": 1}, "0.5"),
    ({"allOf": [{"type": "integer", "minimum": 2, "maximum": 9}, {"minimum": 3, "maximum": 5}]}, "2"),
    ({"allOf": [{"type": "integer", "minimum": 2, "maximum": 9}, {"minimum": 3, "maximum": 5}]}, "6"),
    ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}, "1"),
    (UNEVALUATED, '{"a":1,"b":2,"c":3}'),
    (UNEVALUATED_EITHER, '{"a":1,"b":null,"d":1}'),
    ({"type": "object", "unevaluatedProperties": False}, '{"d":1}'),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    loaded = Model(abi.load_library(), str(tiny))
    yield loaded
    loaded.close()


def admits(model: Model, schema: Any, text: str) -> bool:
    rules = Rules("response_format")
    grammar = Grammar(model, rules.text(SchemaCompiler(rules).schema(json.dumps(schema).encode(), "answer")), "x")
    try:
        for token in text.encode():  # a byte's token has the byte's number
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.is_complete
    finally:
        grammar.close()


@pytest.mark.parametrize(("schema", "text"), ADMITTED)
def test_valid_values_are_admitted(model: Model, schema: Any, text: str) -> None:
    assert admits(model, schema, text)


@pytest.mark.parametrize(("schema", "text"), FORBIDDEN)
def test_invalid_values_are_not(model: Model, schema: Any, text: str) -> None:
    assert not admits(model, schema, text)


async def test_constrained_answers_are_valid_json(tiny: Path) -> None:
    """A model of random weights must produce it too; greedy, seeded, and with a schema that has only short values."""
    short = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    form = ResponseFormat(type="json_schema", schema=msgspec.Raw(json.dumps(short).encode()))
    async with running(EngineSpec(alias="t", backend="llama", source=str(tiny)), EngineOptions(n_threads=1)) as side:
        for members in ({"temperature": 0.0}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.5, "seed": 4}):
            request = chat("json", response_format=form, max_tokens=200, **members)
            answer = await side.ask(request)
            assert answer.final is not None
            assert answer.final.finish_reasons == ("stop",)
            value = json.loads(answer.text)
            assert set(value) == {"ok", "n"}
            assert value["n"] in {1, 2, 3}
            for cut in range(1, len(answer.tokens), 7):
                rest = await side.ask(request, resume=answer.tokens[:cut])
                assert rest.final is not None
                assert json.loads(answer.text[: len(answer.text) - len(rest.text)] + rest.text)["n"] in {1, 2, 3}
                if members["temperature"] == 0.0:
                    assert rest.tokens == answer.tokens[cut:]
        foreign = await side.ask(chat("json", response_format=form), resume=(ord("x"),))
        assert foreign.failure is not None
        assert foreign.failure.param == "resume"


async def test_unsupported_keyword_is_named_to_the_user(tiny: Path) -> None:
    form = ResponseFormat(type="json_schema", schema=msgspec.Raw(b'{"type":"string","pattern":"(?=x)"}'))
    async with running(EngineSpec(alias="t", backend="llama", source=str(tiny)), EngineOptions(n_threads=1)) as side:
        answer = await side.ask(chat("json", response_format=form))
        assert answer.failure is not None
        assert answer.failure.code == "unsupported_parameter"
        assert "pattern" in answer.failure.message
        assert answer.failure.param == "response_format"


@pytest.mark.parametrize("shown", ["{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}", ""])
async def test_forced_tool_call_has_valid_arguments(tmp_path: Path, shown: str) -> None:
    """With a template that shows tools, and with one that knows none: then they are described to the model."""
    path = gguf_make.make(tmp_path / "tools.gguf", template=shown + gguf_make.TEMPLATE, n_ctx=2048)
    parameters = msgspec.Raw(
        b'{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"],"additionalProperties":false}'
    )
    tools = (ToolFunction(name="lamp", description="switch", parameters=parameters),)
    async with running(EngineSpec(alias="t", backend="llama", source=str(path)), EngineOptions(n_threads=1)) as side:
        assert "tools" in side.engine.status().capabilities
        answer = await side.ask(
            chat(
                "on",
                tools=tools,
                tool_choice="function:lamp",
                parallel_tool_calls=False,
                max_tokens=300,
                temperature=0.0,
            )
        )
    assert answer.final is not None
    assert answer.final.finish_reasons == ("tool_calls",)
    calls = [call for delta in answer.deltas for call in delta.tool_calls]
    assert [call.name for call in calls if call.id] == ["lamp"]
    assert json.loads("".join(call.arguments for call in calls))["on"] in {True, False}
    assert answer.text == ""
