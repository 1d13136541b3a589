"""The adapter backend against a server on loopback: streaming, faults of every kind, cancel, back-pressure."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trio

from mcd.api.request import ResponseFormat, ToolFunction
from mcd.api.tasks import EmbeddingsRequest, RerankRequest
from mcd.engine.catalogue import EngineSpec
from mcd.engine.messages import EngineOptions
from mcd.errors import EngineError, RefusedError
from mcd.ports import EngineChunk
from mcd.wire.messages import RefuseReason
from tests.fakes.engine_entry import chat, running

TWO = EngineOptions(n_threads=1, n_slots=2)


class Upstream(ThreadingHTTPServer):
    """A tiny OpenAI-compatible server that does what the user's message says."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.n_sent = 0
        self.embeds = "no"
        self.chats = True
        self.broken_at = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "other"}, {"id": "Org/Model", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/embeddings"):
            self.embed(body)
            return
        self.server.bodies.append(body)
        what = body["messages"][-1]["content"] if self.server.chats else "bad"
        if what == "bad":
            self.reply(400, {"error": {"message": "temperature is too hot", "param": "temperature"}})
        elif what == "busy":
            self.reply(429, {"error": {"message": "later"}})
        elif what == "broken":
            self.reply(500, {"error": {"message": "oh no"}})
        else:
            self.stream(what)

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def embed(self, body: dict[str, Any]) -> None:
        texts = body["input"]
        if self.server.embeds == "no" or "bad" in texts:
            self.reply(404 if self.server.embeds == "no" else 400, {"error": {"message": "no such thing"}})
            return
        vectors: list[list[float]] = [[float(len(text)), 3.0, 0.5][: body.get("dimensions", 3)] for text in texts]
        shown: list[Any] = list(vectors)
        if self.server.embeds == "base64":
            shown = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
        data = [{"index": index, "embedding": value} for index, value in enumerate(shown)]
        if "short" in texts:
            data.pop()
        self.reply(200, {"data": data[::-1], "usage": {"prompt_tokens": 7 * len(texts)}})

    def stream(self, what: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if what == "garbage":
            self.wfile.write(b"data: {]\n\n")
            return
        if what == "tools":
            self.chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]})
            self.chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, "tool_calls")
        elif what == "endless":
            self.endless()
            return
        else:
            self.chunk({"role": "assistant", "content": ""})
            self.chunk({"reasoning_content": "hm"})
            for word in ("Grüße", " und", " 世界"):
                self.chunk({"content": word})
            if what == "cut":
                return
            self.chunk({}, "stop")
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
        self.wfile.write(b": comment\n\ndata: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> None:
        value = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        self.wfile.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")
        self.server.n_sent += 1

    def endless(self) -> None:
        try:
            while True:
                self.chunk({"content": "é" * 50_000})
                time.sleep(0.001)
        except OSError:
            self.server.broken_at.set()


@pytest.fixture
def server() -> Iterator[Upstream]:
    upstream = Upstream()
    thread = threading.Thread(target=upstream.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield upstream
    upstream.shutdown()
    thread.join()
    upstream.server_close()


def spec(server: Upstream, model: str = "Org/Model") -> EngineSpec:
    return EngineSpec(alias="m", backend="openai", source=f"{server.url}#{model}", digest=bytes(32))


async def test_answers_stream_through(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        status = side.engine.status()
        assert (status.sealing, status.n_ctx, status.n_slots) == (1, 4096, 2)
        answer = await side.ask(chat("hello", temperature=0.5, stop=("END",), max_tokens=9, seed=4))
        assert answer.text == "Grüße und 世界"
        assert "".join(delta.reasoning for delta in answer.deltas) == "hm"
        assert answer.final is not None
        assert answer.final.finish_reasons == ("stop",)
        assert answer.final.usage.n_prompt_tokens == 11
        assert answer.final.usage.n_output_tokens == answer.n_clear_tokens == 4
        body = server.bodies[-1]
        assert (body["model"], body["temperature"], body["stop"]) == ("Org/Model", 0.5, ["END"])
        assert (body["max_tokens"], body["seed"], body["stream"]) == (9, 4, True)


async def test_tools_and_formats_are_translated(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        answer = await side.ask(
            chat(
                "tools",
                tools=(ToolFunction(name="f"),),
                tool_choice="function:f",
                response_format=ResponseFormat("json_object"),
            )
        )
        assert answer.final is not None
        assert answer.final.finish_reasons == ("tool_calls",)
        calls = [call for delta in answer.deltas for call in delta.tool_calls]
        assert (calls[0].id, calls[0].name) == ("c1", "f")
        assert "".join(call.arguments for call in calls) == "{}"
        body = server.bodies[-1]
        assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
        assert body["response_format"] == {"type": "json_object"}


async def test_every_fault_has_its_side(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        refused = await side.ask(chat("bad"))
        assert refused.failure is not None
        assert refused.failure.message == "temperature is too hot"
        with pytest.raises(RefusedError) as busy:
            await side.ask(chat("busy"))
        assert busy.value.reason == RefuseReason.BUSY
        for text in ("broken", "garbage", "cut"):
            with pytest.raises(EngineError):
                await side.ask(chat(text))
        with pytest.raises(EngineError):
            await side.ask(chat("hello"), resume=(0, 1))
        assert (await side.ask(chat("hello"))).text == "Grüße und 世界"
        assert side.engine.status().restarts == 0


async def test_leaving_stops_the_server(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        request, _ = side.seal(chat("endless"))
        async with side.engine.submit(request) as events:
            async for event in events:
                if isinstance(event, EngineChunk):
                    break
        with trio.fail_after(10):
            while not server.broken_at.is_set():  # noqa: ASYNC110 - another thread's event
                await trio.sleep(0.02)


@pytest.mark.spec("ENV-38")
async def test_a_cancelled_answer_is_counted_and_the_server_stops(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        assert (await side.ask_and_cancel(chat("endless"), 3)).tokens
        with trio.fail_after(10):
            while not server.broken_at.is_set():  # noqa: ASYNC110 - another thread's event
                await trio.sleep(0.02)


async def test_unread_answer_holds_the_server_back(server: Upstream) -> None:
    async with running(spec(server), TWO) as side:
        request, _ = side.seal(chat("endless"))
        async with side.engine.submit(request) as events:
            await anext(events)
            with trio.fail_after(60):
                before = -1
                while server.n_sent != before:
                    before = server.n_sent
                    await trio.sleep(1.0)
            # far less than it would have sent in that time: our queues and the kernel's hold some megabytes
            assert server.n_sent < 500
            assert (await side.ask(chat("hello"))).text == "Grüße und 世界"


async def test_unknown_model_and_absent_server(server: Upstream) -> None:
    async with running(spec(server, "nobody"), TWO, state="failed") as side:
        assert "does not list this model" in side.engine.status().detail
    gone = EngineSpec(alias="m", backend="openai", source="http://127.0.0.1:9/v1#m", digest=bytes(32))
    async with running(gone, TWO, state="restarting") as side:
        with trio.fail_after(20):
            while side.engine.status().restarts == 0:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)
        assert "does not answer" in side.engine.status().detail


@pytest.mark.spec("ENV-35", "ENV-36")
@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_are_forwarded_where_the_server_has_them(server: Upstream, form: str) -> None:
    server.embeds = form
    async with running(spec(server), TWO) as side:
        assert side.engine.status().capabilities == ("chat", "tools", "json-schema", "embeddings")
        answer = await side.ask(EmbeddingsRequest(model="m", inputs=("four", "a", "four")))
        cut = await side.ask(EmbeddingsRequest(model="m", inputs=("four",), dimensions=2))
        refused = await side.ask(EmbeddingsRequest(model="m", inputs=("bad",)))
        with pytest.raises(EngineError):
            await side.ask(EmbeddingsRequest(model="m", inputs=("a", "short")))
        pairs = await side.ask(RerankRequest(model="m", query="q", documents=("d",)))
    found = [struct.unpack("<3f", vector) for vector in answer.vectors]
    assert found[0] == found[2] == pytest.approx((4 / 25.25**0.5, 3 / 25.25**0.5, 0.5 / 25.25**0.5))
    assert found[1] != found[0]
    assert answer.final is not None
    assert answer.final.usage.n_prompt_tokens == 21
    assert struct.unpack("<2f", cut.vectors[0]) == pytest.approx((0.8, 0.6))
    assert refused.failure is not None
    assert refused.failure.message == "no such thing"
    assert pairs.failure is not None
    assert pairs.failure.param == "kind"


async def test_a_model_that_only_embeds_is_announced_so(server: Upstream) -> None:
    server.embeds, server.chats = "base64", False
    async with running(spec(server), TWO) as side:
        assert side.engine.status().capabilities == ("embeddings",)
        answer = await side.ask(chat("hello"))
        assert answer.failure is not None
        assert answer.failure.param == "kind"
    server.embeds, server.chats = "no", True
    async with running(spec(server), TWO) as side:
        assert side.engine.status().capabilities == ("chat", "tools", "json-schema")
        answer = await side.ask(EmbeddingsRequest(model="m", inputs=("a",)))
        assert answer.failure is not None
        assert answer.failure.param == "kind"
