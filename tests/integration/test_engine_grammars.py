"""Grammars in llama.cpp's own engine: whatever they let through is valid, by a second opinion on the schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mcd.engine import abi
from mcd.engine.gbnf.rules import Rules, literal, text_until
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.guide import Grammar
from mcd.engine.model import Model
from tests.fakes import gguf_make
from tests.fakes.grammar_sample import sample
from tests.fakes.json_check import FORMATS, fits

SLOW = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
KEYS = st.sampled_from(["a", "ab", "abc", "b", 'q"', "ü", "x y", "n\\"])
SIMPLE_KEYS = st.sampled_from(["a", "ab", "abc", "b", "c_1"])
PATTERNS = (
    "^[a-z]{2,4}$", r"^\d{3}-\d{4}$", "^(foo|bar)+$", r"[^\w\s]", "^$", r'^"\\?[^"]*$', r"^(?:a|b)?c+$", "x", "^é.?$",
    r"^[\u00e0-\u00ff]{1,3}$", "^a|b$", r"^\S+@\S+$", r"^[+-]?[0-9]*\.?[0-9]+$", "^[A-Fa-f0-9]{6}$", r"^\/[\w.\-]+$",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Its tokens are single bytes (and five more), so any text can be written."""
    loaded = Model(abi.load_library(), str(gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf")))
    yield loaded
    loaded.close()


def ranged(low: str, high: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    both = st.tuples(numbers, numbers).map(sorted).map(lambda pair: {low: pair[0], high: pair[1]})
    one = st.tuples(st.sampled_from([low, high]), numbers).map(lambda pair: {pair[0]: pair[1]})
    return st.just({}) | both | one


WHOLE = st.integers(-3000, 3000) | st.integers(-(10**12), 10**12)
STRINGS = st.one_of(
    ranged("minLength", "maxLength", st.integers(0, 6)),
    st.sampled_from(PATTERNS).map(lambda pattern: {"pattern": pattern}),
    st.sampled_from(sorted(FORMATS)).map(lambda form: {"format": form}),
).map(lambda words: {"type": "string", **words})
NUMBERS = st.builds(
    lambda kind, words, opens: {
        "type": kind,
        **{(f"exclusive{key.title()}" if opens and kind == "integer" and len(words) == 1 else key): value
           for key, value in words.items()},
    },
    st.sampled_from(["integer", "number"]),
    ranged("minimum", "maximum", WHOLE),
    st.booleans(),
)  # fmt: skip
PLAIN = st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "nullable": True}, {}, True])
FIXED = st.lists(st.sampled_from([1, 2.5, None, True, "a", 'é"\n', [1], {"k": "v"}]), min_size=1, max_size=3)
LEAVES = STRINGS | NUMBERS | PLAIN | FIXED.map(lambda values: {"enum": values}) | st.just({"const": "x"})


def schemas(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(LEAVES, lambda inner: _grown(inner, keys), max_leaves=6)


def _grown(inner: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    objects = st.builds(
        lambda properties, required, extra: {
            "type": "object",
            "properties": properties,
            "required": sorted(required & set(properties)),
            **extra,
        },
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys),
        st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "null"}}]),
    )
    arrays = st.builds(
        lambda items, prefix, counts: {"type": "array", "items": items, **prefix, **counts},
        inner,
        st.just({}) | st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"prefixItems": parts}),
        ranged("minItems", "maxItems", st.integers(0, 3)),
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts})
    tagged = st.tuples(inner, inner).map(
        lambda pair: {
            "oneOf": [
                {"type": "object", "properties": {"k": {"const": i}, "v": part}, "required": ["k", "v"]}
                for i, part in enumerate(pair)
            ]
        }
    )
    joined = st.tuples(inner, inner).map(
        lambda pair: {
            "type": "object",
            "allOf": [{"properties": {"p": pair[0]}, "required": ["p"]}, {"$ref": "#/$defs/q"}],
            "$defs_q": {"properties": {"q": pair[1]}},
        }
    )
    return objects | arrays | unions | tagged | joined


def document(schema: Any) -> Any:
    """With the parts that `joined` refers to where references find them."""
    parts: list[Any] = []

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            out = {key: walk(value) for key, value in node.items() if key != "$defs_q"}
            if "$defs_q" in node:
                parts.append(walk(node["$defs_q"]))
                out["allOf"] = [out["allOf"][0], {"$ref": f"#/$defs/q{len(parts)}"}]
            return out
        return [walk(item) for item in node] if isinstance(node, list) else node

    whole = walk(schema)
    if parts:
        whole = {"allOf": [whole], "$defs": {f"q{i + 1}": part for i, part in enumerate(parts)}}
    return whole


@SLOW
@given(schemas(KEYS), st.integers(0, 2**32))
def test_what_a_grammar_lets_through_fits_its_schema(model: Model, schema: Any, seed: int) -> None:
    whole = document(schema)
    rules = Rules("x")
    gbnf = rules.text(SchemaCompiler(rules).schema(json.dumps(whole).encode(), "answer"))
    choose = random.Random(seed)
    for _ in range(3):
        text = sample(model, gbnf, choose)
        assert fits(json.loads(text), whole, whole), text


TREES: list[Any] = [
    {
        "$defs": {
            "node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}
        },
        "$ref": "#/$defs/node",
    },
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}]},
]


@pytest.mark.parametrize("schema", TREES)
def test_schemas_that_contain_themselves(model: Model, schema: Any) -> None:
    rules = Rules("x")
    gbnf = rules.text(SchemaCompiler(rules).schema(json.dumps(schema).encode(), "answer"))
    for seed in range(20):
        assert fits(json.loads(sample(model, gbnf, random.Random(seed))), schema, schema)


@SLOW
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2**32))
def test_integers_of_a_range_are_all_there(model: Model, one: int, other: int, seed: int) -> None:
    """Not only valid ones: both ends and any between."""
    low, high = sorted((one - 500_000, other - 500_000))
    rules = Rules("x")
    schema = {"type": "integer", "minimum": low, "maximum": high}
    gbnf = rules.text(SchemaCompiler(rules).schema(json.dumps(schema).encode(), "answer"))
    inside = random.Random(seed).randint(low, high)
    for value, is_valid in ((low, True), (high, True), (inside, True), (low - 1, False), (high + 1, False)):
        assert admits(model, gbnf, str(value)) == is_valid, value


def admits(model: Model, gbnf: str, text: str) -> bool:
    grammar = Grammar(model, gbnf, "x")
    try:
        for token in text.encode():
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.is_complete
    finally:
        grammar.close()


@SLOW
@given(st.text('<\n/par">é', min_size=1, max_size=12), st.text("</p\n>ar", max_size=40))
def test_bare_text_is_any_that_does_not_hold_its_end(model: Model, stop: str, text: str) -> None:
    assume(not any(stop.startswith(stop[at:]) for at in range(1, len(stop))))  # none of ours overlaps itself
    rules = Rules("x")
    gbnf = rules.text(f"{text_until(rules, stop)} {literal(stop)}")
    assert admits(model, gbnf, text + stop) == (stop not in (text + stop)[:-1])
