"""Chat templates: what they are given, what they may do with it, and that they cannot reach what is underneath."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api.request import ChatMessage, ChatRequest, FunctionCall, ToolCall, ToolFunction
from mcd.engine import jinja_sandbox, shaping
from mcd.engine.chat import Template
from mcd.engine.controls import NO_FENCE
from mcd.engine.jinja_sandbox import CompiledTemplate, PromptTooLongError, TemplateRefusalError
from mcd.engine.shaping import Caps
from mcd.errors import InvalidRequestError
from mcd.wire.payload import MAX_ASKED_MS
from tests.fakes import gguf_make

ASKED_MS = 1_767_225_599_999
"""A millisecond before the year 2026 in UTC."""
ASK = ChatRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))


def render(source: str, **variables: object) -> str:
    return CompiledTemplate(source).render({"messages": [{"role": "user", "content": "hello"}], **variables}).decode()


def prompt(source: str, request: ChatRequest = ASK, *, with_tools: bool = False) -> str:
    compiled = CompiledTemplate(source)

    def run(variables: bytes) -> str:
        try:
            return compiled.render(json.loads(variables)).decode()
        except TemplateRefusalError as error:
            raise InvalidRequestError(str(error)) from None

    return run(Template(source, "<s>", "</s>", run).variables(request, ASKED_MS, with_tools=with_tools))


def test_conversation_in_the_models_own_words() -> None:
    request = ChatRequest(
        model="m",
        messages=(ChatMessage(role="developer", content="Be kind."), ChatMessage(role="user", content="Hi")),
    )
    assert prompt(gguf_make.TEMPLATE, request) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_calls_arrive_as_objects() -> None:
    called = ChatMessage(
        role="assistant",
        tool_calls=(ToolCall(id="c1", function=FunctionCall(name="add", arguments='{"a": "é"}')),),
    )
    request = ChatRequest(model="m", messages=(called,), tools=(ToolFunction(name="add"),))
    source = (
        "{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}{{ bos_token }}"
    )
    assert prompt(source, request, with_tools=True) == (
        '{"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}{"a": "é"}<s>'
    )


@pytest.mark.parametrize(
    "arguments", ['{"a": "\\ud83d"}', '{"\\ud800": 1}', '{"a": NaN}', "[1]", "{" * 5000, '{"a":' + "[" * 900]
)
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments: str) -> None:
    """A model that was cut off in the middle of a character once ended each provider's try as a fault of ours."""
    call = ToolCall(id="c", function=FunctionCall(name="f", arguments=arguments))
    asked = ChatRequest(
        model="m", messages=(ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", tool_calls=(call,)))
    )
    shaped = shaping.variables(asked, Caps(), NO_FENCE, with_tools=False, asked_ms=ASKED_MS)
    given = json.loads(msgspec.json.encode(shaped))
    assert given["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments


def test_content_as_a_list_of_parts_for_a_template_that_takes_nothing_else() -> None:
    source = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    assert prompt(source) == "hello"


def test_a_template_that_shows_no_message_is_none() -> None:
    with pytest.raises(InvalidRequestError, match="does not show the messages"):
        prompt("always the same")
    with pytest.raises(InvalidRequestError, match="not today"):
        prompt("{{ raise_exception('not today') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 3000000000 }}",
        "{{ ['a'] * 3000000000 }}",
        "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 9 ** 99999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.center(3000000000) }}",
        "{{ 'a'.ljust(3000000000) }}",
        "{{ '{:3000000000}'.format('a') }}",
        "{{ '{:{}}'.format('a', 3000000000) }}",
        "{{ 'a' | indent(3000000000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}{{ self._TemplateReference__context.environment.x }}",
        "{{ (messages | map('attr', '__class__') | list)[0].mro() }}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_hostile_expression_ends_in_a_refusal(source: str) -> None:
    with pytest.raises(TemplateRefusalError) as caught:
        render(source)
    assert "hello" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{{ ''.format.__globals__ }}", "{{ messages.__class__ }}", "{{ '{0.__class__}'.format('a') }}"]
)
def test_python_underneath_is_out_of_reach(source: str) -> None:
    assert render(source) == ""


def test_a_prompt_longer_than_any_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_PROMPT_BYTES", 1000)
    assert render("{{ 'é' * 500 }}") == "é" * 500
    with pytest.raises(PromptTooLongError):
        render("{{ 'é' * 501 }}")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a\nb\n\nc' | indent(2) }}", "a\n  b\n\n  c"),
        ("{{ 'a\nb' | indent(2, true) }}", "  a\n  b"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ {'a': ['é']} | tojson(ensure_ascii=True) }}", '{"a": ["\\u00e9"]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'a': 1} | tojson(indent=9999999) | length }}", str(len('{\n"a": 1\n}') + 64)),
        ("{{ {'a': 1, 'b': 2} | tojson(separators=(',', ':')) }}", '{"a":1,"b":2}'),
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{% set l = [] %}{% set _ = l.append(1) %}{{ l.pop(0) }}", "1"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hello"),
        ("{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}", "1"),
        ("{{ ' ab '.strip().title().replace('A', 'x').split('x')[1].startswith('b') }}", "True"),
        ("{{ '<{}:{:>4}>'.format('a', 1) }}", "<a:   1>"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ messages[0]['content'][::-1] }}{{ messages[-1].get('role') }}", "ollehuser"),
        ("{{ {'a': 1}.items() | list }}", "[('a', 1)]"),
    ],
)
def test_what_templates_rely_on(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.spec("ENV-48")
def test_today_is_the_day_that_was_asked_wherever_the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        dates = "{% macro today() %}{{ strftime_now('%d %b %Y %H:%M:%S') }}{% endmacro %}"
        source = dates + "{{ messages[0].content }} {{ today() }}, {{ date_string }}, {{ datetime }}"
        assert prompt(source) == "hello 31 Dec 2025 23:59:59, 31 Dec 2025, Dec 31 2025"
        own = msgspec.structs.replace(ASK, chat_template_kwargs=(("asked_ms", 0), ("strftime_now", "x")))
        assert prompt(source, own) == prompt(source)
        assert render("{{ strftime_now('%Y') }}", asked_ms=MAX_ASKED_MS) == "9999"
        assert render("{{ strftime_now('%s %-s %10s %Es %%s') }}", asked_ms=1_700_000_000_999) == (
            "1700000000 1700000000 1700000000 1700000000 %s"
        ), "libc counts it from midnight of its own time zone"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.spec("ENV-48")
def test_no_template_may_draw_lots() -> None:
    with pytest.raises(TemplateRefusalError, match="line 1: No filter named 'random'"):
        CompiledTemplate("{{ ['be brief', 'be kind'] | random }}")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages.append }}", "<built-in method append of list object at 0x0>"),
        ("{{ '[' ~ [messages.append] ~ ']' }}", "[[<built-in method append of list object at 0x0>]]"),
        ("{{ messages | map('upper') }}", "<generator object sync_do_map at 0x0>"),
        ("{{ 'at 0x12 and at 0x12ab> ' ~ messages[0].content }}", "at 0x12 and at 0x12ab> seen at 0x7f00 today"),
        ("{{ (messages[0].keys() - {'role': 1}.keys()) | list }}", "['content', 'b', 'c', 'd', 'e']"),
        ("{{ ({'a': 1, 'b': 2, 'c': 3}.items() - [('b', 2)]) | list }}", "[('a', 1), ('c', 3)]"),
        ("{{ 3 - 1 }}", "2"),
    ],
)
@pytest.mark.spec("ENV-48")
def test_a_template_writes_the_same_in_every_process(source: str, text: str) -> None:
    """``spec.items`` is a method, though a member was meant; its address made another prompt of it at each provider."""
    message = {"role": "user", "content": "seen at 0x7f00 today", "b": 1, "c": 1, "d": 1, "e": 1}
    assert render(source, messages=[message]) == text


@pytest.mark.parametrize("source", ["{% for %}", "{{", "{% generation %}", "{{" + "(" * 5000 + ")" * 5000 + "}}"])
def test_what_is_no_template_does_not_compile(source: str) -> None:
    with pytest.raises(TemplateRefusalError):
        CompiledTemplate(source)


PIECES = st.sampled_from(
    [
        *(
            "{{ ",
            " }}",
            "{% ",
            " %}",
            "{#",
            "#}",
            "(",
            ")",
            "[",
            "]",
            "'",
            "|",
            "=",
            "-",
            "~",
            "+",
            "*",
            "1",
            "[0]",
            "x",
        ),
        *(
            "for ",
            "in ",
            "endfor",
            "if ",
            "endif",
            "set ",
            "macro ",
            "call ",
            "filter ",
            "generation ",
            "endgeneration",
        ),
        *("messages", ".content", "loop", "range", "namespace", "tojson", "join", "batch", "map", "select", "attr"),
        *("format", "\u00e9", "\0", " ", "\n"),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_any_text_is_a_template_or_refused(pieces: list[str]) -> None:
    try:
        render("".join(pieces))
    except (TemplateRefusalError, PromptTooLongError):
        return
