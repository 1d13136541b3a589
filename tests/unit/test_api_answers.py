"""Answer events become OpenAI's chunks and completions; both say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.api.chat import parse
from mcd.api.completion import MAX_ANSWER_CHARS, Assembler
from mcd.api.errors import error_body, error_headers
from mcd.api.events import AnswerEvent, Waiting
from mcd.api.models import Model, ModelList, encode
from mcd.api.request import ChatRequest
from mcd.api.sse import DONE, StreamEncoder
from mcd.errors import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    McdError,
    NoProviderError,
    PeerTimeoutError,
    RefusedError,
    RemoteProtocolError,
)
from mcd.wire.payload import MAX_TOOL_CALLS, Delta, Final, ToolCallDelta, Usage
from tests.fakes.entry import MODEL, PEER, answering, final


def request(**members: Any) -> ChatRequest:
    base: dict[str, Any] = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    return parse(json.dumps(base | members).encode())


def chunks(data: bytes) -> list[dict[str, Any]]:
    """Read an event stream the way a client does."""
    events = [event for event in data.decode().split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events if event != "data: [DONE]"]


def encode_all(wanted: ChatRequest, events: list[AnswerEvent]) -> bytes:
    return StreamEncoder(wanted, "chatcmpl-1", 7).encode(events)


@pytest.mark.spec("GW-30")
def test_the_role_comes_with_the_first_token_and_not_before() -> None:
    encoder = StreamEncoder(request(), "chatcmpl-1", 7)
    assert encoder.encode([Waiting(1.0)]) == b""
    assert encoder.encode([answering()]) == f": peer {PEER}\n\n".encode()
    assert encoder.encode([Delta(0, "", (1,))]) == b""
    first, second = chunks(encoder.encode([Delta(0, "a", (2,))]))
    assert first["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": "", "refusal": None},
        "logprobs": None,
        "finish_reason": None,
    }
    assert second["choices"][0]["delta"] == {"content": "a"}
    assert {key: second[key] for key in ("id", "object", "created", "model")} == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": MODEL,
    }


def test_the_model_named_in_chunks_does_not_change_after_a_failover() -> None:
    other = answering()
    data = encode_all(request(), [other, Delta(0, "a", (1,)), other, Delta(0, "b", (2,)), final(2)])
    assert data.count(b": peer ") == 2
    assert len({(c["id"], c["model"], c["system_fingerprint"]) for c in chunks(data)}) == 1


def test_an_answer_without_text_still_has_a_role_and_a_reason() -> None:
    got = chunks(encode_all(request(n=2), [answering(), final(0, ("length",))]))
    assert [(c["choices"][0]["index"], c["choices"][0]["finish_reason"]) for c in got] == [
        (0, None),
        (0, "length"),
        (1, None),
        (1, "stop"),
    ]


@pytest.mark.parametrize("reason", ["cancelled", "whatever", ""])
def test_a_providers_unknown_reason_is_a_stop(reason: str) -> None:
    assert chunks(encode_all(request(), [final(0, (reason,))]))[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_comes_only_when_asked_for() -> None:
    plain = encode_all(request(), [Delta(0, "a", (1,)), final(1)])
    assert all("usage" not in chunk for chunk in chunks(plain))
    counted = chunks(encode_all(request(stream_options={"include_usage": True}), [Delta(0, "a", (1,)), final(1)]))
    assert [chunk["usage"] for chunk in counted[:-1]] == [None] * 3
    assert counted[-1]["choices"] == []
    assert counted[-1]["usage"]["total_tokens"] == 6


def test_tool_calls_without_ids_get_unique_ones() -> None:
    events: list[AnswerEvent] = [
        Delta(0, "", (1,), tool_calls=(ToolCallDelta(0, "", "f", "{"), ToolCallDelta(1, "", "g", ""))),
        Delta(1, "", (2,), tool_calls=(ToolCallDelta(0, "", "f", "{}"),)),
        Delta(0, "", (3,), tool_calls=(ToolCallDelta(0, "again", "again", "}"),)),
        final(3, ("tool_calls", "tool_calls")),
    ]
    wanted = request(n=2)
    calls = [
        call
        for chunk in chunks(encode_all(wanted, events))
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    ids = [call["id"] for call in calls if "id" in call]
    assert len(set(ids)) == len(ids) == 3
    assert calls[-1] == {"index": 0, "function": {"arguments": "}"}}
    whole = Assembler(wanted, "chatcmpl-1", 7)
    whole.add(events)
    choices = json.loads(whole.body())["choices"]
    assert [c["id"] for choice in choices for c in choice["message"]["tool_calls"]] == ids
    assert choices[0]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert choices[0]["message"]["content"] is None


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
DELTA = st.builds(
    Delta,
    choice=st.integers(0, 1),
    text=TEXT,
    tokens=st.just((1,)),
    reasoning=TEXT,
    tool_calls=st.lists(
        st.builds(ToolCallDelta, st.integers(0, 2), st.just(""), st.sampled_from(["f", "g"]), TEXT), max_size=2
    ).map(tuple),
)


@pytest.mark.spec("GW-31")
@settings(max_examples=150, deadline=None)
@given(st.lists(DELTA, max_size=8), st.lists(st.integers(0, 3), max_size=4))
def test_stream_and_whole_answer_agree(deltas: list[Delta], cuts: list[int]) -> None:
    wanted = request(n=2, stream_options={"include_usage": True})
    events: list[AnswerEvent] = [answering(), *deltas, final(len(deltas), ("stop", "length"))]
    encoder = StreamEncoder(wanted, "chatcmpl-1", 7)
    data, rest = b"", events
    for cut in cuts:
        data += encoder.encode(rest[:cut])
        rest = rest[cut:]
    data += encoder.encode(rest)
    assert data.endswith(DONE)
    seen: dict[int, dict[str, Any]] = {i: {"text": "", "reasoning": "", "calls": {}, "end": None} for i in (0, 1)}
    *parts, last = chunks(data)
    for chunk in parts:
        choice = chunk["choices"][0]
        one = seen[choice["index"]]
        assert one["end"] is None
        one["end"] = choice["finish_reason"]
        one["text"] += choice["delta"].get("content", "")
        one["reasoning"] += choice["delta"].get("reasoning_content", "")
        for call in choice["delta"].get("tool_calls", []):
            known = one["calls"].setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"]["arguments"]
    whole = Assembler(wanted, "chatcmpl-1", 7)
    whole.add(events)
    body = json.loads(whole.body())
    assert body["usage"] == last["usage"]
    for i, choice in enumerate(body["choices"]):
        message = choice["message"]
        assert (message["content"] or "") == seen[i]["text"]
        assert message.get("reasoning_content", "") == seen[i]["reasoning"]
        assert choice["finish_reason"] == seen[i]["end"]
        calls = [
            {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in message.get("tool_calls", [])
        ]
        assert calls == [call for _, call in sorted(seen[i]["calls"].items())]


def test_what_a_hostile_engine_sends_is_bounded() -> None:
    wanted = request()
    foreign = Delta(1, "a", (1,))
    with pytest.raises(RemoteProtocolError):
        encode_all(wanted, [foreign])
    whole = Assembler(wanted, "chatcmpl-1", 7)
    with pytest.raises(RemoteProtocolError):
        whole.add([foreign])
    many = tuple(ToolCallDelta(i % 256, "", "f", "") for i in range(MAX_TOOL_CALLS + 1))
    with pytest.raises(RemoteProtocolError):
        whole.add([Delta(0, "", (1,), tool_calls=many)])
    big = Delta(0, "x" * (MAX_ANSWER_CHARS // 2), (1,))
    whole = Assembler(wanted, "chatcmpl-1", 7)
    whole.add([big, big])
    with pytest.raises(RemoteProtocolError):
        whole.add([Delta(0, "x", (1,))])


def test_an_unfinished_answer_has_no_body() -> None:
    whole = Assembler(request(), "chatcmpl-1", 7)
    whole.add([answering(), Delta(0, "a", (1,))])
    assert whole.usage is None
    with pytest.raises(RemoteProtocolError):
        whole.body()
    whole.add([Final(("stop",), Usage(1, 1), b"")])
    assert whole.usage == Usage(1, 1)


@pytest.mark.spec("GW-20", "GW-21")
@pytest.mark.parametrize(
    ("error", "body", "headers"),
    [
        (
            InvalidRequestError("n must be between 1 and 16", param="n"),
            {"type": "invalid_request_error", "param": "n", "code": None},
            {"x-should-retry": "false"},
        ),
        (
            ContextLengthError("too long"),
            {"type": "invalid_request_error", "param": None, "code": "context_length_exceeded"},
            {"x-should-retry": "false"},
        ),
        (
            NoProviderError("busy", retry_after_s=0.25),
            {"type": "server_error", "param": None, "code": "no_peer_available"},
            {"retry-after": "1", "retry-after-ms": "250"},
        ),
        (
            RefusedError("loading", reason=8),
            {"type": "server_error", "param": None, "code": "provider_refused"},
            {"retry-after": "1", "retry-after-ms": "1000"},
        ),
        (
            PeerTimeoutError("slow"),
            {"type": "server_error", "param": None, "code": "peer_timeout"},
            {"x-should-retry": "false"},
        ),
        (
            EngineDeadError("died"),
            {"type": "server_error", "param": None, "code": "engine_dead"},
            {"x-should-retry": "false"},
        ),
    ],
)
def test_errors_have_openais_shape(error: McdError, body: dict[str, Any], headers: dict[str, str]) -> None:
    assert json.loads(error_body(error)) == {"error": {"message": error.message} | body}
    assert error_headers(error) == headers


@pytest.mark.spec("GW-40")
def test_a_model_has_openais_members_first() -> None:
    model = Model("m", 5, "modelcloud", 2048, ("chat",), "ab", 1, 4, 0, 180_000)
    listed = json.loads(encode(ModelList([model])))
    assert listed["object"] == "list"
    assert listed["data"][0] == json.loads(encode(model))
    assert {"id", "object", "created", "owned_by"} < listed["data"][0].keys()
