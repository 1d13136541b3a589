"""The adapter backend: any OpenAI-compatible server computes, this process seals. Token ids are counts.

The envelope opens here, beside that server and not in the process that holds the weights: sealing level 1. Its
token ids are the numbers of the chunks, so an answer can be counted and paid but not resumed elsewhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from mcd.api.request import ChatMessage, ChatRequest
from mcd.api.tasks import EmbeddingsRequest
from mcd.engine import foreign, upstream
from mcd.engine.backend import MAX_WAITING, MAX_WAITING_BYTES, Facts, Job, Piece, StartError, Task, not_done
from mcd.engine.foreign import Embedded
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.parts import MAX_RESULT_BYTES
from mcd.engine.upstream import UpstreamCall
from mcd.errors import InvalidRequestError
from mcd.units import Seconds
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import MAX_CHOICES, ToolCallDelta, Usage, Vectors

DEFAULT_SLOTS = 16
DEFAULT_N_CTX = 8192
"""When the server does not say; too large a prompt is then refused by the server itself."""
BYTES_PER_TOKEN = 4
"""For the estimate of a prompt's tokens until the server counts them."""
MAX_EVENTS_A_STEP = 8
"""Of one call: between steps the worker sees whether its reader still keeps up."""
REFUSED = "the server behind this provider refuses the request"
_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}


class OpenAIBackend:
    """Owner of all calls to one server."""

    sealing = 1

    def __init__(self, source: str, options: EngineOptions) -> None:
        """Ask the server for its models.

        Raises:
            StartError: UPSTREAM, when it is not there or does not have the model.
        """
        self._url, _, self._model = source.partition("#")
        self._n_slots = options.n_slots or DEFAULT_SLOTS
        self._n_ctx = options.n_ctx or self._find_model()
        self._capabilities = self._find_capabilities()
        self._waker_read, self._waker_write = os.pipe()
        os.set_blocking(self._waker_read, False)
        os.set_blocking(self._waker_write, False)
        self._calls: dict[int, _Running | _Embedding] = {}
        self._waiting: deque[Job | Task] = deque()
        self._waiting_bytes = 0

    def facts(self) -> Facts:
        """Speeds are unknown until somebody measures them."""
        return Facts(
            n_ctx=self._n_ctx,
            n_slots=self._n_slots,
            capabilities=self._capabilities,
            prefill_tokens_per_s=0.0,
            output_tokens_per_s=0.0,
            device="upstream server",
        )

    def load(self) -> tuple[int, int]:
        """(running, waiting)."""
        return len(self._calls), len(self._waiting)

    def submit(self, job: Job) -> None:
        """Start a call, or wait for a slot."""
        if job.resume:
            job.sink.broken(FailureCode.UPSTREAM)  # the ids are ours, not the model's: nothing to go on from
            return
        if "chat" not in self._capabilities:
            raise not_done(job.request, self._capabilities)
        self._wait(job)

    def submit_task(self, task: Task) -> None:
        """Embed, where the server does.

        Raises:
            UnsupportedError: It does not.
        """
        if not isinstance(task.request, EmbeddingsRequest) or "embeddings" not in self._capabilities:
            raise not_done(task.request, self._capabilities)
        self._wait(task)

    def _wait(self, asked: Job | Task) -> None:
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + asked.size_bytes > MAX_WAITING_BYTES:
            asked.sink.refused(RefuseReason.BUSY)
            return
        self._waiting.append(asked)
        self._waiting_bytes += asked.size_bytes
        self._admit()

    def step(self, now: Seconds) -> None:
        """Pass on what the threads have read."""
        try:
            while os.read(self._waker_read, 4096):
                pass
        except BlockingIOError:
            pass
        for running in list(self._calls.values()):
            if not running.is_paused and running.pump():
                del self._calls[running.job.id]
        if any(running.has_more and not running.is_paused for running in self._calls.values()):
            self._wake()
        self._admit()

    def wait_s(self, now: Seconds) -> float | None:
        """The waker tells."""
        return None

    def wakers(self) -> Sequence[int]:
        """Readable when a thread has put something."""
        return (self._waker_read,)

    def cancel(self, job_id: int, n_results: int = 0) -> Usage:
        """Close the call's connection."""
        usage = Usage(0, 0)
        running = self._calls.pop(job_id, None)
        if running is not None:
            running.call.stop()
            usage = running.usage()
        for job in [job for job in self._waiting if job.id == job_id]:
            self._waiting.remove(job)
            self._waiting_bytes -= job.size_bytes
        self._admit()
        return usage

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """Leave its chunks unread, or go on."""
        running = self._calls.get(job_id)
        if running is not None:
            running.is_paused = is_paused
            self._wake()

    def close(self) -> None:
        """End every call."""
        for job_id in list(self._calls):
            self.cancel(job_id)

    def _admit(self) -> None:
        while self._waiting and len(self._calls) < self._n_slots:
            asked = self._waiting.popleft()
            self._waiting_bytes -= asked.size_bytes
            if isinstance(asked, Job):
                body = msgspec.json.encode(to_openai(asked.request, self._model, asked.max_output_tokens))
                self._calls[asked.id] = _Running(asked, UpstreamCall(self._url, body, self._wake))
            elif isinstance(asked.request, EmbeddingsRequest):
                self._calls[asked.id] = _Embedding(asked, self._embed(asked.request))

    def _embed(self, request: EmbeddingsRequest) -> UpstreamCall:
        n_inputs, dimensions = len(request.inputs), request.dimensions
        return UpstreamCall(
            self._url,
            foreign.request_body(request, self._model),
            self._wake,
            upstream.EMBEDDINGS_PATH,
            lambda data: foreign.read_answer(data, n_inputs, dimensions),
        )

    def _find_capabilities(self) -> tuple[str, ...]:
        """By trying: no list of models says what they do. A server that embeds with a model may not chat with it."""
        chat = ("chat", "tools", "json-schema")
        word = EmbeddingsRequest(model=self._model, inputs=("a",))
        answer = upstream.tried(self._url, upstream.EMBEDDINGS_PATH, foreign.request_body(word, self._model))
        if answer is None or not foreign.is_answer(answer):
            return chat
        hello = {"model": self._model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        does_chat = upstream.tried(self._url, upstream.CHAT_PATH, msgspec.json.encode(hello)) is not None
        return (*chat, "embeddings") if does_chat else ("embeddings",)

    def _wake(self) -> None:
        try:
            os.write(self._waker_write, b"\0")
        except BlockingIOError:
            return  # full: it will wake anyway

    def _find_model(self) -> int:
        """Its context length, if the server tells."""
        try:
            models = upstream.list_models(self._url)
        except ValueError:
            raise StartError(FailureCode.UPSTREAM) from None
        found = next((item for item in models if item.get("id") == self._model), None)
        if found is None:
            raise StartError(FailureCode.UPSTREAM_MODEL)
        n_ctx = found.get("max_model_len")
        return n_ctx if isinstance(n_ctx, int) and 0 < n_ctx < 1 << 31 else DEFAULT_N_CTX


class _Embedding:
    """One call and its task. Owner: OpenAIBackend."""

    def __init__(self, task: Task, call: UpstreamCall) -> None:
        self.job = task
        self.call = call
        self.is_paused = False

    @property
    def has_more(self) -> bool:
        """The answer is waiting."""
        return self.call.n_ready > 0

    def usage(self) -> Usage:
        """Half a task is owed nothing."""
        return Usage(0, 0)

    def pump(self) -> bool:
        """Pass on the answer once it is there; True then."""
        sink = self.job.sink
        match self.call.take():
            case None:
                return False
            case Embedded() as answer:
                if sum(map(len, answer.vectors)) > MAX_RESULT_BYTES:
                    sink.failed(InvalidRequestError("input holds too many texts for one answer", param="input"))
                    return True
                n_tokens = answer.n_tokens or max(1, self.job.size_bytes // BYTES_PER_TOKEN)
                sink.started(n_tokens)
                for vector in answer.vectors:
                    sink.part(Vectors((vector,)))
                sink.finished(("stop",), Usage(n_tokens, 0))
            case upstream.Rejected(message=message):
                sink.failed(InvalidRequestError(message or REFUSED))
            case upstream.Busy():
                sink.refused(RefuseReason.BUSY)
            case _:
                sink.broken(FailureCode.UPSTREAM)
        return True


class _Running:
    """One call and its job. Owner: OpenAIBackend."""

    def __init__(self, job: Job, call: UpstreamCall) -> None:
        self.job = job
        self.call = call
        self.is_paused = False
        self._n_tokens = 0
        self._n_reasoning = 0
        self._n_prompt = max(1, job.size_bytes // BYTES_PER_TOKEN)
        self._reasons = ["stop"] * job.request.n

    @property
    def has_more(self) -> bool:
        """Events are waiting."""
        return self.call.n_ready > 0

    def pump(self) -> bool:
        """Pass on what has arrived; True when the job is over."""
        for _ in range(MAX_EVENTS_A_STEP):
            event = self.call.take()
            match event:
                case None:
                    return False
                case upstream.Opened():
                    self.job.sink.started(self._n_prompt)
                case upstream.ChunkPart():
                    self._chunk(event)
                case upstream.Ended():
                    self.job.sink.finished(self._reasons, self.usage())
                    return True
                case upstream.Rejected():
                    self.job.sink.failed(InvalidRequestError(event.message or REFUSED))
                    return True
                case upstream.Busy():
                    self.job.sink.refused(RefuseReason.BUSY)
                    return True
                case upstream.Broken():
                    self.job.sink.broken(FailureCode.UPSTREAM)
                    return True
        return False

    def usage(self) -> Usage:
        """What has come so far."""
        return Usage(self._n_prompt, self._n_tokens, 0, self._n_reasoning)

    def _chunk(self, chunk: upstream.ChunkPart) -> None:
        if chunk.usage is not None and chunk.usage.prompt_tokens > 0:
            self._n_prompt = min(chunk.usage.prompt_tokens, 2**31)
        for part in chunk.choices:
            if not 0 <= part.index < min(self.job.request.n, MAX_CHOICES):
                continue
            if part.finish_reason is not None:
                self._reasons[part.index] = _REASONS.get(part.finish_reason, "stop")
            reasoning = part.delta.reasoning_content or part.delta.reasoning or ""
            calls = tuple(_call(call) for call in part.delta.tool_calls or () if 0 <= call.index < 128)
            if not (part.delta.content or reasoning or calls):
                continue
            self.job.sink.piece(Piece(part.index, self._n_tokens, part.delta.content or "", reasoning, calls))
            self._n_tokens += 1
            self._n_reasoning += bool(reasoning)


def _call(call: upstream.Call) -> ToolCallDelta:
    return ToolCallDelta(call.index, call.id or "", call.function.name or "", call.function.arguments or "")


_PENALTIES = (
    ("frequency_penalty", "frequency_penalty", 0.0),
    ("presence_penalty", "presence_penalty", 0.0),
    ("repeat_penalty", "repeat_penalty", 1.0),
    ("repetition_penalty", "repeat_penalty", 1.0),
)
"""As a server calls it, as we do, and what does nothing. The last two are llama.cpp's and vLLM's name of one thing."""


def to_openai(request: ChatRequest, model: str, max_output_tokens: int) -> dict[str, Any]:
    """The request as OpenAI's JSON object, always streamed and with usage."""
    limits = [limit for limit in (request.max_tokens, max_output_tokens // request.n) if limit]
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("temperature", "top_p", "top_k", "min_p", "seed", "reasoning_effort"):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    for name, ours, nothing in _PENALTIES:
        if getattr(request, ours) != nothing:
            body[name] = getattr(request, ours)
    if limits:
        body["max_tokens"] = min(limits)
    if request.stop:
        body["stop"] = list(request.stop)
    if request.n != 1:
        body["n"] = request.n
    if request.logit_bias:
        body["logit_bias"] = dict(request.logit_bias)
    if request.chat_template_kwargs:
        body["chat_template_kwargs"] = dict(request.chat_template_kwargs)
    body.update(_tools(request))
    body.update(_format(request))
    return body


def _message(message: ChatMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        shown["name"] = message.name
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        shown["tool_calls"] = [msgspec.to_builtins(call) for call in message.tool_calls]
    return shown


def _tools(request: ChatRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice: Any = request.tool_choice
    if request.tool_choice.startswith("function:"):
        choice = {"type": "function", "function": {"name": request.tool_choice.removeprefix("function:")}}
    functions = []
    for tool in request.tools:
        function: dict[str, Any] = {"name": tool.name, "description": tool.description}
        if tool.parameters:
            function["parameters"] = tool.parameters
        functions.append({"type": "function", "function": function})
    return {"tools": functions, "tool_choice": choice, "parallel_tool_calls": request.parallel_tool_calls}


def _format(request: ChatRequest) -> dict[str, Any]:
    wanted = request.response_format
    if wanted.type == "text":
        return {}
    if wanted.type == "json_schema" and wanted.schema:
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": wanted.schema},
            }
        }
    return {"response_format": {"type": "json_object"}}
