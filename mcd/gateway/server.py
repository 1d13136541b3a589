"""A listening socket and the HTTP handlers behind it: limits, time-outs, and an end that takes less than a second.

This is aiohttp's low-level server. Its own error pages and log lines quote what the client sent, so both are
replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from mcd.api.errors import error_body
from mcd.errors import ConfigError, InvalidRequestError

HEADER_TIMEOUT_S = 10.0
"""Also how long an idle connection is kept; clients' own pools let go after 5 s."""
BODY_TIMEOUT_S = 30.0
LINGER_S = 2.0
"""How long the rest of a refused body is read, so that the client sees our answer instead of a reset."""
MAX_HEADER_BYTES = 8190
MAX_HEADERS = 64
STOP_GRACE_S = 0.5
BACKLOG = 512
READ_BYTES = 64 * 1024
"""At once. For the 256 KiB that asyncio asks for, C's allocator maps memory anew at every read (from 128 KiB on)."""

_TOO_LONG = f"the URL or a header is longer than {MAX_HEADER_BYTES} bytes (cookies of all programs on localhost add up)"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_quiet = logging.getLogger("mcd.gateway.server")
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


class _Connection(web.RequestHandler):
    """aiohttp's connection, with error answers that are JSON and quote nothing."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's, but with reads of a size that costs no system calls besides."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of asyncio's own transports

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP; ours never let an exception come this far."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        error = InvalidRequestError(_TOO_LONG if isinstance(exc, LineTooLong) else "the request is not valid HTTP")
        response = web.Response(status=status, body=error_body(error), content_type="application/json")
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class HttpServer:
    """One listener. Owner: the room that gives it its handler."""

    def __init__(self, handler: Handler) -> None:
        """Must be made while asyncio runs."""
        self._handler = handler
        self._running: set[asyncio.Task[object]] = set()
        server = _Server(
            self._track,
            handler_cancellation=True,
            keepalive_timeout=HEADER_TIMEOUT_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
            access_log=None,
            logger=_quiet,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_GRACE_S)

    async def listen(self, host: str, port: int) -> int:
        """Listen on TCP and return the port, which the kernel chooses for 0.

        Raises:
            ConfigError: The address cannot be used.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG, reuse_address=True)
        try:
            await site.start()
        except OSError as problem:
            why = os.strerror(problem.errno) if problem.errno else "unknown host"
            raise ConfigError(
                f"cannot listen on {host} port {port}: {why}; choose another address with --http"
            ) from problem
        return site.port

    async def listen_unix(self, path: Path) -> None:
        """Listen on a unix socket that only our user can open.

        Raises:
            ConfigError: Another daemon listens there, or the path cannot be used.
        """
        await self._runner.setup()
        await web.SockSite(self._runner, _unix_socket(path)).start()

    async def stop(self) -> None:
        """Close the listener, let handlers finish for STOP_GRACE_S, cancel the rest, close all connections."""
        for site in self._runner.sites:
            await site.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_GRACE_S)
        for task in self._running:
            task.cancel()
        await self._runner.cleanup()

    async def _track(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await self._handler(request)
        finally:
            self._running.discard(task)


def json_response(body: bytes, status: int = 200) -> web.Response:
    """A JSON body that is encoded already."""
    return web.Response(body=body, status=status, content_type="application/json")


def _unix_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as problem:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {problem.strerror}") from problem
    except ConfigError:
        listener.close()
        raise
    return listener


def remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is gone; a living one answers the connection. Nothing else is touched.

    Raises:
        ConfigError: A daemon lives there, or something that is no socket.
    """
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} is in the way: mcd needs this name for its control socket; move it elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(f"another daemon uses {path.parent}; stop it or choose another --home")
