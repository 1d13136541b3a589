"""Chat templates: what they are given, and that a hostile one can neither reach out nor run on."""

from __future__ import annotations

import resource
import time

import pytest

from mcd.api.request import ChatMessage, ChatRequest, FunctionCall, ToolCall, ToolFunction
from mcd.engine import chat
from mcd.engine.chat import Template
from mcd.errors import InvalidRequestError
from tests.fakes import gguf_make

ASK = ChatRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))


def render(source: str, request: ChatRequest = ASK, *, with_tools: bool = False) -> str:
    return Template(source, "<s>", "</s>").render(request, with_tools=with_tools)


def test_conversation_in_the_models_own_words() -> None:
    request = ChatRequest(
        model="m",
        messages=(ChatMessage(role="developer", content="Be kind."), ChatMessage(role="user", content="Hi")),
    )
    assert render(gguf_make.TEMPLATE, request) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_calls_arrive_as_objects() -> None:
    called = ChatMessage(
        role="assistant",
        tool_calls=(ToolCall(id="c1", function=FunctionCall(name="add", arguments='{"a": "é"}')),),
    )
    request = ChatRequest(model="m", messages=(called,), tools=(ToolFunction(name="add"),))
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }} {{ tools[0].function.name }}{{ bos_token }}"
    assert render(source, request, with_tools=True) == '{"a": "é"} add<s>'


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 3000000000 }}",
        "{{ ['a'] * 3000000000 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=['ab']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
        "{{ 9 ** 99999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.center(3000000000) }}",
        "{{ 'a'.ljust(3000000000) }}",
        "{{ 'a' | indent(3000000000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    ],
)
def test_hostile_template_ends_in_a_refusal(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "RENDER_TIMEOUT_S", 0.3)
    before = resource.getrlimit(resource.RLIMIT_AS)
    began = time.monotonic()
    with pytest.raises(InvalidRequestError, match="chat template") as caught:
        render(source)
    assert time.monotonic() - began < 10
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert "hello" not in caught.value.message


@pytest.mark.parametrize("source", ["{{ ''.format.__globals__ }}", "{{ messages.__class__ }}"])
def test_python_underneath_is_out_of_reach(source: str) -> None:
    assert render(source) == ""


def test_indent_does_what_jinjas_does() -> None:
    assert render("{{ 'a\nb' | indent(2) }}") == "a\n  b"
    assert render("{{ 'a\nb' | indent(2, true) }}") == "  a\n  b"


@pytest.mark.parametrize("source", ["{% for %}", "{{", "x" * (chat.MAX_TEMPLATE_CHARS + 1)])
def test_what_is_no_template_does_not_compile(source: str) -> None:
    with pytest.raises(ValueError, match="chat template"):
        Template(source, "", "")
