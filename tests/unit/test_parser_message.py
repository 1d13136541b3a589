"""Model text split into thoughts, answer and calls: equal however it is cut, nothing lost, calls in fragments."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api.request import ToolFunction
from mcd.engine.parsers.call_stream import MAX_NAME_CHARS, MAX_UNDECIDED_CHARS
from mcd.engine.parsers.families import FAMILIES, family_of, may_think
from mcd.engine.parsers.kinds import ALL, ParameterKinds, python_to_json, to_json
from mcd.engine.parsers.message import MessageParser
from mcd.engine.parsers.syntax import Family
from mcd.wire.payload import MAX_TOOL_CALLS
from tests.fakes.parse import read

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "s": "é"}}\n</tool_call>'
DONE = ("add", '{"a": 1, "s": "é"}')
XML = "<tool_call>\n<function=add>\n<parameter=s>\n{0}\n</parameter>\n</function>\n</tool_call>"


def family(name: str, think: str = "<think>") -> Family:
    signs = next(each for each in FAMILIES if each.name == name).signs
    return family_of(" ".join([*signs, think]))


CASES = [
    ("Hello world", "hermes", ("Hello world", "", [])),
    ("  Hello", "hermes", ("  Hello", "", [])),
    ("<think>hm\n</think>\n\nYes", "hermes", ("Yes", "hm", [])),
    ("</think>\n\nYes", "hermes", ("Yes", "", [])),
    (f"Wait.\n{CALL}", "hermes", ("Wait.", "", [DONE])),
    (f"{CALL}\n{CALL} so", "hermes", ("so", "", [DONE, DONE])),
    (f"<think>use it</think>{CALL}", "hermes", ("", "use it", [DONE])),
    (f"<think>use {CALL}?</think>no", "hermes", ("no", f"use {CALL}?", [])),
    ("x <tool_call>not json</tool_call> y", "hermes", ("x <tool_call>not json</tool_call> y", "", [])),
    ('<tool_call>{"name": "add"}</tool_call>', "hermes", ("", "", [("add", "{}")])),
    ('<tool_call>{"arguments": {"a": 2}, "name": "add"}</tool_call>', "hermes", ("", "", [("add", '{"a": 2}')])),
    ('<tool_call>{"name":"add","arguments":"{\\"a\\": 2}"}</tool_call>', "hermes", ("", "", [("add", '{"a": 2}')])),
    ('<tool_call>{"name":"add","arguments":{"a":2}}}\n</tool_call>', "hermes", ("", "", [("add", '{"a":2}')])),
    ('<tool_call>{"id":7,"name":"add","arguments":{}}</tool_call>', "hermes", ("", "", [("add", "{}")])),
    (f"{CALL} <tool_call>then", "hermes", ("<tool_call>then", "", [DONE])),
    ("a < b <tool", "hermes", ("a < b <tool", "", [])),
    ("a [TOOL b", "mistral", ("a [TOOL b", "", [])),
    ('[TOOL_CALLS] [{"name": "add", "arguments": {}}]', "mistral", ("", "", [("add", "{}")])),
    ("[TOOL_CALLS]add[ARGS]{}[TOOL_CALLS]add[ARGS]{}", "mistral args", ("", "", [("add", "{}"), ("add", "{}")])),
    ("[TOOL_CALLS] or else", "mistral args", ("[TOOL_CALLS] or else", "", [])),
    ('{"name": "add", "parameters": {"a": 2}}', "llama 3", ("", "", [("add", '{"a": 2}')])),
    ('<|python_tag|>{"name": "add", "parameters": {}}', "llama 3", ("", "", [("add", "{}")])),
    ('I do: <|python_tag|>{"name": "add", "parameters": {}}', "llama 3", ("I do:", "", [("add", "{}")])),
    ("<|python_tag|>print(1)", "llama 3", ("print(1)", "", [])),
    ('{"name": "add", "parameters": {}}; {"name": "add", "parameters": {}}', "plain", ("", "", [("add", "{}")] * 2)),
    ('{"name": "Bob", "parameters": {}}', "plain", ('{"name": "Bob", "parameters": {}}', "", [])),
    ('{"colour": "red"}', "plain", ('{"colour": "red"}', "", [])),
    ("Sum: {1}", "plain", ("Sum: {1}", "", [])),
    ("<think>never closed", "hermes", ("", "never closed", [])),
    ("<think>one</think><response>Yes</response>", "granite 3", ("Yes", "one", [])),
    ('<|tool_call|>[{"name": "add", "arguments": {"a": 2}}]', "granite 3", ("", "", [("add", '{"a": 2}')])),
    ('<|tool_call|>[{"name": "add", "arguments": {}}]<|/tool_call|>', "phi 4 mini", ("", "", [("add", "{}")])),
    ('<TOOLCALL>[{"name": "add", "arguments": {}}]</TOOLCALL>', "nemotron", ("", "", [("add", "{}")])),
    (
        'Action:\n```json\n[\n    {\n        "tool_name": "add",\n        "parameters": {}\n    }\n]```',
        "command r",
        ("", "", [("add", "{}")]),
    ),
    ("<function=add>\n<parameter=a>\n5\n</parameter>\n</function>", "qwen xml", ("", "", [("add", '{"a": 5}')])),
    (XML.format("\n a\n\n"), "qwen xml", ("", "", [("add", '{"s": "\\n a\\n\\n"}')])),
    (XML.format("</function>"), "qwen xml", ("", "", [("add", '{"s": "</function>"}')])),
    ("Use <function=NAME> please", "qwen xml", ("Use <function=NAME> please", "", [])),
    ("<tool_call>add</tool_call>", "glm", ("", "", [("add", "{}")])),
    ("<tool_call> is how", "glm", ("<tool_call> is how", "", [])),
    ("<|tool_call>call:add{s:New York,l:[<|\"|>a<|\"|>,b]}<tool_call|>", "gemma 4",
     ("", "", [("add", '{"s":"New York","l":["a","b"]}')])),
    ("<|channel>thought\nhm<channel|>Yes", "gemma 4", ("Yes", "hm", [])),
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes<|return|>", "gpt-oss",
     ("Yes", "hm", [])),
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.add "
     "<|constrain|>json<|message|>{\"a\": 1}<|call|>", "gpt-oss", ("", "hm", [("add", '{"a": 1}')])),
    ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.add<|channel|>commentary json"
     "<|message|>{}", "gpt-oss", ("I look.", "", [("add", "{}")])),
    ("<|channel|>commentary to=python code<|message|>print(1)<|call|>", "gpt-oss", ("", "print(1)", [])),
    ("<|channel|>final <|constrain|>json<|message|>{}", "gpt-oss", ("{}", "", [])),
    ("<|tool_call_start|>[add(s='x, (y)')]<|tool_call_end|>ok", "lfm 2", ("ok", "", [("add", '{"s": "x, (y)"}')])),
    ("plain words <|x", "gpt-oss", ("plain words <|x", "", [])),
    ("final answer: 4", "gpt-oss", ("final answer: 4", "", [])),
    ("<|channel|>anal", "gpt-oss", ("", "", [])),
]  # fmt: skip


def said(text: str, name: str, cuts: list[int] | None = None) -> tuple[str, str, list[tuple[str, str]]]:
    think = "<|channel>thought" if name == "gemma 4" else "<think>"
    story = read(text, family(name, think), [cut % (len(text) + 1) for cut in cuts or ()])
    return story.text, story.reasoning, story.calls


@pytest.mark.parametrize(("text", "name", "expected"), CASES)
def test_whole_and_letter_by_letter(text: str, name: str, expected: object) -> None:
    assert said(text, name) == expected
    assert said(text, name, list(range(len(text)))) == expected


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 200), max_size=30))
def test_any_cut_gives_the_same(case: tuple[str, str, object], cuts: list[int]) -> None:
    text, name, expected = case
    assert said(text, name, cuts) == expected


MARKUP = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<function=", "add", ">", "\n", " ", "{", "}", '"', "name", ":", "[TOOL_CALLS]",
         "[ARGS]", "<parameter=", "s", "</parameter>", "<arg_key>", "</arg_key>", "<|channel|>", "<|message|>", "é",
         "[",
         "<|tool_call>call:", '<|"|>', ",", "final", "<think>", "</think>", "1", "\\"]
    ),
    max_size=25,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(MARKUP, st.sampled_from(sorted(each.name for each in FAMILIES)), st.lists(st.integers(0, 400), max_size=20))
def test_garbage_of_markup_is_read_alike_however_cut(parts: list[str], name: str, cuts: list[int]) -> None:
    text = "".join(parts)
    assert said(text, name, cuts) == said(text, name)


@settings(deadline=None, max_examples=200)
@given(st.text('<tool_cal>/{}" ab', max_size=60), st.lists(st.integers(0, 200), max_size=20))
def test_no_visible_character_is_lost(text: str, cuts: list[int]) -> None:
    shown, reasoning, calls = said(text, "hermes", cuts)
    if not calls:
        assert shown == text
    assert reasoning == ""


def test_thoughts_begun_by_the_prompt() -> None:
    for text in ("so be it</think>ok", "<think>so be it</think>ok"):
        story = read(text, family("hermes"), [3], is_thinking=True)
        assert (story.text, story.reasoning) == ("ok", "so be it")


def test_think_tags_inside_an_answer_are_text() -> None:
    assert said("The tag <think> opens.", "hermes", [5, 9])[0] == "The tag <think> opens."


def test_without_offered_tools_calls_are_text() -> None:
    assert read(CALL, family("hermes"), [4, 20], tools=()).text == CALL


def test_arguments_leave_as_they_come() -> None:
    """Also where they are written as tags: a long text must not wait for its end."""
    text = "word " * 40
    for shown, name in ((XML.format(text), "qwen xml"), (CALL.replace("é", text), "hermes")):
        story = read(shown, family(name), list(range(0, len(shown), 5)))
        assert json.loads(story.calls[0][1])["s"] == text
        assert story.n_pieces[0] > 30


def test_ids_depend_on_request_and_place_only() -> None:
    first, again = read(CALL + CALL, family("hermes")), read(CALL + CALL, family("hermes"), [9, 30])
    assert first.ids == again.ids
    assert len(set(first.ids)) == 2
    assert all(id.startswith("call_") and len(id) == 29 for id in first.ids)
    assert len(read("[TOOL_CALLS]add[ARGS]{}", family("mistral args")).ids[0]) == 9
    other = MessageParser(family("hermes"), (ToolFunction(name="add"),), id_seed=b"other")
    assert other.feed(CALL, is_end=True).calls[0].id not in first.ids


def test_calls_are_counted_when_whole() -> None:
    parser = MessageParser(family("hermes"), (ToolFunction(name="add"),))
    parser.feed(CALL[:-14])
    assert (parser.calls.n_begun, parser.calls.n_complete) == (1, 0)
    parser.feed(CALL[-14:])
    assert (parser.calls.n_begun, parser.calls.n_complete) == (1, 1)


def test_there_is_a_most_of_calls_and_of_undecided_text() -> None:
    story = read(CALL * (MAX_TOOL_CALLS + 2), family("hermes"))
    assert len(story.calls) == MAX_TOOL_CALLS
    assert story.text == CALL * 2
    endless = '<tool_call>{"arguments": {"a": "' + "x" * (MAX_UNDECIDED_CHARS + 10)
    assert read(endless, family("hermes"), list(range(0, len(endless), 4096))).text == endless


def test_a_name_of_a_thousand_letters_is_no_name() -> None:
    long = CALL.replace("add", "a" * (MAX_NAME_CHARS + 1))
    assert long != CALL
    assert read(long, family("hermes")).text == long


@pytest.mark.parametrize("literal", [r"['\ud800']", "[1e999]", "{'a': 1e999}", r"{'\udfff': 1}"])
def test_a_literal_that_is_no_json_stays_text(literal: str) -> None:
    """Half of a surrogate pair could not even be sent: it ended the engine, and with it everybody's answers."""
    shown = to_json(literal, frozenset({"array", "object", "string"}))
    assert json.loads(shown) == literal
    assert json.loads(python_to_json(literal, frozenset({"array", "object"}))) == literal


def test_kinds_are_found_in_time() -> None:
    dozen = {"anyOf": [{"$ref": "#/$defs/a"}] * 12}
    schema = {"properties": {"x": {"$ref": "#/$defs/a"}, "y": {"enum": [*map(str, range(5000))], "type": "string"}}}
    raw = json.dumps({**schema, "$defs": {"a": dozen}}).encode()
    kinds = ParameterKinds(ToolFunction(name="f", parameters=msgspec.Raw(raw)))
    assert kinds.of("x") == ALL
    assert kinds.of("y") == {"string"}


def test_kinds_decide_what_an_unquoted_value_is() -> None:
    schema = {
        "properties": {
            "s": {"type": "string"},
            "n": {"type": ["integer", "null"]},
            "e": {"enum": ["1", 2]},
            "r": {"$ref": "#/$defs/d"},
            "u": {"anyOf": [{"type": "boolean"}, {"type": "string"}]},
        },
        "$defs": {"d": {"type": "object"}},
    }
    kinds = ParameterKinds(ToolFunction(name="f", parameters=msgspec.Raw(json.dumps(schema).encode())))
    shown = {"s": "5", "n": "None", "e": "2", "r": "{'a': None}", "u": "True", "other": "[1]"}
    told = {key: json.loads(to_json(text, kinds.of(key))) for key, text in shown.items()}
    assert told == {"s": "5", "n": None, "e": 2, "r": {"a": None}, "u": True, "other": [1]}
    assert json.loads(to_json("maybe", kinds.of("u"))) == "maybe"
    assert json.loads(to_json("{'a': ", kinds.of("r"))) == "{'a': "


def test_which_templates_know_thoughts() -> None:
    assert may_think(family_of("<think>"), "<think>")
    assert may_think(family_of("x</think>"), "x</think>")
    assert not may_think(family_of("x"), "x")
