"""POST /v1/chat/completions and /v1/completions: from body to last byte, streamed or whole.   [GW-30] [GW-31]

While nothing has been sent, a failure is an HTTP status. From the first byte on it is an event of the stream.
The first keep-alive therefore waits a second: most failures are known by then.
"""

from __future__ import annotations

import asyncio
import os
import re
import time

from aiohttp import web

from mcd.api import chat, completion, legacy, sse
from mcd.api.events import AnswerEvent, Answering
from mcd.api.request import ChatRequest, CompletionRequest
from mcd.errors import McdError, RemoteProtocolError, SlowClientError
from mcd.gateway.bridge import Answer, Bridge
from mcd.gateway.metrics import Generated, Metrics, operation_of
from mcd.gateway.server import json_response
from mcd.log import Log
from mcd.units import Seconds
from mcd.wire.payload import Delta, Final

FIRST_KEEP_ALIVE_S = 1.0
KEEP_ALIVE_S = 10.0
"""Proxies and clients give up on a silent connection after 15 to 60 s."""
MAX_UNTIMED_BYTES = 16 * 1024
"""What a write to an idle connection may hold without a time limit: asyncio makes nobody wait below 64 KiB."""
WRITE_TIMEOUT_S = 60.0
"""A client that reads nothing for this long holds a provider's slot for nobody."""

_HEADER_VALUE = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


class Completions:
    """Answers requests for generated text. Owner: `mcd.gateway.app`."""

    def __init__(self, bridge: Bridge, metrics: Metrics, log: Log) -> None:
        """Take what every answer needs."""
        self._bridge = bridge
        self._metrics = metrics
        self._log = log

    async def chat(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /v1/chat/completions.

        Raises:
            McdError: It failed before anything was sent.
        """
        return await self._answer(http, chat.parse(body), request_id)

    async def legacy(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /v1/completions; raises as `chat` does."""
        return await self._answer(http, legacy.parse(body), request_id)

    async def _answer(self, http: web.BaseRequest, request: ChatRequest, request_id: str) -> web.StreamResponse:
        operation = operation_of(request)
        meter = _Meter(self._metrics.generated[operation], time.monotonic())
        outcome = "ok"
        try:
            with self._bridge.open(request) as answer:
                if request.stream:
                    return await self._stream(http, request, answer, meter, request_id)
                return await self._whole(request, answer, meter)
        except McdError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, ConnectionError):
            outcome = "cancelled"
            raise
        finally:
            self._metrics.ended[operation, meter.error_code or outcome] += 1
            self._log.info(
                "chat_finished",
                request_id=request_id,
                outcome=meter.error_code or outcome,
                peer_id=meter.peer_id,
                ttft_s=meter.ttft_s,
                n_prompt_tokens=meter.n_prompt_tokens,
                n_output_tokens=meter.n_output_tokens,
            )

    async def _whole(self, request: ChatRequest, answer: Answer, meter: _Meter) -> web.StreamResponse:
        assembler = _assembler(request)
        while events := await answer.batch():
            meter.see(events)
            assembler.add(events)
        response = json_response(assembler.body())
        response.headers.update(meter.headers())
        return response

    async def _stream(
        self, http: web.BaseRequest, request: ChatRequest, answer: Answer, meter: _Meter, request_id: str
    ) -> web.StreamResponse:
        stream = _Stream(http, _encoder(request), meter, request_id)
        try:
            while (events := await answer.batch(stream.patience_s())) != []:
                await stream.write(events)
            if not meter.is_final:
                raise RemoteProtocolError("the answer ended without its final statement")
        except McdError as error:
            if not stream.has_begun:
                raise
            meter.error_code = error.code
            await stream.fail(error)
        return stream.response


class _Meter:
    """Times and counts of one answer, for headers, metrics and the log line."""

    def __init__(self, generated: Generated, started_s: Seconds) -> None:
        self._generated = generated
        self._started_s = started_s
        self._model = ""
        self.peer_id: str | None = None
        self.ttft_s: Seconds | None = None
        self.n_prompt_tokens: int | None = None
        self.n_output_tokens: int | None = None
        self.is_final = False
        self.error_code: str | None = None

    def see(self, events: list[AnswerEvent]) -> None:
        """Take note of the next events."""
        for event in events:
            match event:
                case Delta():
                    self._first_token()
                case Answering():
                    self.peer_id = event.peer_id
                    self._model = event.model
                case Final():
                    self._finish(event)

    def headers(self) -> dict[str, str]:
        """Who answers with what, as far as it is known."""
        return who_answered(self.peer_id or "", self._model)

    def _first_token(self) -> None:
        if self.ttft_s is None:
            self.ttft_s = time.monotonic() - self._started_s
            self._generated.first_token(self.ttft_s)

    def _finish(self, final: Final) -> None:
        self._first_token()
        assert self.ttft_s is not None
        self.is_final = True
        self.n_prompt_tokens = final.usage.n_prompt_tokens
        self.n_output_tokens = final.usage.n_output_tokens
        self._generated.answered(final.usage, self.ttft_s, time.monotonic() - self._started_s)


class _Stream:
    """The event stream of one answer; its status line is sent with the first bytes."""

    def __init__(self, http: web.BaseRequest, encoder: sse.StreamEncoder, meter: _Meter, request_id: str) -> None:
        self._http = http
        self._encoder = encoder
        self._meter = meter
        self._held = b""
        self.response = web.StreamResponse(
            headers={
                "Content-Type": sse.CONTENT_TYPE,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
                "x-request-id": request_id,
            }
        )

    @property
    def has_begun(self) -> bool:
        """True once the status line is out, so that an error must be an event."""
        return self.response.prepared

    def patience_s(self) -> Seconds:
        """How long to wait for events before a keep-alive."""
        return KEEP_ALIVE_S if self.has_begun else FIRST_KEEP_ALIVE_S

    async def write(self, events: list[AnswerEvent] | None) -> None:
        """Send what the events add, in one write; None sends a keep-alive."""
        if events is None:
            await self._send(sse.KEEP_ALIVE)
            return
        self._meter.see(events)
        data = self._held + self._encoder.encode(events)
        if self._meter.ttft_s is None and not self.has_begun:
            self._held = data  # comments alone: the provider may still refuse with a proper status
        elif data:
            await self._send(data)

    async def fail(self, error: McdError) -> None:
        """End a begun stream with an error event."""
        await self._send(self._encoder.error(error))

    async def _send(self, data: bytes) -> None:
        if self.has_begun and len(data) <= MAX_UNTIMED_BYTES and self._is_idle():
            await self.response.write(data)
            return
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                if not self.has_begun:
                    self.response.headers.update(self._meter.headers())
                    await self.response.prepare(self._http)
                    if data is sse.KEEP_ALIVE:
                        data = self._held + data
                    self._held = b""
                await self.response.write(data)
        except TimeoutError:
            if self._http.transport is not None:
                self._http.transport.abort()
            raise SlowClientError(f"the client read nothing for {WRITE_TIMEOUT_S:g} s") from None

    def _is_idle(self) -> bool:
        """Whether the client has taken everything so far."""
        transport = self._http.transport
        return transport is not None and transport.get_write_buffer_size() == 0


def who_answered(peer_id: str, model: str) -> dict[str, str]:
    """Write the headers that say so; foreign text never reaches a header unchecked."""
    known = {"x-mcd-peer": peer_id, "x-mcd-model": model}
    return {name: value for name, value in known.items() if _HEADER_VALUE.fullmatch(value)}


def _assembler(request: ChatRequest) -> completion.Assembler:
    made_for = legacy.Assembler if isinstance(request, CompletionRequest) else completion.Assembler
    return made_for(request, _completion_id(request), int(time.time()))


def _encoder(request: ChatRequest) -> sse.StreamEncoder:
    made_for = legacy.StreamEncoder if isinstance(request, CompletionRequest) else sse.StreamEncoder
    return made_for(request, _completion_id(request), int(time.time()))


def _completion_id(request: ChatRequest) -> str:
    prefix = "cmpl" if isinstance(request, CompletionRequest) else "chatcmpl"
    return f"{prefix}-{os.urandom(12).hex()}"
