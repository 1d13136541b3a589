"""Schemas become grammars, or are refused by the name of what cannot be enforced. (Real grammars: integration.)"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api.request import ChatMessage, ChatRequest, ResponseFormat, ToolFunction
from mcd.engine.gbnf import constraint
from mcd.engine.gbnf.calls import ANY_OBJECT, held_to
from mcd.engine.gbnf.rules import MAX_FORKS, Rules, literal, one_of
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.parsers.families import FAMILIES, family_of
from mcd.engine.parsers.syntax import Family
from mcd.errors import InvalidRequestError, UnsupportedError


def compile_schema(schema: Any) -> str:
    rules = Rules("response_format")
    return rules.text(SchemaCompiler(rules).schema(json.dumps(schema).encode(), "answer"))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "pattern": "(?=a)"}, "pattern"),
        ({"type": "string", "pattern": "a\\b"}, "pattern"),
        ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
        ({"type": "string", "pattern": "[a"}, "pattern"),
        ({"type": "string", "pattern": "a{1,5000}"}, "pattern"),
        ({"type": "string", "pattern": "x^"}, "pattern"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "pattern"),
        ({"type": "object", "properties": {}, "patternProperties": {}}, "patternProperties"),
        ({"type": "object", "propertyNames": {}}, "propertyNames"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"not": {}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "colour"}, "colour"),
        ({"type": ["string", "colour"]}, "unknown"),
        ({"type": "number", "multipleOf": 2}, "multipleOf"),
        ({"type": "number", "minimum": 0.5}, "minimum"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}, "contentEncoding"),
        ({"type": "string", "format": "regex"}, "regex"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "maxLength"),
        ({"type": "string", "maxLength": 100_000}, "maxLength"),
        ({"$ref": "http://example.org/x"}, "\\$ref"),
        ({"$ref": "#/$defs/none"}, "\\$ref"),
        ({"$ref": 5}, "\\$ref"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, "required"),
        ({"enum": []}, "enum"),
        ({"enum": ["a"], "type": "integer"}, "enum"),
        ({"anyOf": []}, "anyOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"oneOf": [{"const": 1}, {"const": 1.0}]}, "oneOf"),
        (3, "object"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "pattern"),
        (
            {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
            "additional",
        ),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: Any, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says) as caught:
        compile_schema(schema)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("properties", {"type": "object", "properties": []}),
        ("properties", {"allOf": [{"properties": 5}]}),
        ("properties", {"$ref": "#/$defs/a", "$defs": {"a": {"properties": [["a", {}]]}}}),
        ("required", {"type": "object", "properties": {"a": {}}, "required": "a"}),
        ("required", {"type": "object", "properties": {"a": {}}, "required": [["a"]]}),
        ("required", {"allOf": [{"required": 5}]}),
        ("additionalProperties", {"type": "object", "additionalProperties": "no"}),
        ("minProperties", {"type": "object", "minProperties": "a"}),
        ("items", {"type": "array", "items": 3}),
        ("items", {"type": "object", "properties": {"a": {"type": "array", "items": [{"type": "string"}]}}}),
        ("prefixItems", {"type": "array", "prefixItems": None}),
        ("minItems", {"type": "array", "minItems": True}),
        ("uniqueItems", {"type": "array", "uniqueItems": "yes"}),
        ("enum", {"enum": {}}),
        ("enum", {"enum": "abc"}),
        ("type", {"type": 5}),
        ("type", {"type": {}}),
        ("type", {"type": None}),
        ("type", {"type": [["string"]]}),
        ("type", {"type": [{}]}),
        ("nullable", {"type": "string", "nullable": "yes"}),
        ("maxLength", {"type": "string", "maxLength": "5"}),
        ("pattern", {"type": "string", "pattern": 5}),
        ("format", {"type": "string", "format": ["date"]}),
        ("maximum", {"type": "number", "maximum": "5"}),
        ("exclusiveMinimum", {"type": "integer", "exclusiveMinimum": "a"}),
        ("anyOf", {"anyOf": {}}),
        ("oneOf", {"oneOf": "x"}),
        ("items", {"oneOf": [{"type": "array", "items": 3}, {"type": "string"}]}),
        ("allOf", {"allOf": "x"}),
        ("$defs", {"type": "string", "$defs": []}),
        ("definitions", {"type": "string", "definitions": []}),
    ],
)
def test_a_keyword_of_the_wrong_kind_is_the_requests_fault_and_named(keyword: str, schema: Any) -> None:
    """Were it read as absent, the answer would be held to another schema; were it taken for a fault of the engine,
    one bad schema would be tried on, and count against, every provider."""
    with pytest.raises(UnsupportedError, match=re.escape(f"keyword {keyword} must ")) as caught:
        compile_schema(schema)
    assert (caught.value.param, caught.value.http_status) == ("response_format", 400)


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
        SchemaCompiler(Rules("tools")).schema(b"{" * 100_000, "x")


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


def family(name: str) -> Family:
    return family_of(" ".join(next(each for each in FAMILIES if each.name == name).signs))


def bound(name: str, *, may_think: bool = False, **members: Any) -> constraint.Constraint | None:
    return constraint.build(request(**members), family(name), "unknown", may_think=may_think)


def test_only_constrained_requests_are_bound() -> None:
    assert bound("hermes") is None
    assert bound("hermes", tools=TOOLS, tool_choice="none") is None
    free = bound("hermes", tools=TOOLS)
    assert free is not None
    assert free.answer is None
    assert free.marks == ("<tool_call>",)


@pytest.mark.parametrize("name", [each.name for each in FAMILIES])
def test_forced_tools_follow_the_family(name: str) -> None:
    forced = bound(name, tools=TOOLS, tool_choice="required", may_think=True)
    assert forced is not None
    assert forced.answer is not None
    assert forced.after_thoughts is not None
    assert forced.head is not None
    text = forced.answer.text()
    assert "add" in text
    assert "stop" in text
    named = bound(name, tools=TOOLS, tool_choice="function:stop")
    once = bound(name, tools=TOOLS, tool_choice="function:stop", parallel_tool_calls=False)
    assert named is not None
    assert named.answer is not None
    assert "add" not in named.answer.text()
    assert once is not None
    assert named.answer == once.answer, "who names a function wants one call"
    with pytest.raises(InvalidRequestError, match="tool_choice"):
        bound(name, tools=TOOLS, tool_choice="function:none")


def test_unsupported_tool_schema_names_tools() -> None:
    raw = msgspec.Raw(b'{"type":"object","properties":{"a":{"type":"string","pattern":"(?=x)"}}}')
    with pytest.raises(UnsupportedError, match="pattern") as caught:
        bound("hermes", tools=(ToolFunction(name="f", parameters=raw),), tool_choice="required")
    assert caught.value.param == "tools"
    with pytest.raises(UnsupportedError, match="pattern"):
        bound("hermes", tools=(ToolFunction(name="f", parameters=raw, strict=True),))


@pytest.mark.parametrize("name", [each.name for each in FAMILIES])
def test_a_tool_that_nobody_made_strict_falls_back_to_any_object(name: str) -> None:
    """OpenAI's tools that are not strict promise nothing, and real ones hold whatever JSON Schema has."""
    raw = msgspec.Raw(b'{"type":"object","properties":{"a":{"type":"string","pattern":"(?=x)"}}}')
    lenient = bound(name, tools=(ToolFunction(name="f", parameters=raw),))
    assert lenient is not None
    assert lenient.call is not None


def test_a_great_many_tools_are_not_refused() -> None:
    """Agents bring hundreds of parameters; together they may be too large to be held to."""
    many = {"type": "object", "properties": {f"p{i}": {"enum": [i]} for i in range(60)}}
    raw = msgspec.Raw(json.dumps(many).encode())
    free = bound("hermes", tools=tuple(ToolFunction(name=f"t{i}", parameters=raw) for i in range(64)))
    assert free is not None
    assert free.call is not None
    assert '"\\"t63\\""' in free.call.text()


def test_json_object_with_tools_allows_both() -> None:
    both = bound("hermes", tools=TOOLS, response_format=ResponseFormat(type="json_object"))
    assert both is not None
    assert both.answer is not None
    assert "answer ::= object | calls" in both.answer.text()


def test_unions_of_unions_and_references_end_soon() -> None:
    """Each alternative refers to the whole twice: without a bound, 2 to the 32nd alternatives."""
    node: Any = {"type": "object", "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}
    for schema in (
        {"$defs": {"a": node}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}] * 2}}, "$ref": "#/$defs/a"},
    ):
        with pytest.raises(UnsupportedError):
            compile_schema(schema)


NAMES = [f"a{i}" for i in range(90_000)]
FIXED = [[list(range(50_000))]]
DOZEN = {"anyOf": [{"$ref": "#/$defs/a"}] * 12}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": DOZEN}, "oneOf": [DOZEN, {"$ref": "#/$defs/a"}]},
        {"allOf": [{"enum": NAMES}, {"enum": [*reversed(NAMES)]}]},
        {"allOf": [{"required": NAMES}, {"required": [*reversed(NAMES)]}]},
        {"allOf": [{"properties": {name: {}}} for name in NAMES[:10_000]]},
        {"oneOf": [{"enum": [f"{i}-{j}" for j in range(600)]} for i in range(250)]},
        {"type": "object", "properties": {"k" * 3000: {}}, "additionalProperties": True},
        {
            "prefixItems": [{"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}] * 5000,
            "$defs": {"a": {"const": FIXED}, "b": {"const": [*FIXED]}},
        },
        {"type": "object", "required": NAMES[:200], "properties": {key: {"maxLength": 1000} for key in NAMES[:200]}},
    ],
)
def test_a_small_schema_that_asks_for_endless_work_is_refused(schema: Any) -> None:
    """Each would keep everybody's tokens waiting for minutes, or for ever."""
    with pytest.raises(UnsupportedError):
        compile_schema(schema)


def test_a_hundred_schemas_share_one_effort() -> None:
    wide = {"type": "object", "required": NAMES[:600], "properties": {key: {"enum": [1]} for key in NAMES[:600]}}
    raw = msgspec.Raw(json.dumps(wide).encode())
    checked = held_to([ToolFunction(f"t{i}", "", raw) for i in range(128)], family("hermes"), is_strict=False)
    assert [tool.schema is ANY_OBJECT for tool in checked] == sorted(tool.schema is ANY_OBJECT for tool in checked)
    assert checked[0].schema is raw
    assert checked[-1].schema is ANY_OBJECT


@pytest.mark.parametrize(
    "pattern", ["^((a{0,30}){0,30}){0,30}$", "a{0,900}" * 2, "(a?){999}b{2}", "([a-z]{1,40} ?){30}"]
)
def test_a_pattern_that_unfolds_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedError, match="1000 characters"):
        compile_schema({"type": "string", "pattern": pattern})


def tree(*options: Any) -> Any:
    return {"$ref": "#/$defs/tree", "$defs": {"tree": {"anyOf": options}}}


TREE = {"$ref": "#/$defs/tree"}


@pytest.mark.parametrize(
    "schema",
    [
        tree(*({"type": "array", "items": TREE, "maxItems": n} for n in (1, 2))),
        tree(*({"type": "object", "properties": {"left": TREE}, "required": [k], "title": k} for k in ("left", "x"))),
        tree({}, {"type": "array", "items": TREE}),
    ],
)
def test_alternatives_that_begin_alike_within_one_another_are_refused(schema: Any) -> None:
    """llama.cpp follows all that may be meant: two at the first bracket are two to the twentieth at the twentieth."""
    with pytest.raises(UnsupportedError, match="begin alike"):
        compile_schema(schema)


def test_trees_whose_nodes_say_first_what_they_are_are_taken() -> None:
    def node(kind: Any) -> Any:
        return {
            "type": "object",
            "properties": {"op": {"const": kind}, "parts": {"type": "array", "items": TREE}},
            "required": ["op", "parts"],
        }

    assert compile_schema(tree(*map(node, range(40)), {"type": "string"}, {"type": "array", "items": TREE}))
    alike = [{"type": "object", "properties": {"id": {"type": "string"}, n: {}}, "required": ["id", n]} for n in "ab"]
    assert compile_schema({"anyOf": alike * 20})


def test_what_texts_begin_with_in_common_is_written_once() -> None:
    """Four thousand that began alike took 1.6 s for a token of a real vocabulary."""
    assert one_of(["b", "ab1", "ab2", "ab"]) == '("ab" ("" | "1" | "2") | "b")'
    assert one_of(["same", "same"]) == '"same"'
    stairs = one_of("a" * n for n in range(1, 4000))
    assert stairs.count("(") <= MAX_FORKS + 2


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text('ab"(', max_size=5), min_size=1, max_size=12))
def test_one_of_is_any_of_its_texts_and_nothing_else(texts: list[str]) -> None:
    shown = re.sub(r'"((?:[^"\\]|\\.)*)"', lambda found: re.escape(re.sub(r"\\(.)", r"\1", found[1])), one_of(texts))
    expression = re.compile(shown.replace(" ", ""))
    candidates = {*texts, *(text[:-1] for text in texts), *(text + "a" for text in texts)}
    assert {text for text in candidates if expression.fullmatch(text)} == set(texts)
