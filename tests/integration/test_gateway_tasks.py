"""The endpoints whose answer comes whole, over a real gateway: the official client and plain HTTP."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import aiohttp
import openai
import pytest

from mcd.api.tasks import EmbeddingsRequest, TaskRequest
from mcd.errors import ContextLengthError, StreamBrokenError, UnsupportedError
from mcd.wire.payload import Final, Scores, Text, Tokens, Usage, Vectors
from tests.fakes.entry import MODEL, PEER, ScriptedEntry, Step, answering
from tests.fakes.gateway import Running, serve, until

CANARY = "canary-51ce"
FINAL = Final(("stop",), Usage(7, 0), b"\0" * 32)


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.spec("GW-15", "GW-36", "GW-60")
def test_the_official_client_reads_embeddings() -> None:
    """It asks for base64 by itself and decodes it."""
    parts = [Vectors((vector(0.5, -1.0),)), Vectors((vector(0.25, 0.0),))]
    entry = ScriptedEntry([answering(), *parts, FINAL])

    async def body(running: Running) -> None:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            raw = await client.embeddings.with_raw_response.create(model=MODEL, input=[CANARY, "b"], dimensions=2)
            assert raw.headers["x-mcd-peer"] == PEER
            answer = raw.parse()
            assert [item.embedding for item in answer.data] == [[0.5, -1.0], [0.25, 0.0]]
            assert [item.index for item in answer.data] == [0, 1]
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 7
            floats = await client.embeddings.create(model=MODEL, input="b", encoding_format="float")
            assert floats.data[0].embedding == [0.5, -1.0]
        request = entry.requests[0]
        assert request == EmbeddingsRequest(model=MODEL, inputs=(CANARY, "b"), dimensions=2)
        assert CANARY not in running.log.getvalue()
        assert '"n_prompt_tokens":7' in running.log.getvalue()
        async with aiohttp.ClientSession() as session, session.get(f"{running.url}/metrics") as response:
            text = await response.text()
        assert 'mcd_requests_total{gen_ai_operation_name="embeddings",outcome="ok"} 2' in text

    serve(entry, body)


async def post(running: Running, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.url + path, json={"model": MODEL, **body}) as response,
    ):
        return response.status, await response.json()


def steps(request: TaskRequest) -> Sequence[Step]:
    part = {"RerankRequest": Scores((0.25, 0.75)), "TokenizeRequest": Tokens((4, 5)), "DetokenizeRequest": Text("ab")}
    return [answering(), part[type(request).__name__], FINAL]


@pytest.mark.spec("GW-37", "GW-38")
def test_plain_clients_of_every_endpoint() -> None:
    async def body(running: Running) -> None:
        for prefix in ("/v1", ""):
            ranked = await post(running, f"{prefix}/rerank", {"query": "q", "documents": ["a", "b"]})
            assert [r["index"] for r in ranked[1]["results"]] == [1, 0]
            assert (await post(running, f"{prefix}/tokenize", {"content": "a"}))[1]["tokens"] == [4, 5]
            assert (await post(running, f"{prefix}/detokenize/", {"tokens": [4, 5]}))[1]["content"] == "ab"
            messages = [{"role": "user", "content": "hi"}]
            assert (await post(running, f"{prefix}/tokenize", {"messages": messages}))[1]["count"] == 2

    serve(ScriptedEntry(steps), body)


@pytest.mark.spec("GW-20", "GW-22", "GW-41")
def test_errors_are_openais() -> None:
    faults = {
        "ctx": ContextLengthError("input[1] has 9 tokens", param="input[1]"),
        "kind": UnsupportedError("model x does chat; use a model that does embeddings: y", param="model"),
        "peer": StreamBrokenError("the provider broke off"),
    }

    def play(request: Any) -> Sequence[Step]:
        return [answering(), Vectors((vector(1),)), faults[request.inputs[0]]]

    async def body(running: Running) -> None:
        expected = {"ctx": (400, "context_length_exceeded"), "kind": (400, "unsupported_parameter")}
        expected["peer"] = (502, "peer_failed")
        for name, (status, code) in expected.items():
            got, answer = await post(running, "/v1/embeddings", {"input": name})
            assert (got, answer["error"]["code"]) == (status, code)
            assert answer["error"]["param"] == faults[name].param
        status, answer = await post(running, "/v1/embeddings", {"input": "a", "model": "nobody"})
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
        status, answer = await post(running, "/v1/rerank", {"query": "q", "documents": 7})
        assert (status, answer["error"]["param"]) == (400, "documents")

    serve(ScriptedEntry(play), body)


@pytest.mark.spec("GW-32")
def test_a_client_that_leaves_cancels() -> None:
    entry = ScriptedEntry([answering(), 30.0, FINAL])

    async def body(running: Running) -> None:
        with pytest.raises(TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(0.3)) as session:
                await session.post(f"{running.url}/v1/embeddings", json={"model": MODEL, "input": "a"})
        await until(lambda: entry.n_running == 0)
        assert entry.n_cancelled == 1

    serve(entry, body)
