"""No bytes make the parsers do anything but answer or refuse; what they accept survives the seal."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api import chat, strict_json
from mcd.errors import InvalidRequestError, UserError

FULL = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "a\\u00e9\n"}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ],
    "temperature": 0.5,
    "stop": ["a", "b"],
    "logit_bias": {"5": -1.5},
    "n": 2,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": [1, None, True]}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "stream": True,
    "stream_options": {"include_usage": True},
}
BODY = json.dumps(FULL).encode()

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Members as a tuple of pairs, so that names may repeat."""
    return st.lists(st.tuples(st.sampled_from('ab\\"'), inner), max_size=3).map(tuple)


def parse_or_refuse(body: bytes) -> None:
    for parse in (chat.parse, chat.decode_canonical):
        with contextlib.suppress(UserError):
            request = parse(body)
            wire = chat.encode_canonical(request)
            assert chat.encode_canonical(chat.decode_canonical(wire)) == wire


@pytest.mark.spec("GW-10")
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    parse_or_refuse(body)


@pytest.mark.spec("GW-10", "GW-14")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_a_real_body_with_some_bytes_replaced(edits: list[tuple[int, bytes]]) -> None:
    body = bytearray(BODY)
    for place, new in edits:
        body[place : place + 1] = new
    parse_or_refuse(bytes(body))


@pytest.mark.spec("GW-12")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FULL)), JSON)
def test_a_real_body_with_any_value_in_any_member(name: str, value: Any) -> None:
    parse_or_refuse(json.dumps(FULL | {name: value}).encode())


@pytest.mark.spec("GW-11")
@settings(max_examples=200, deadline=None)
@given(st.recursive(SCALAR, lambda inner: arrays(inner) | objects(inner), max_leaves=8))
def test_the_scan_finds_exactly_the_duplicates_a_parser_would_see(tree: Any) -> None:
    def write(node: Any) -> str:
        """Lists are arrays; tuples are objects whose names may repeat."""
        if isinstance(node, tuple):
            return "{" + ",".join(f"{json.dumps(name)}:{write(member)}" for name, member in node) + "}"
        if isinstance(node, list):
            return "[" + ",".join(map(write, node)) + "]"
        return json.dumps(node)

    def pairs(members: list[tuple[str, Any]]) -> None:
        nonlocal repeats
        repeats |= len({name for name, _ in members}) < len(members)

    repeats = False
    text = write(tree)
    json.loads(text, object_pairs_hook=pairs)
    if repeats:
        with pytest.raises(InvalidRequestError, match="twice"):
            strict_json.scan(text.encode())
    else:
        strict_json.scan(text.encode())
