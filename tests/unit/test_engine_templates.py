"""Every chat template of llama.cpp's tree renders every kind of conversation, with nothing of it lost.

Where a template by itself refuses or drops something, what happens instead is listed here with the reason.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import msgspec
import pytest

from mcd.api.request import ChatMessage, ChatRequest, FunctionCall, ToolCall, ToolFunction
from mcd.engine.chat import Template
from mcd.engine.jinja_sandbox import CompiledTemplate, TemplateRefusalError
from mcd.errors import InvalidRequestError
from tests.fakes import templates

ASKED_MS = 1_790_000_000_000
BOS, EOS = "<BOS>", "<EOS>"
LONG_ID = "call_0123456789abcdef01234567"


def said(role: str, content: str | None, **members: Any) -> ChatMessage:
    return ChatMessage(role=role, content=content, **members)


def called(*numbers: int, content: str | None = None, **members: Any) -> ChatMessage:
    calls = tuple(
        ToolCall(id=f"{LONG_ID}{i}", function=FunctionCall(name="get_weather", arguments=f'{{"city": "Basel{i}"}}'))
        for i in numbers
    )
    return said("assistant", content, tool_calls=calls, **members)


def result(number: int) -> ChatMessage:
    return said("tool", f"Sunny{number}", tool_call_id=f"{LONG_ID}{number}")


SYSTEM, LATER, DEVELOPER = said("system", "Bekind"), said("system", "Bebrief"), said("developer", "Bewise")
HELLO, ANSWER, AGAIN = said("user", "Hellothere"), said("assistant", "Goodday"), said("user", "Andagain")
SCHEMA = b'{"type":"object","properties":{"city":{"type":"string","description":"Whichtown"}},"required":["city"]}'
TOOLS = (ToolFunction(name="get_weather", description="Lookoutside", parameters=msgspec.Raw(SCHEMA)),)

PLAIN: dict[str, tuple[ChatMessage, ...]] = {
    "plain": (HELLO,),
    "system": (SYSTEM, HELLO),
    "several turns": (HELLO, ANSWER, AGAIN),
    "system and turns": (SYSTEM, HELLO, ANSWER, AGAIN),
    "system in the middle": (HELLO, ANSWER, LATER, AGAIN),
    "system at the end": (HELLO, ANSWER, AGAIN, LATER),
    "system alone": (SYSTEM,),
    "developer": (DEVELOPER, HELLO),
    "system and developer": (SYSTEM, DEVELOPER, HELLO),
    "two of the user": (HELLO, AGAIN),
    "two of the assistant": (HELLO, ANSWER, said("assistant", "Moreofit"), AGAIN),
    "assistant first": (ANSWER, AGAIN),
    "assistant last": (HELLO, ANSWER),
    "reasoning": (HELLO, said("assistant", "Goodday", reasoning_content="Letmesee"), AGAIN),
    "a call before tools were taken away": (HELLO, called(1), result(1), ANSWER, AGAIN),
}
WITH_TOOLS: dict[str, tuple[ChatMessage, ...]] = {
    "tools": (HELLO,),
    "tools and system": (SYSTEM, HELLO),
    "call": (HELLO, called(1), result(1)),
    "call answered": (HELLO, called(1), result(1), ANSWER, AGAIN),
    "call with text": (HELLO, called(1, content="Waitabit"), result(1)),
    "call with reasoning": (HELLO, called(1, reasoning_content="Letmesee"), result(1)),
    "call with text and reasoning": (HELLO, called(1, content="Waitabit", reasoning_content="Letmesee"), result(1)),
    "calls side by side": (HELLO, called(1, 2), result(1), result(2)),
    "results in another order": (HELLO, called(1, 2), result(2), result(1), ANSWER, AGAIN),
    "calls in a row": (SYSTEM, HELLO, called(1), result(1), called(2), result(2)),
}
CASES = {**PLAIN, **WITH_TOOLS}

MUST_ALTERNATE = frozenset(
    {
        "Mistral-Small-3.2-24B-Instruct-2506",
        "google-gemma-2-2b-it",
        "mistralai-Ministral-3-14B-Reasoning-2512",
        "mistralai-Mistral-Nemo-Instruct-2407",
    }
)
"""Refuse a conversation that the assistant opens: there is no question that we could put before it."""

DROP_TEXT_BESIDE_A_CALL = frozenset(
    {
        "Cohere2MoE",
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "MiniMax-M1",
        "Mistral-Small-3.2-24B-Instruct-2506",
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        "llama-cpp-deepseek-r1",
        "meta-llama-Llama-3.1-8B-Instruct",
        "meta-llama-Llama-3.2-3B-Instruct",
        "meta-llama-Llama-3.3-70B-Instruct",
        "mistralai-Mistral-Nemo-Instruct-2407",
        "muse-glimmer",
        "upstage-Solar-Open-100B",
    }
)
"""Their models were trained on turns that are either text or a call; the text is left out, as their makers mean it."""


class Model:
    """A template with its prompts, in this process."""

    def __init__(self, name: str) -> None:
        self.source = templates.source(name)
        self._compiled = CompiledTemplate(self.source)
        self.template = Template(self.source, BOS, EOS, self.render)

    def render(self, variables: bytes) -> str:
        try:
            return self._compiled.render(json.loads(variables)).decode()
        except TemplateRefusalError as error:
            raise InvalidRequestError(str(error)) from None

    def prompt(self, request: ChatRequest) -> str:
        return self.render(self.template.variables(request, ASKED_MS, with_tools=bool(request.tools)))


@cache
def model(name: str) -> Model:
    return Model(name)


def request(case: str) -> ChatRequest:
    return ChatRequest(model="m", messages=CASES[case], tools=TOOLS if case in WITH_TOOLS else ())


def words(name: str, case: str) -> list[str]:
    """All that must be in the prompt, in this order as far as it has one."""
    found: list[str] = []
    if case in WITH_TOOLS:
        found += ["get_weather", "Lookoutside", "city"]
    for message in CASES[case]:
        if message.content and not (message.tool_calls and name in DROP_TEXT_BESIDE_A_CALL):
            found.append(message.content)
        found += [f"Basel{call.id[-1]}" for call in message.tool_calls]
    return found


@pytest.mark.parametrize("name", templates.NAMES)
def test_every_template_shows_every_conversation(name: str) -> None:
    lost = {case: missing for case in CASES if (missing := shortcomings(name, case))}
    assert lost == {}


def shortcomings(name: str, case: str) -> list[str]:
    try:
        prompt = model(name).prompt(request(case))
    except InvalidRequestError as error:
        is_expected = case == "assistant first" and name in MUST_ALTERNATE and "alternate" in error.message
        return [] if is_expected else [error.message]
    found = [word for word in words(name, case) if word not in prompt]
    if "{'city': 'B" in prompt:
        found.append("an object as Python prints it")
    if r"{\"city" in prompt:
        found.append("JSON within JSON")
    return found


@pytest.mark.parametrize("name", templates.NAMES)
def test_turns_stay_in_order(name: str) -> None:
    prompt = model(name).prompt(request("call answered"))
    places = [prompt.rindex(word) for word in ("Hellothere", "Basel1", "Sunny1", "Goodday", "Andagain")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", templates.NAMES)
def test_what_is_listed_as_dropped_is_dropped(name: str) -> None:
    """So that the list above cannot hide a template that has learned better."""
    prompt = model(name).prompt(request("call with text"))
    assert ("Waitabit" not in prompt) == (name in DROP_TEXT_BESIDE_A_CALL)


@pytest.mark.parametrize("name", templates.NAMES)
def test_thoughts_about_an_open_call_are_shown_where_the_template_knows_how(name: str) -> None:
    prompt = model(name).prompt(request("call with reasoning"))
    assert ("Letmesee" in prompt) == bool(model(name).template.caps.thoughts)


# --- against the plain way -----------------------------------------------------------------------------------------


class Generation(jinja2.ext.Extension):
    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        return str(caller())


@cache
def plain_template(name: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, ensure_ascii=False, indent=None: json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent
    )
    environment.globals["raise_exception"] = lambda message: (_ for _ in ()).throw(jinja2.TemplateError(message))
    environment.globals["strftime_now"] = lambda layout: datetime.fromtimestamp(ASKED_MS / 1000, UTC).strftime(layout)
    return environment.from_string(model(name).source)


def plainly(name: str, asked: ChatRequest) -> str:
    """The prompt as model hubs' own library makes it: OpenAI's members as they are, arguments as objects."""
    messages = json.loads(msgspec.json.encode(asked.messages))
    names: dict[str, str] = {}
    for message in messages:
        message.setdefault("content", "")
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            call["type"] = "function"
        if message["role"] == "tool":
            message["name"] = names[message["tool_call_id"]]
    tools = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": json.loads(SCHEMA)},
        }
        for t in asked.tools
    ]
    offered = {"tools": tools} if tools else {}
    given = json.loads(model(name).template.variables(asked, ASKED_MS, with_tools=False))
    dates = {key: given[key] for key in ("date_string", "datetime")}
    return plain_template(name).render(
        messages=messages, add_generation_prompt=True, bos_token=BOS, eos_token=EOS, **dates, **offered
    )


BENT_ON_PURPOSE = frozenset({"developer", "system and developer", "system at the end"})
"""A role the model was not trained on; instructions that a template shows at the end and refuses in the middle."""


@pytest.mark.parametrize("name", templates.NAMES)
def test_nothing_is_bent_that_fits(name: str) -> None:
    """Where the plain way shows the whole conversation, ours is the same prompt to the letter."""
    own_thoughts = model(name).template.caps.thoughts not in {"", "reasoning_content"}
    same = set()
    for case in CASES.keys() - BENT_ON_PURPOSE:
        if own_thoughts and "reasoning" in case:
            continue
        try:
            plain = plainly(name, request(case))
        except (jinja2.TemplateError, TypeError, AttributeError):
            continue
        if all(word in plain for word in words(name, case)) and "{'city': 'B" not in plain:
            assert model(name).prompt(request(case)) == plain, case
            same.add(case)
    assert {"plain", "several turns"} <= same or name == "fireworks-ai-llama-3-firefunction-v2"


# --- thinking ------------------------------------------------------------------------------------------------------


def ending(name: str, effort: str | None) -> str:
    return model(name).prompt(ChatRequest(model="m", messages=(HELLO,), reasoning_effort=effort))


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
def test_every_template_takes_every_effort(effort: str) -> None:
    assert [name for name in templates.NAMES if "Hellothere" not in ending(name, effort)] == []


@pytest.mark.parametrize(
    "name",
    [
        "ByteDance-Seed-OSS", "Cohere2MoE", "GLM-4.6", "HuggingFaceTB-SmolLM3-3B", "Kimi-K3", "MiniMax-M3",
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "Reka-Edge",
        "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.2", "deepseek-ai-DeepSeek-V4", "google-gemma-4-31B-it",
        "inclusionai-ling-3.0-flash", "llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B", "poolside-Laguna-XS.2",
        "tencent-Hy3", "upstage-Solar-Open-100B",
    ],
)  # fmt: skip
def test_thinking_can_be_switched_where_the_model_can(name: str) -> None:
    assert ending(name, "none") != ending(name, "high")


def test_efforts_in_a_templates_own_words() -> None:
    assert "Reasoning: low" in ending("openai-gpt-oss-120b", "minimal")
    assert "Reasoning: low" in ending("openai-gpt-oss-120b", "none")
    assert "Reasoning: high" in ending("openai-gpt-oss-120b", "xhigh")
    assert "Reasoning: medium" in ending("openai-gpt-oss-120b", None)
    assert "reasoning_effort:no_think" in ending("tencent-Hy3", "none")
    assert "reasoning_effort:high" in ending("tencent-Hy3", "medium")
    assert ending("Qwen-Qwen3-0.6B", "none").endswith("<think>\n\n</think>\n\n")
    assert model("Kimi-K3").template.caps.efforts["xhigh"] == "max"


def test_a_templates_own_switches_can_be_set() -> None:
    asked = ChatRequest(model="m", messages=(HELLO,), reasoning_effort="high")
    kwargs = (("enable_thinking", False), ("add_generation_prompt", False))
    prompt = model("Qwen-Qwen3-0.6B").prompt(msgspec.structs.replace(asked, chat_template_kwargs=kwargs))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


# --- in words, where a template has none ---------------------------------------------------------------------------


def test_calls_and_results_in_words_for_a_template_without_tools() -> None:
    prompt = model("google-gemma-2-2b-it").prompt(request("call answered"))
    assert '<tool_call>\n{"name": "function_name", "arguments": {"argument_name": "value"}}\n</tool_call>' in prompt
    assert '<start_of_turn>model\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Basel1"}}' in prompt
    assert "<start_of_turn>user\n<tool_response>\nSunny1\n</tool_response><end_of_turn>" in prompt
    assert "<tool_call>" in model("google-gemma-2-2b-it").template.dialect


def test_tools_are_described_with_the_templates_own_form_of_a_call() -> None:
    prompt = model("deepseek-ai-DeepSeek-V3.1").prompt(request("tools"))
    bar, gap = "\uff5c", "\u2581"
    call = 'call#begin|>function_name<|tool#sep|>{"argument_name": "value"}<|tool#call#end|><|tool#calls#end|>\n'
    assert f"<|tool#calls#begin|><|tool#{call}".replace("|", bar).replace("#", gap) in prompt
    assert prompt.index("Lookoutside") < prompt.index("Hellothere")


def test_calls_in_the_models_own_form_where_only_its_template_lacks_them() -> None:
    assert "<|tool_call_start|>[get_weather(city='Basel1')]<|tool_call_end|>" in model("LFM2-8B-A1B").prompt(
        request("call")
    )
    assert '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Basel1"}}]' in model(
        "ibm-granite-granite-3.3-2B-Instruct"
    ).prompt(request("call"))


@pytest.mark.parametrize("name", ["fireworks-ai-llama-3-firefunction-v2", "google-gemma-2-2b-it", "Qwen-Qwen3-0.6B"])
def test_a_deep_schema_stays_as_large_as_it_is(name: str) -> None:
    schema = b'{"a":' + b"[" * 60 + b",".join([b"[]"] * 50_000) + b"]" * 60 + b"}"
    tool = ToolFunction(name="deep", parameters=msgspec.Raw(schema))
    asked = ChatRequest(model="m", messages=(HELLO,), tools=(tool,))
    assert len(model(name).template.variables(asked, ASKED_MS, with_tools=True)) < 3 * len(schema)


def test_mistrals_ids_have_nine_characters_and_still_belong_together() -> None:
    prompt = model("Mistral-Small-3.2-24B-Instruct-2506").prompt(request("calls side by side"))
    ids = [part[:9] for part in prompt.split("[CALL_ID]")[1:]]
    assert len(set(ids)) == 2
    assert [part[:9] for part in prompt.split("[TOOL_RESULTS]")[1:]] == ids


def test_calls_side_by_side_follow_one_another_where_only_one_fits_a_turn() -> None:
    prompt = model("meta-llama-Llama-3.1-8B-Instruct").prompt(request("results in another order"))
    places = [prompt.index(word) for word in ("Basel2", "Sunny2", "Basel1", "Sunny1", "Goodday")]
    assert places == sorted(places)
