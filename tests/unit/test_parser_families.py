"""Every family reads what the real templates of its models write: the same calls, thoughts and answer come back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.parsers.cursor import MIN_MARKER_CHARS
from mcd.engine.parsers.families import FAMILIES, THINKS, family_of
from mcd.engine.parsers.syntax import HarmonyCalls, NamedCalls
from tests.fakes import templates
from tests.fakes.parse import Story, play, read
from tests.fakes.turns import TOOLS, Turn, turn

ARGUMENTS: dict[str, Any] = {"a": 1, "s": 'x"é\\\n<y> {', "o": {"k": [1, True, "t"]}, "l": ["q", "z,"], "b": True}
MORE: dict[str, Any] = {"a": -2, "s": "", "b": False}

WRITERS: dict[str, str] = {
    "Apertus-8B-Instruct": "apertus",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed-oss",
    "Cohere2MoE": "command r7b",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command r7b",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm",
    "Kimi-K2-Instruct": "kimi k2",
    "Kimi-K2-Thinking": "kimi k2",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "minimax m1",
    "MiniMax-M2": "minimax m2",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral args",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen xml",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen xml",
    "Qwen3.5-4B": "qwen xml",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm",
    "StepFun3.5-Flash": "qwen xml",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek v4",
    "fireworks-ai-llama-3-firefunction-v2": "firefunction",
    "google-gemma-4-31B-it": "gemma 4",
    "google-gemma-4-31B-it-interleaved": "gemma 4",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "inclusionai-ling-3.0-flash": "glm",
    "meetkai-functionary-medium-v3.1": "functionary 3.1",
    "meta-llama-Llama-3.1-8B-Instruct": "llama 3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama 3",
    "meta-llama-Llama-3.3-70B-Instruct": "llama 3",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral args",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi k2",
    "openai-gpt-oss-120b": "gpt-oss",
    "openbmb-MiniCPM5-1B": "minicpm 5",
    "poolside-Laguna-S-2.1": "glm",
    "tencent-Hy3": "hunyuan 3",
    "unsloth-Apriel-1.5": "apriel",
    "unsloth-mistral-Devstral-Small-2507": "mistral args",
    "upstage-Solar-Open-100B": "solar open",
}
"""Templates that write calls themselves, and the family they must be found to be."""
ONE_CALL_ONLY = ("meta-llama-Llama", "openai-gpt-oss")
"""Their templates write one call a turn."""
THINKERS = [
    "Bielik-11B-v3.0-Instruct", "ByteDance-Seed-OSS", "Cohere2MoE", "GLM-4.6", "GLM-4.7-Flash", "MiniMax-M2",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "Spark2.5", "StepFun3.5-Flash",
    "google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved", "inclusionai-ling-3.0-flash", "openai-gpt-oss-120b",
    "poolside-Laguna-S-2.1", "Kimi-K2-Thinking", "tencent-Hy3", "upstage-Solar-Open-100B",
]  # fmt: skip
"""Those that also write the thoughts of the turn before a call."""


def written(name: str, **parts: Any) -> Turn:
    return turn(name, **parts)


def same(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With arguments in one spelling: order and spaces are the model's own."""
    return [(name, json.dumps(json.loads(arguments), sort_keys=True)) for name, arguments in calls]


def expected(*arguments: dict[str, Any]) -> list[tuple[str, str]]:
    return [("add", json.dumps(each, sort_keys=True)) for each in arguments]


def check(story: Story, shown: Turn, *arguments: dict[str, Any], thoughts: str = "") -> None:
    assert same(story.calls) == expected(*arguments)
    assert story.text.strip() == ("Cont é" if "Cont é" in shown.text else "")
    assert story.reasoning.strip() == thoughts


@pytest.mark.parametrize(("name", "family"), WRITERS.items())
def test_calls_come_back(name: str, family: str) -> None:
    one = written(name, calls=(ARGUMENTS,))
    assert one.family.name == family
    for step in (1, 3, 10_000):
        check(play(one, step=step), one, ARGUMENTS)
    if not name.startswith(ONE_CALL_ONLY):
        two = written(name, calls=(ARGUMENTS, MORE))
        check(play(two, step=1), two, ARGUMENTS, MORE)


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith(ONE_CALL_ONLY)])
def test_text_before_a_call_stays_text(name: str) -> None:
    shown = written(name, content="Cont é", calls=(ARGUMENTS,))
    check(play(shown, step=1), shown, ARGUMENTS)


@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_come_back_and_nowhere_else(name: str) -> None:
    shown = written(name, reasoning="R1\nr2", calls=(ARGUMENTS,), enable_thinking=True, thinking=True)
    assert "R1" in shown.text
    check(play(shown, step=1), shown, ARGUMENTS, thoughts="R1\nr2")


def test_calls_in_pythons_words_come_back() -> None:
    """Not in `WRITERS`, as this template does not escape what it quotes."""
    simple = {"a": 1, "s": "x, (y)é", "o": {"k": [1, None]}, "l": ["q"], "b": True}
    shown = written("LFM2.5-8B-A1B", content="Cont é", calls=(simple, MORE))
    assert shown.family.name == "lfm 2"
    for step in (1, 10_000):
        check(play(shown, step=step), shown, simple, MORE)


@pytest.mark.parametrize("name", WRITERS)
def test_every_letter_that_a_name_may_have_is_read(name: str) -> None:
    shown = written(name, calls=({"a": 1},))
    odd = [msgspec.structs.replace(tool, name="ns.a/b:c-1_2") for tool in TOOLS]
    story = read(shown.text.replace("add", odd[0].name), shown.family, tools=odd)
    assert same(story.calls) == [(odd[0].name, '{"a": 1}')]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(WRITERS)), st.lists(st.integers(0, 2000), max_size=30))
def test_any_cut_gives_the_same(name: str, places: list[int]) -> None:
    shown = _remembered(name)
    whole, cut = play(shown, step=100_000), play(shown, places=places)
    assert (cut.text, cut.reasoning, cut.calls, cut.ids) == (whole.text, whole.reasoning, whole.calls, whole.ids)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(WRITERS)), st.integers(0, 2000))
def test_nothing_of_a_call_leaks_when_it_is_cut_off(name: str, length: int) -> None:
    """The token limit ends the text anywhere: what was told of a call stays a beginning of it."""
    shown = _remembered(name)
    whole = play(shown, step=100_000)
    part = play(shown, step=7, length=length % (len(shown.text) + 1), is_cut=True)
    if shown.family.name != "llama 3":  # a bare object is an answer as long as it names no tool
        assert len(part.text.strip()) < MIN_MARKER_CHARS
    for (name_told, arguments), (_, full) in zip(part.calls, whole.calls, strict=False):
        assert name_told == "add"
        assert full.startswith(arguments)


_TURNS: dict[str, Turn] = {}


def _remembered(name: str) -> Turn:
    if name not in _TURNS:
        parts = (ARGUMENTS,) if name.startswith(ONE_CALL_ONLY) else (ARGUMENTS, MORE)
        _TURNS[name] = written(name, calls=parts)
    return _TURNS[name]


@pytest.mark.parametrize("name", templates.NAMES)
def test_every_template_has_a_family(name: str) -> None:
    family = family_of(templates.source(name))
    assert family.think is not None
    assert family.name == WRITERS.get(name, family.name)


def test_no_marker_begins_with_another_of_its_family() -> None:
    """Else the shorter would be found before the longer has come, depending on how the text is cut."""
    for family in FAMILIES:
        marks = [*family.drops]
        if isinstance(family.calls, NamedCalls):
            marks += [family.calls.section, family.calls.open]
        elif not isinstance(family.calls, HarmonyCalls):
            marks += [family.calls.open]
        marks = [mark for mark in marks if mark]
        for mark in marks:
            assert not any(other != mark and other.startswith(mark) for other in marks), family.name
    assert len({think.open for think in THINKS}) == len(THINKS)


def test_offered_tools_are_those_of_the_turns() -> None:
    assert [tool.name for tool in TOOLS] == ["add"]
