"""Model text split into thoughts, answer and calls: equal however it is cut, nothing lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.tools import Family, MessageParser, family_of, parse_calls

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'


def play(text: str, places: list[int], family: Family | None, *, may_think: bool = True, is_thinking: bool = False):
    parser = MessageParser(family, may_think=may_think, is_thinking=is_thinking)
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    shown, reasoning, calls = "", "", []
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    for index, piece in enumerate([*pieces, ""]):
        parsed = parser.feed(piece, is_end=index == len(pieces))
        shown += parsed.text
        reasoning += parsed.reasoning
        calls += [(call.index, call.name, call.arguments) for call in parsed.calls]
    return shown, reasoning, calls


CASES = [
    ("Hello world", "tagged", ("Hello world", "", [])),
    ("<think>hm\n</think>\n\nYes", "tagged", ("Yes", "hm", [])),
    (f"Wait.\n{CALL}", "tagged", ("Wait.", "", [(0, "add", '{"a": 1, "b": "é"}')])),
    (f"{CALL}\n{CALL}", "tagged", ("", "", [(0, "add", '{"a": 1, "b": "é"}'), (1, "add", '{"a": 1, "b": "é"}')])),
    (f"<think>use it</think>{CALL}", "tagged", ("", "use it", [(0, "add", '{"a": 1, "b": "é"}')])),
    ("<tool_call>not json</tool_call> x", "tagged", ("<tool_call>not json</tool_call> x", "", [])),
    ("a < b <tool", "tagged", ("a < b <tool", "", [])),
    ('[TOOL_CALLS] [{"name": "f", "arguments": {}}]', "mistral", ("", "", [(0, "f", "{}")])),
    ('{"name": "f", "parameters": {"x": 2}}', "plain", ("", "", [(0, "f", '{"x": 2}')])),
    ('{"colour": "red"}', "plain", ('{"colour": "red"}', "", [])),
    ("Sum: {1}", "plain", ("Sum: {1}", "", [])),
    ("<think>never closed", "tagged", ("", "never closed", [])),
]


@pytest.mark.parametrize(("text", "family", "expected"), CASES)
def test_whole_text(text: str, family: Family, expected: object) -> None:
    assert play(text, [], family) == expected


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 200), max_size=30))
def test_any_cut_gives_the_same(case: tuple[str, Family, object], places: list[int]) -> None:
    text, family, expected = case
    assert play(text, places, family) == expected


def test_thoughts_begun_by_the_prompt() -> None:
    assert play("so be it</think>ok", [3], None, is_thinking=True) == ("ok", "so be it", [])


def test_think_tags_inside_an_answer_are_text() -> None:
    assert play("The tag <think> opens.", [5, 9], None) == ("The tag <think> opens.", "", [])


def test_without_offered_tools_calls_are_text() -> None:
    assert play(CALL, [4, 20], None)[0] == CALL


@settings(deadline=None, max_examples=200)
@given(st.text('<tool_cal>/{}" ab', max_size=60), st.lists(st.integers(0, 200), max_size=20))
def test_no_visible_character_is_lost(text: str, places: list[int]) -> None:
    shown, reasoning, calls = play(text, places, "tagged", may_think=False)
    if not calls:
        assert shown == text
    assert reasoning == ""


def test_families() -> None:
    assert family_of("... [TOOL_CALLS] ...") == "mistral"
    assert family_of("... <tool_call> ...") == "tagged"
    assert family_of("...") == "plain"
    assert parse_calls("[]") is None
    assert parse_calls('{"name": 3}') is None
