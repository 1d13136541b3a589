"""Schemas become grammars, or are refused by the name of what cannot be enforced. (Real grammars: integration.)"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api.request import ChatMessage, ChatRequest, ResponseFormat, ToolFunction
from mcd.engine import grammar
from mcd.engine.schema import Grammar, literal
from mcd.errors import InvalidRequestError, UnsupportedError


def compile_schema(schema: Any) -> str:
    built = Grammar("response_format")
    return built.text(built.schema(json.dumps(schema).encode(), "answer"))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "pattern": "^a"}, "pattern"),
        ({"type": "object", "properties": {}, "patternProperties": {}}, "patternProperties"),
        ({"not": {}}, "type null is unknown"),
        ({"type": "colour"}, "colour"),
        ({"type": "number", "multipleOf": 2}, "multipleOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}, "contentEncoding"),
        ({"type": "string", "format": "email"}, "email"),
        ({"type": "integer", "minimum": 3}, "minimum"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "maxLength"),
        ({"type": "string", "maxLength": 100_000}, "maxLength"),
        ({"$ref": "http://example.org/x"}, "\\$ref"),
        ({"$ref": "#/$defs/none"}, "\\$ref"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required"),
        ({"enum": []}, "enum"),
        ({"anyOf": []}, "union"),
        (3, "object"),
        ({"allOf": [{"enum": [1]}]}, "allOf"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: Any, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says) as caught:
        compile_schema(schema)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "exclusiveMinimum": "a"},
        {"type": [["string"]]},
        {"type": [{}]},
        {"type": {}},
        {"type": "object", "properties": {"a": {}}, "required": [["a"]]},
        {"type": "array", "prefixItems": None},
        {"type": "string", "format": ["date"]},
        {"allOf": [{"properties": 5}]},
        {"allOf": [{"required": 5}]},
        {"allOf": "x"},
    ],
)
def test_a_keyword_of_the_wrong_kind_is_the_requests_fault(schema: Any) -> None:
    """Were it taken for a fault of the engine, one bad schema would be tried on, and count against, every provider."""
    with pytest.raises(UnsupportedError) as caught:
        compile_schema(schema)
    assert caught.value.param == "response_format"


def test_too_many_optional_properties_or_rules_are_refused() -> None:
    def wide(n: int, required: bool) -> Any:
        names = [f"p{i}" for i in range(n)]
        return {"type": "object", "properties": {name: {} for name in names}, "required": names if required else []}

    assert compile_schema(wide(64, required=False))
    with pytest.raises(UnsupportedError, match="64 optional"):
        compile_schema(wide(65, required=False))
    assert compile_schema(wide(1000, required=True))
    with pytest.raises(UnsupportedError, match="too large"):
        compile_schema(wide(4200, required=True))


def test_a_least_number_of_items_is_exact() -> None:
    text = compile_schema({"type": "array", "items": {"type": "null"}, "minItems": 2})
    assert 'null (ws "," ws null)+ ws' in text
    text = compile_schema({"type": "array", "items": {"type": "null"}, "minItems": 3})
    assert 'null (ws "," ws null){2,} ws' in text


def test_deep_and_large_schemas_are_refused_quickly() -> None:
    deep: Any = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UnsupportedError, match="deep"):
        compile_schema(deep)
    wide = {"type": "object", "properties": {f"p{i}": {} for i in range(5000)}, "required": []}
    with pytest.raises(UnsupportedError):
        compile_schema(wide)
    with pytest.raises(UnsupportedError, match="JSON"):
        Grammar("tools").schema(b"{" * 100_000, "x")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=20))
def test_literals_have_no_loose_quotes_or_controls(text: str) -> None:
    quoted = literal(text)
    assert quoted[0] == quoted[-1] == '"'
    inside = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inside
    assert not any(ord(char) < 32 or ord(char) == 127 for char in quoted)


def test_recursive_schema_ends() -> None:
    tree = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    assert "ref-node" in compile_schema(tree)


TOOLS = (
    ToolFunction(name="add", parameters=msgspec.Raw(b'{"type":"object","properties":{"a":{"type":"integer"}}}')),
    ToolFunction(name="stop"),
)


def request(**members: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=(ChatMessage(role="user", content="x"),), **members)


def test_only_constrained_requests_get_a_grammar() -> None:
    assert grammar.build(request(), "tagged") is None
    assert grammar.build(request(tools=TOOLS), "tagged") is None
    assert grammar.build(request(tools=TOOLS, tool_choice="none"), "tagged") is None


def test_forced_tools_follow_the_family() -> None:
    tagged = grammar.build(request(tools=TOOLS, tool_choice="required"), "tagged")
    assert tagged is not None
    assert "<tool_call>" in tagged
    assert "add" in tagged
    assert "stop" in tagged
    named = grammar.build(request(tools=TOOLS, tool_choice="function:stop"), "mistral")
    assert named is not None
    assert "[TOOL_CALLS]" in named
    assert "add" not in named
    with pytest.raises(InvalidRequestError, match="tool_choice"):
        grammar.build(request(tools=TOOLS, tool_choice="function:none"), "plain")


def test_unsupported_tool_schema_names_tools() -> None:
    bad = (ToolFunction(name="f", parameters=msgspec.Raw(b'{"type":"string","pattern":"x"}')),)
    with pytest.raises(UnsupportedError) as caught:
        grammar.build(request(tools=bad, tool_choice="required"), "tagged")
    assert caught.value.param == "tools"


def test_json_object_with_tools_allows_both() -> None:
    text = grammar.build(request(tools=TOOLS, response_format=ResponseFormat(type="json_object")), "tagged")
    assert text is not None
    assert text.startswith("root ::= object | calls")
