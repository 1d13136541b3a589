"""OpenAI's older completions: what clients write, and what they get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcd.api import legacy
from mcd.api.events import Answering
from mcd.api.request import CompletionRequest
from mcd.api.tasks import decode_request, encode_request
from mcd.errors import InvalidRequestError, RemoteProtocolError, UnsupportedError, UserError
from mcd.wire.payload import Delta, TokenLogprob, TopLogprob
from tests.fakes.entry import MODEL, answering, final


def parse(**members: Any) -> CompletionRequest:
    return legacy.parse(json.dumps({"model": "m", **members}).encode())


@pytest.mark.spec("GW-17")
@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("Once", "Once"),
        ("", ""),
        (["Once"], "Once"),
        ([5, 6], (5, 6)),
        ([5], (5,)),
        ([[5, 6]], (5, 6)),
    ],
)
def test_a_prompt_as_clients_write_it(given: Any, prompt: Any) -> None:
    assert parse(prompt=given).prompt == prompt


@pytest.mark.spec("GW-17")
def test_what_is_absent_is_as_openai_says() -> None:
    request = parse(prompt="a", max_tokens=None, logprobs=None, echo=False, suffix="", best_of=None, tools=None)
    assert (request.max_tokens, request.n, request.logprobs, request.temperature) == (16, 1, False, None)
    assert parse(prompt="a", max_tokens=-1).max_tokens is None
    some = parse(prompt="a", logprobs=3, n=2, best_of=2, stop="x", seed=7, stream=True, logit_bias={"5": -100})
    assert (some.logprobs, some.top_logprobs, some.n, some.stop, some.seed) == (True, 3, 2, ("x",), 7)
    assert (parse(prompt="a", logprobs=0).logprobs, parse(prompt="a", logprobs=False).logprobs) == (True, False)


@pytest.mark.spec("GW-10", "GW-12")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "stop": list("abcde")}, "stop"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_is_out_of_range_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**members)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


@pytest.mark.spec("GW-13", "GW-17")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "b"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"guided_json": {}}, "guided_json"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{}]}, "tools"),
    ],
)
def test_what_would_change_the_answer_is_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse(**{"prompt": "a", **members})
    assert caught.value.param == param


@pytest.mark.spec("GW-14")
def test_the_canonical_form_survives_the_seal() -> None:
    for prompt in ("Grüße 🌍", [1, 2, 3]):
        request = parse(prompt=prompt, n=2, temperature=0, stop=["x"], stream=True, logprobs=2)
        assert decode_request("completions", encode_request(request)) == request
    with pytest.raises(UserError):
        decode_request("chat", encode_request(request))


TOKENS = (
    TokenLogprob(b"On", -0.5, (TopLogprob(b"On", -0.5), TopLogprob(b"A", -1.0))),
    TokenLogprob(b"ce", float("-inf"), (TopLogprob(b"ly", -0.25),)),
)
EVENTS = [answering(), Delta(0, "On", (1,), logprobs=TOKENS[:1]), Delta(0, "ce", (2,), logprobs=TOKENS[1:]), final(2)]
ROWS = {
    "tokens": ["On", "ce"],
    "token_logprobs": [-0.5, -9999.0],
    "top_logprobs": [{"On": -0.5, "A": -1.0}, {"ce": -9999.0, "ly": -0.25}],
    "text_offset": [0, 2],
}


@pytest.mark.spec("GW-39")
@pytest.mark.parametrize("has_logprobs", [True, False])
def test_a_stream_and_a_whole_answer_hold_the_same(has_logprobs: bool) -> None:
    more = {"logprobs": 2} if has_logprobs else {}
    assembler = legacy.Assembler(parse(prompt="a", **more), "cmpl-1", 7)
    assembler.add(EVENTS)
    whole = json.loads(assembler.body())
    rows = ROWS if has_logprobs else None
    assert whole["choices"] == [{"text": "Once", "index": 0, "logprobs": rows, "finish_reason": "stop"}]
    assert (whole["object"], whole["id"], whole["model"]) == ("text_completion", "cmpl-1", MODEL)
    assert whole["usage"]["total_tokens"] == 7

    encoder = legacy.StreamEncoder(parse(prompt="a", stream=True, **more), "cmpl-1", 7)
    lines = encoder.encode(EVENTS).split(b"\n\n")
    assert lines[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines[1:-2]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "Once"
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    if has_logprobs:
        for name, row in ROWS.items():
            assert [value for choice in choices[:2] for value in choice["logprobs"][name]] == row


def test_a_choice_that_nobody_asked_for_is_the_providers_fault() -> None:
    encoder = legacy.StreamEncoder(parse(prompt="a", stream=True), "cmpl-1", 7)
    with pytest.raises(RemoteProtocolError):
        encoder.encode([Delta(1, "x", (1,))])


def test_usage_comes_last_when_asked_for() -> None:
    request = parse(prompt="a", stream=True, stream_options={"include_usage": True})
    *_, last, done, _ = legacy.StreamEncoder(request, "cmpl-1", 7).encode(EVENTS).split(b"\n\n")
    chunk = json.loads(last.removeprefix(b"data: "))
    assert (chunk["choices"], chunk["usage"]["completion_tokens"], done) == ([], 2, b"data: [DONE]")


def test_the_model_is_the_providers_word() -> None:
    event = answering()
    assert isinstance(event, Answering)
    assembler = legacy.Assembler(parse(prompt="a"), "cmpl-1", 7)
    assembler.add([event, final(0)])
    assert json.loads(assembler.body())["model"] == event.model
