"""POST endpoints whose answer comes whole: embeddings, rerank, tokenize, detokenize.   [GW-36]"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from mcd.api import embeddings, rerank, tokens
from mcd.api.events import Answering
from mcd.api.gathered import Gathered
from mcd.api.tasks import KINDS, TaskRequest
from mcd.errors import McdError, RemoteProtocolError
from mcd.gateway.bridge import Bridge
from mcd.gateway.completions import who_answered
from mcd.gateway.metrics import Metrics, operation_of
from mcd.gateway.server import json_response
from mcd.log import Log

Write = Callable[[Gathered], bytes]


class Tasks:
    """Answers the requests that generate nothing. Owner: `mcd.gateway.app`."""

    def __init__(self, bridge: Bridge, metrics: Metrics, log: Log) -> None:
        """Take what every answer needs."""
        self._bridge = bridge
        self._metrics = metrics
        self._log = log

    async def embeddings(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /v1/embeddings."""
        request, as_base64 = embeddings.parse(body)
        return await self._answer(request, lambda got: embeddings.body(got, as_base64=as_base64), request_id)

    async def rerank(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /v1/rerank."""
        request, shown = rerank.parse(body)
        return await self._answer(request, lambda got: rerank.body(request, shown, got), request_id)

    async def tokenize(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /tokenize."""
        return await self._answer(tokens.parse_tokenize(body), tokens.tokenize_body, request_id)

    async def detokenize(self, http: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
        """Serve POST /detokenize."""
        return await self._answer(tokens.parse_detokenize(body), tokens.detokenize_body, request_id)

    async def _answer(self, request: TaskRequest, write: Write, request_id: str) -> web.StreamResponse:
        kind = KINDS[type(request)]
        gathered = Gathered(request.model)
        answering: Answering | None = None
        n_tokens: int | None = None
        outcome = "ok"
        try:
            with self._bridge.open(request) as answer:
                while events := await answer.batch():
                    gathered.add(events)
                    answering = next((e for e in reversed(events) if isinstance(e, Answering)), answering)
            n_tokens = gathered.usage.n_prompt_tokens
            if answering is None:
                raise RemoteProtocolError("the answer came from nobody")
            response = json_response(write(gathered))
            response.headers.update(who_answered(answering.peer_id, answering.model))
        except McdError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, ConnectionError):
            outcome = "cancelled"
            raise
        finally:
            self._metrics.ended[operation_of(request), outcome] += 1
            self._log.info(
                "task_finished",
                request_id=request_id,
                outcome=outcome,
                service=kind,
                n_prompt_tokens=n_tokens,
                peer_id=answering.peer_id if answering is not None else None,
            )
        return response
