"""OpenAI's HTTP face: routes, bodies, error answers. Chat itself is in `mcd.gateway.completions`."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Awaitable, Callable

from aiohttp import StreamReader, web

from mcd.api import models as api_models
from mcd.api.errors import error_body, error_headers
from mcd.errors import (
    ConfigError,
    InvalidRequestError,
    LocalError,
    McdError,
    MethodError,
    NoProviderError,
    SlowClientError,
    TooLargeError,
    UnknownUrlError,
)
from mcd.gateway import metrics as prometheus
from mcd.gateway import status as shown
from mcd.gateway.bridge import Bridge
from mcd.gateway.completions import Completions
from mcd.gateway.guard import Guard, check_json
from mcd.gateway.metrics import Metrics
from mcd.gateway.server import BODY_TIMEOUT_S, HttpServer, json_response
from mcd.gateway.tasks import Tasks
from mcd.log import Log
from mcd.ports import DaemonStatus, Entry
from mcd.wire.messages import MAX_BODY_BYTES

MAX_PATH_CHARS = 512
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

_OTHER_DIALECTS = {"/responses": "OpenAI's Responses API", "/messages": "Anthropic's Messages API"}
"""What some clients try first, or alone; a conversation goes to /v1/chat/completions."""

_Get = Callable[[web.BaseRequest], web.StreamResponse]
_Post = Callable[[web.BaseRequest, bytes, str], Awaitable[web.StreamResponse]]


class Gateway:
    """The HTTP API of one daemon. Owner: `mcd.daemon`."""

    def __init__(
        self,
        *,
        bridge: Bridge,
        entry: Entry,
        status: Callable[[], DaemonStatus],
        metrics: Metrics,
        log: Log,
    ) -> None:
        """Take what the handlers need; nothing listens before `listen`."""
        self._bridge = bridge
        self._entry = entry
        self._status = status
        self._metrics = metrics
        self._log = log
        self._guard = Guard("localhost")
        self._server: HttpServer | None = None
        self._completions = Completions(bridge, metrics, log)
        self._gets: dict[str, _Get] = {
            "/": self._index,
            "/health": self._health,
            "/models": self._models,
            "/status": self._show_status,
            "/metrics": self._show_metrics,
        }
        tasks = Tasks(bridge, metrics, log)
        self._posts: dict[str, _Post] = {
            "/chat/completions": self._completions.chat,
            "/completions": self._completions.legacy,
            "/embeddings": tasks.embeddings,
            "/rerank": tasks.rerank,
            "/tokenize": tasks.tokenize,
            "/detokenize": tasks.detokenize,
        }

    async def listen(self, host: str, port: int) -> str:
        """Serve on TCP and return HOST:PORT as clients may write it; port 0 lets the kernel choose.

        Raises:
            ConfigError: The address cannot be used.
        """
        self._guard = Guard(host)
        self._server = HttpServer(self._handle)
        try:
            port = await self._server.listen(host, port)
        except ConfigError:
            await self._server.stop()
            raise
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        """Tell every open stream why it ends, then close; under a second even with clients that do not read."""
        self._bridge.fail_all(NoProviderError("this peer is stopping; try again", retry_after_s=1.0))
        if self._server is not None:
            await self._server.stop()

    # --- one HTTP request ------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"req_{os.urandom(12).hex()}"
        route = "other"
        try:
            self._guard.check(request.headers)
            route, path = self._route(request.path)
            response = await self._dispatch(request, path, request_id)
        except McdError as error:
            response = _error_response(error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client left; nobody reads an answer
        except Exception as problem:  # noqa: BLE001 - a supervision loop: the message may quote user text, so it ends here
            self._log.error("http_handler_failed", reason=type(problem).__name__, request_id=request_id)
            response = _error_response(LocalError("an internal error ended this request"))
        self._metrics.responded(route, response.status)
        if not response.prepared:
            response.headers["x-request-id"] = request_id
            response.headers.update(SECURITY_HEADERS)
        return response

    def _route(self, raw_path: str) -> tuple[str, str]:
        """Return the endpoint's name, a closed set for metrics, and the path without ``/v1`` and trailing slash."""
        path = raw_path.removeprefix("/v1").rstrip("/") or "/"
        if path in self._gets or path in self._posts:
            return path, path
        if path.startswith("/models/"):
            return "/models/{id}", path
        return "other", path

    async def _dispatch(self, request: web.BaseRequest, path: str, request_id: str) -> web.StreamResponse:
        post = self._posts.get(path)
        if post is not None:
            _allow(request, "POST")
            check_json(request.headers)
            return await post(request, await _read_body(request), request_id)
        get = self._gets.get(path)
        if get is None and path.startswith("/models/"):
            get = self._model
        if get is None:
            raise UnknownUrlError(self._what_there_is(path))
        _allow(request, "GET", "HEAD")
        return get(request)

    def _what_there_is(self, path: str) -> str:
        """For people whose client asked for another path."""
        served = ", ".join(f"/v1{known}" for known in (*self._posts, "/models"))
        other = next((name for prefix, name in _OTHER_DIALECTS.items() if path.startswith(prefix)), None)
        nothing = f"{other} is not spoken here" if other else "there is no such endpoint"
        return f"{nothing}; this peer serves {served}"

    # --- endpoints without a body ----------------------------------------------------------------------------

    def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        return json_response(api_models.encode(api_models.ModelList(shown.models(self._entry.models()))))

    def _model(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.removeprefix("/v1").removeprefix("/models/").rstrip("/")
        return json_response(api_models.encode(shown.model(self._entry.model(name), name)))

    def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        status = self._status()
        return json_response(shown.to_json({"status": "ok", "n_peers": status.n_peers, "n_models": status.n_models}))

    def _show_status(self, request: web.BaseRequest) -> web.StreamResponse:
        return json_response(shown.to_json(self._status()))

    def _show_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        body = self._metrics.render(self._status(), self._bridge.stats())
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    def _index(self, request: web.BaseRequest) -> web.StreamResponse:
        status = self._status()
        page = _PAGE.format(base=html.escape(f"http://{status.http}/v1"), peer_id=html.escape(status.peer_id))
        return web.Response(text=page, content_type="text/html")


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ModelCloud</title>
<h1>ModelCloud</h1>
<p>This peer answers OpenAI clients at <code>{base}</code></p>
<ul><li><a href="/v1/models">models</a><li><a href="/v1/status">status</a><li><a href="/metrics">metrics</a></ul>
<p>Peer <code>{peer_id}</code></p>
</html>
"""


def _allow(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        raise MethodError(*methods)
    if len(request.path) > MAX_PATH_CHARS:
        raise UnknownUrlError("there is no such endpoint")


async def _read_body(request: web.BaseRequest) -> bytes:
    """Read at most MAX_BODY_BYTES within BODY_TIMEOUT_S.

    Raises:
        TooLargeError, SlowClientError, InvalidRequestError: The client's body cannot be used.
    """
    too_large = TooLargeError(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body = await _collect(request.content)
    except TimeoutError:
        raise SlowClientError(f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    except web.RequestPayloadError:
        raise InvalidRequestError("the request is not valid HTTP") from None
    if len(body) > MAX_BODY_BYTES:
        raise too_large
    return body


async def _collect(content: StreamReader) -> bytes:
    """The whole body; of one that is too large, enough to see it."""
    if content.is_eof():  # it came together with its headers, as most do
        return content.read_nowait()
    body = bytearray()
    async with asyncio.timeout(BODY_TIMEOUT_S):
        async for part in content.iter_any():
            body += part
            if len(body) > MAX_BODY_BYTES:
                break
    return bytes(body)


def _error_response(error: McdError) -> web.Response:
    response = json_response(error_body(error), status=error.http_status)
    response.headers.update(error_headers(error))
    if isinstance(error, (SlowClientError, TooLargeError)):
        response.force_close()
    return response
