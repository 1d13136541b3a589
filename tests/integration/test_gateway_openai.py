"""The official openai client against a real gateway: what it reads, raises and cancels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from mcd.errors import (
    ContextLengthError,
    McdError,
    NoProviderError,
    PeerTimeoutError,
    RefusedError,
    StreamBrokenError,
)
from mcd.gateway.bridge import MAX_QUEUED_EVENTS
from mcd.wire.payload import Delta, TokenLogprob, TopLogprob
from tests.fakes.entry import DIGEST, MODEL, PEER, ScriptedEntry, answering, final, script, tool_script
from tests.fakes.gateway import Running, serve, until

CANARY = "canary-9b1f"
MESSAGES: Any = [{"role": "user", "content": CANARY}]

Body = Callable[[openai.AsyncOpenAI, Running], Awaitable[None]]


def with_client(entry: ScriptedEntry, body: Body, max_retries: int = 0) -> None:
    async def run(running: Running) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=max_retries, timeout=20
        ) as client:
            await body(client, running)
        assert CANARY not in running.log.getvalue()

    serve(entry, run)


@pytest.mark.spec("GW-31")
def test_a_whole_completion() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, temperature=0)
        assert raw.headers["x-mcd-peer"] == PEER
        assert raw.headers["x-mcd-model"] == MODEL
        assert raw.headers["x-request-id"].startswith("req_")
        answer = raw.parse()
        assert answer.choices[0].message.content == "Hello!"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.object == "chat.completion"
        assert answer.system_fingerprint == f"fp_{DIGEST[:6].hex()}"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 2, 7)
        assert answer.usage.prompt_tokens_details.cached_tokens == 2
        assert answer.usage.completion_tokens_details.reasoning_tokens == 1
        assert running.entry.requests[0].temperature == 0

    with_client(ScriptedEntry(), body)


@pytest.mark.spec("GW-30")
def test_a_streamed_completion() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[0].choices[0].delta.content == ""
        assert [c.choices[0].delta.content for c in chunks[1:-2]] == ["Grüße ", "🌍", "\n\ndata: [DONE]\n\n"]
        assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, None, None, "stop"]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 3
        assert all(c.usage is None for c in chunks[:-1])

    with_client(ScriptedEntry(script("Grüße ", "🌍", "\n\ndata: [DONE]\n\n")), body)


def test_the_clients_own_accumulator_agrees_on_tool_calls() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        async with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
            streamed = await stream.get_final_completion()
        whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        for answer in (streamed, whole):
            choice = answer.choices[0]
            assert choice.finish_reason == "tool_calls"
            calls = [(c.id, c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
            assert calls == [
                ("call_a", "function", "get_weather", '{"city":"Bern"}'),
                ("call_b", "function", "now", "{}"),
            ]
            assert not choice.message.content

    with_client(ScriptedEntry(tool_script()), body)


def test_reasoning_logprobs_and_several_choices() -> None:
    token = TokenLogprob(b"\xf0\x9f", float("-inf"), (TopLogprob(b"a", -0.5),))
    steps = [
        answering(),
        Delta(0, "", (1,), reasoning="hmm"),
        Delta(1, "one", (2,), logprobs=(token,)),
        Delta(0, "zero", (3,), logprobs=(token,)),
        final(3, ("stop", "length")),
    ]

    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, n=2, logprobs=True, top_logprobs=1
        )
        first, second = answer.choices
        assert first.message.model_extra["reasoning_content"] == first.message.model_extra["reasoning"] == "hmm"
        assert (first.message.content, second.message.content) == ("zero", "one")
        assert (first.finish_reason, second.finish_reason) == ("stop", "length")
        assert first.logprobs.content[0].logprob == -9999.0
        assert first.logprobs.content[0].bytes == [0xF0, 0x9F]
        assert first.logprobs.content[0].top_logprobs[0].token == "a"
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, n=2, logprobs=True, top_logprobs=1, stream=True
        )
        text = {0: "", 1: ""}
        async for chunk in stream:
            text[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert text == {0: "zero", 1: "one"}

    with_client(ScriptedEntry(steps), body)


@pytest.mark.spec("GW-39")
def test_the_older_completions() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        answer = await client.completions.create(model=MODEL, prompt=CANARY, max_tokens=5)
        assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
            "text_completion",
            "Hello!",
            "stop",
        )
        assert answer.usage is not None
        assert answer.usage.total_tokens == 7
        stream = await client.completions.create(model=MODEL, prompt=[1, 2], stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello!"
        assert [request.prompt for request in running.entry.requests] == [CANARY, (1, 2)]
        assert [request.max_tokens for request in running.entry.requests] == [5, 16]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(model=MODEL, prompt=["a", "b"])
        assert (caught.value.param, caught.value.code) == ("prompt", "unsupported_parameter")

    with_client(ScriptedEntry(), body)


@pytest.mark.timed
@pytest.mark.spec("GW-32")
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_cancels_the_answer_at_once(is_stream: bool) -> None:
    steps = [answering(), Delta(0, "a", (1,)), 3600.0]

    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        async def ask() -> None:
            answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=is_stream)
            async for _ in answer:
                pass

        task = asyncio.create_task(ask())
        await until(lambda: running.entry.n_played == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = time.monotonic()
        await until(lambda: running.entry.n_cancelled == 1)
        assert time.monotonic() - left < 1.0
        await until(lambda: running.metrics.ended["chat", "cancelled"] == 1)
        assert running.bridge.stats().n_open == 0

    with_client(ScriptedEntry(steps), body)


def test_a_client_that_leaves_before_the_first_token_cancels_too() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        task = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
        await until(lambda: running.entry.n_running == 1)
        task.cancel()
        await until(lambda: running.entry.n_cancelled == 1, 1.0)
        with pytest.raises(asyncio.CancelledError):
            await task

    with_client(ScriptedEntry([3600.0]), body)


@pytest.mark.spec("GW-20", "GW-21", "GW-22", "GW-23")
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (NoProviderError("all busy", retry_after_s=2.2), openai.InternalServerError, "no_peer_available"),
        (RefusedError("busy", reason=1, retry_after_s=0.1), openai.InternalServerError, "provider_refused"),
        (StreamBrokenError("lost"), openai.InternalServerError, "peer_failed"),
        (PeerTimeoutError("slow"), openai.InternalServerError, "peer_timeout"),
        (ContextLengthError("too long"), openai.BadRequestError, "context_length_exceeded"),
        (RuntimeError(CANARY), openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_failure_before_the_first_token_is_a_status(
    error: Exception, kind: type[openai.APIStatusError], code: str, is_stream: bool
) -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=is_stream)
        assert caught.value.code == code
        assert CANARY not in str(caught.value)
        assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
        headers = caught.value.response.headers
        if isinstance(error, NoProviderError):
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("3", "2200")
            assert caught.value.status_code == 503
        if not isinstance(error, NoProviderError | RefusedError):
            assert headers["x-should-retry"] == "false"
        if isinstance(error, McdError):
            assert caught.value.status_code == error.http_status
        assert running.bugs == ([] if isinstance(error, McdError) else ["RuntimeError"])

    with_client(ScriptedEntry([answering(), error]), body)


@pytest.mark.spec("GW-21")
def test_the_client_repeats_only_what_cost_nothing() -> None:
    async def failing(error: McdError, n_expected: int) -> None:
        async def body(client: openai.AsyncOpenAI, running: Running) -> None:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert len(running.entry.requests) == n_expected

        bodies.append((ScriptedEntry([error]), body))

    bodies: list[tuple[ScriptedEntry, Body]] = []
    asyncio.run(failing(NoProviderError("busy", retry_after_s=0.01), 2))
    asyncio.run(failing(StreamBrokenError("lost after work"), 1))
    for entry, body in bodies:
        with_client(entry, body, max_retries=1)


@pytest.mark.spec("GW-33")
def test_a_failure_after_the_first_token_is_an_event() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "a"]
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
        assert caught.value.code == "peer_failed"
        assert running.metrics.ended == {("chat", "peer_failed"): 1}

    with_client(ScriptedEntry([answering(), Delta(0, "a", (1,)), 0.05, StreamBrokenError("the peer died")]), body)


def test_an_answer_without_its_final_statement_is_an_error() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True):
                pass

    with_client(ScriptedEntry([answering(), Delta(0, "a", (1,))]), body)


@pytest.mark.spec("GW-22")
def test_an_unknown_model_is_404_and_never_another_model() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        for is_stream in (False, True):
            with pytest.raises(openai.NotFoundError) as caught:
                await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=is_stream)
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert running.entry.n_played == 0

    with_client(ScriptedEntry(), body)


@pytest.mark.spec("GW-40")
@pytest.mark.spec("GW-42")
def test_models_are_listed_and_found() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        models = [model async for model in client.models.list()]
        assert [(m.id, m.owned_by, m.object) for m in models] == [(MODEL, "modelcloud", "model")]
        assert models[0].model_extra == {
            "context_length": 2048,
            "capabilities": ["chat", "tools"],
            "digest": DIGEST.hex(),
            "n_providers": 2,
            "n_slots": 8,
            "price_prompt": 20_000,
            "price_output": 180_000,
        }
        for name in (MODEL, f"{MODEL}@sha256:{models[0].model_extra['digest']}"):
            assert (await client.models.retrieve(name)).id == name
        for name in ("other", "../../etc/passwd", "org/name:tag"):
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve(name)

    with_client(ScriptedEntry(), body)


def test_parameter_errors_arrive_with_their_name() -> None:
    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        bad: Any = [{"role": "user", "content": "x"}, {"role": "zzz", "content": CANARY}]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=bad)
        assert caught.value.param == "messages[1].role"
        assert running.entry.requests == []

    with_client(ScriptedEntry(), body)


@pytest.mark.spec("GW-35")
def test_a_slow_reader_pauses_the_source() -> None:
    steps = [answering(), *(Delta(0, "x" * 1000, (i,)) for i in range(20_000)), final(20_000)]

    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        iterator = aiter(stream)
        await anext(iterator)
        await asyncio.sleep(0.5)
        played = running.entry.n_played
        assert played < 15_000, "nothing paused the source"
        await asyncio.sleep(0.3)
        assert running.entry.n_played == played
        assert running.bridge.stats().n_queued_events <= MAX_QUEUED_EVENTS
        n_chunks = 1
        async for _ in iterator:
            n_chunks += 1
        assert n_chunks == 1 + 20_000 + 1

    with_client(ScriptedEntry(steps), body)


def test_a_hundred_streams_at_once() -> None:
    texts = [f"t{i} " for i in range(50)]

    async def body(client: openai.AsyncOpenAI, running: Running) -> None:
        async def ask() -> str:
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(ask() for _ in range(100)))
        assert set(answers) == {"".join(texts)}
        assert running.bridge.stats().n_open == 0

    with_client(ScriptedEntry(script(*texts)), body)
