"""Foreign chat JSON becomes our request, or an error that names the parameter and no user text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcd.api import chat, strict_json
from mcd.api.request import MAX_MESSAGES, MAX_TOOLS, ChatRequest
from mcd.errors import InvalidRequestError, UnsupportedError, UserError

SECRET = "s3cr3t-canary-text"


def body(**members: Any) -> bytes:
    base: dict[str, Any] = {"model": "modelcloud-nano", "messages": [{"role": "user", "content": SECRET}]}
    return json.dumps(base | members).encode()


def refused(raw: bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        chat.parse(raw)
    assert SECRET not in str(caught.value)
    return caught.value


TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def test_every_common_parameter_arrives() -> None:
    request = chat.parse(
        body(
            messages=[
                {"role": "system", "content": "be brief", "name": "boss"},
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
            max_tokens=1,
            max_completion_tokens=7,
            temperature=0,
            top_p=0.9,
            top_k=40,
            min_p=0.1,
            seed=-5,
            stop="END",
            frequency_penalty=-2,
            repetition_penalty=1.5,
            presence_penalty=2,
            logit_bias={"15": -100, "7": 1.5},
            n=2,
            logprobs=True,
            top_logprobs=3,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            reasoning_effort="low",
            chat_template_kwargs={"enable_thinking": False, "thinking_budget": 512, "unset": None, "mode": "é"},
            stream=True,
            stream_options={"include_usage": True, "include_obfuscation": False},
        )
    )
    assert [m.role for m in request.messages] == ["system", "developer", "user", "assistant", "tool"]
    assert request.messages[1].content == "ab"
    assert request.messages[3].reasoning_content == "hm"
    assert request.messages[3].tool_calls[0].function.name == "get_weather"
    assert (request.max_tokens, request.stop, request.n, request.repeat_penalty) == (7, ("END",), 2, 1.5)
    assert request.logit_bias == (("15", -100.0), ("7", 1.5))
    assert request.tool_choice == "function:get_weather"
    assert bytes(request.tools[0].parameters) == b'{"type": "object"}'
    assert bytes(request.response_format.schema) == b'{"type": "object"}'
    assert request.chat_template_kwargs == (("enable_thinking", False), ("thinking_budget", 512), ("mode", "é"))
    assert request.parallel_tool_calls is False
    assert request.include_usage


def test_nulls_are_absent_and_unknown_members_are_ignored() -> None:
    names = [
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "frequency_penalty",
        "presence_penalty", "logit_bias", "n", "logprobs", "top_logprobs", "tools", "tool_choice",
        "parallel_tool_calls", "response_format", "reasoning_effort", "chat_template_kwargs", "stream",
        "stream_options", "functions", "function_call", "audio", "modalities", "web_search_options",
    ]  # fmt: skip
    request = chat.parse(body(**dict.fromkeys(names), store=True, metadata={"a": "b"}, user="me", verbosity="low"))
    assert request == chat.parse(body())


def test_local_spellings_of_no_limit_are_understood() -> None:
    assert chat.parse(body(max_tokens=-1)).max_tokens is None
    assert chat.parse(body(top_k=-1)).top_k == 0
    assert chat.parse(body(response_format={"type": "json_object", "schema": {}})).response_format.type == "json_schema"


def message(**members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}, members]}


@pytest.mark.spec("GW-12")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}, "messages"),
        (message(role="zzz", content="x"), "messages[1].role"),
        (message(content="x"), "messages[1].role"),
        (message(role=7, content="x"), "messages[1].role"),
        (message(role="function", content="x"), "messages[1].role"),
        (message(role="user"), "messages[1].content"),
        (message(role="user", content={"a": 1}), "messages[1].content"),
        (message(role="user", content=[{"type": "text"}]), "messages[1].content[0].text"),
        (message(role="user", content=[{"text": "x"}]), "messages[1].content[0].type"),
        (message(role="tool", content="x"), "messages[1].tool_call_id"),
        (message(role="user", content="x", name="n" * 257), "messages[1].name"),
        (message(role="assistant", tool_calls=[{"id": "1"}]), "messages[1].tool_calls[0].function"),
        (
            message(role="assistant", tool_calls=[{"id": "1", "function": {"name": "f", "arguments": {}}}]),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": ""}}]),
            "messages[1].tool_calls[0].id",
        ),
        (
            message(role="user", content="x", tool_calls=[{"id": "1", "function": {"name": "f", "arguments": ""}}]),
            "messages[1].tool_calls",
        ),
        ({"temperature": 99}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_completion_tokens": -7}, "max_completion_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": "x" * 1025}, "stop[0]"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repetition_penalty": 2.5}, "repetition_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"logit_bias": {"abc": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"logit_bias": {str(i): 0 for i in range(1025)}}, "logit_bias"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"function": {"name": f"f{i}"}} for i in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "function:f"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
        ),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": "y" * 5000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {f"x{i}": i for i in range(17)}}, "chat_template_kwargs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_is_out_of_range_is_named(members: dict[str, Any], param: str) -> None:
    error = refused(body(**members))
    assert (error.http_status, error.param) == (400, param)
    assert isinstance(error, InvalidRequestError)


@pytest.mark.spec("GW-13")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        (
            message(role="user", content=[{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]),
            "messages[1].content[0]",
        ),
        (message(role="user", content=[{"type": "input_audio"}]), "messages[1].content[0]"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_choice": ["a", "b"]}, "guided_choice"),
        ({"guided_grammar": "x"}, "guided_grammar"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ],
)
def test_what_would_change_the_answer_is_refused_not_ignored(members: dict[str, Any], param: str) -> None:
    error = refused(body(**members))
    assert (error.http_status, error.param, error.code) == (400, param, "unsupported_parameter")
    assert isinstance(error, UnsupportedError)


@pytest.mark.spec("GW-10")
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "ends too early"),
        (b"{", "ends too early"),
        (b"[]", "the JSON body must be an object, not an array"),
        (b"null", "the JSON body must be an object, not null"),
        (b'{"model": 5}', "model must be a string, not an integer"),
        (b'{"temperature": "hot"}', "temperature must be a number, not a string"),
        (b'{"temperature": true}', "temperature must be a number, not true or false"),
        (b'{"max_tokens": 1.5}', "max_tokens must be an integer, not a fraction"),
        (b'{"stream": "yes"}', "stream must be true or false, not a string"),
        (b'{"stop": 5}', "stop must be a string or an array, not an integer"),
        (b'{"model": nope}', "not valid JSON at byte"),
        (b'{"temperature": NaN}', "not valid JSON at byte"),
        (b'{"temperature": 1e999}', "temperature is out of range"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "seed"),
        (b'{"a":1}{"b":2}', "not valid JSON at byte"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "half a character"),
        (b'{"model": "a\\ud83d b"}', "half a character"),
        (b'{"model": "a\\udc00"}', "half a character"),
        (b'{"model": "a\\ud83d\\u0041"}', "half a character"),
        (b'{"model": "\\ud83d\\ude00', "ends too early"),
        (b'"' + b'\\"' * 100_000, "not valid JSON"),
        (b":" * 1000, "not valid JSON"),
        (b"}" * 1000, "not valid JSON"),
    ],
)
def test_malformed_json_is_400(raw: bytes, words: str) -> None:
    error = refused(raw)
    assert error.http_status == 400
    assert words in error.message


@pytest.mark.spec("GW-11")
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 64"),
        (b'{"x":' + b'{"y":' * 70 + b"1" + b"}" * 71, "nested more than 64"),
        (b'{"x":[' + b"{}," * 400_000 + b"{}]}", "more than 400000 values"),
        (b'{"x":[' + b"1," * 500_000 + b"1]}", "more than 400000 values"),
        (b"," * 1_000_000, "more than 400000 values"),
        (b'{"x":"' + b"a" * strict_json.MAX_JSON_BYTES + b'"}', "at most 8388608"),
    ],
)
def test_bombs_are_refused_by_a_named_limit(raw: bytes, words: str) -> None:
    error = refused(raw)
    assert words in error.message


@pytest.mark.spec("GW-11")
@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model":"a","model":"b","messages":[]}', "model"),
        (b'{"model":"a","m\\u006fdel":"b"}', "model"),
        (b'{"a":{"b":1,"c":{"b":2},"b":3}}', None),
        (b'{"messages":[{"role":"user","role":"system"}]}', None),
    ],
)
def test_the_same_name_twice_is_refused(raw: bytes, param: str | None) -> None:
    error = refused(raw)
    assert "twice" in error.message
    assert error.param == param


def test_equal_names_in_different_objects_and_in_strings_are_fine() -> None:
    content = '{"role":"x","role":"y"} [[[[ }}}} \\" : : '
    assert chat.parse(body(messages=[{"role": "user", "content": content}] * 2)).messages[1].content == content


@pytest.mark.spec("GW-14")
def test_canonical_json_survives_the_seal() -> None:
    request = chat.parse(
        body(
            tools=[TOOL],
            tool_choice="required",
            logit_bias={"1": 2},
            response_format={"type": "json_schema", "json_schema": {"schema": {"enum": ["ü", 1]}}},
            temperature=0.5,
        )
    )
    wire = chat.encode_canonical(request)
    again = chat.decode_canonical(wire)
    assert chat.encode_canonical(again) == wire
    assert (again.model, again.tool_choice, again.logit_bias) == ("modelcloud-nano", "required", (("1", 2.0),))
    assert bytes(again.tools[0].parameters) == bytes(request.tools[0].parameters)
    assert (
        not {"temperature", "max_tokens", "seed", "tools"}
        & json.loads(chat.encode_canonical(chat.parse(body()))).keys()
    )


@pytest.mark.spec("GW-14")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":[{"role":"zzz","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":3}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":1,"n":2}',
        b'{"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":[["1",1e9]]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"name":"f","parameters":7}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"name":"f","parameters":null}]}',
    ],
)
def test_the_engine_checks_a_strangers_request_again(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        chat.decode_canonical(raw)


def test_a_request_never_shows_its_text() -> None:
    request = chat.parse(body())
    assert isinstance(request, ChatRequest)
    assert SECRET not in repr(request)
    assert SECRET not in repr(request.messages)
