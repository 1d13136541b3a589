"""The control socket: what `mcd peers`, `mcd status` and the other read commands ask.   [GW-70]

A unix socket in the home folder that only its owner can open, so it needs neither guard nor key. Read only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from aiohttp import web

from mcd.api.errors import error_body
from mcd.cards import Check, ModelCard, PeerCard, RouteTerm
from mcd.errors import InvalidRequestError, LocalError, McdError, MethodError, UnknownUrlError
from mcd.gateway import status as shown
from mcd.gateway.server import HttpServer, json_response
from mcd.ids import PeerId
from mcd.log import Log
from mcd.ports import DaemonStatus
from mcd.wire.messages import MAX_OUTPUT_TOKENS

DEFAULT_PROMPT_TOKENS = 256
DEFAULT_OUTPUT_TOKENS = 256
"""The request that `mcd route` plans for when not told otherwise: a short chat turn."""


class ControlSource(Protocol):
    """What the daemon tells about itself. All calls are synchronous snapshots."""

    def status(self) -> DaemonStatus:
        """The whole daemon in one struct."""
        ...

    def peers(self) -> Sequence[PeerCard]:
        """Every known peer, nearest first."""
        ...

    def models(self) -> Sequence[ModelCard]:
        """Every model somebody serves now."""
        ...

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        """The plan of a request of that size.

        Raises:
            ModelNotFoundError: Nobody offers it.
        """
        ...

    def doctor(self) -> Sequence[Check]:
        """What a running daemon knows of its own health: sandbox, clock, mesh."""
        ...


class Control:
    """The control socket of one daemon. Owner: `mcd.daemon`."""

    def __init__(self, source: ControlSource, log: Log) -> None:
        """Take whom to ask; nothing listens before `listen`."""
        self._source = source
        self._log = log
        self._server: HttpServer | None = None
        self._path: Path | None = None

    async def listen(self, path: Path) -> None:
        """Serve on a unix socket.

        Raises:
            ConfigError: Another daemon uses this home, or the path cannot be used.
        """
        self._server = HttpServer(self._handle)
        await self._server.listen_unix(path)
        self._path = path

    async def stop(self) -> None:
        """Close and remove the socket."""
        if self._server is not None:
            await self._server.stop()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return json_response(shown.to_json(self._answer(request)))
        except McdError as error:
            return json_response(error_body(error), status=error.http_status)
        except asyncio.CancelledError:
            raise
        except Exception as problem:  # noqa: BLE001 - a supervision loop: one failed question must not end the daemon
            self._log.error("control_failed", reason=type(problem).__name__)
            return json_response(error_body(LocalError("the daemon could not answer")), status=500)

    def _answer(self, request: web.BaseRequest) -> object:
        if request.method != "GET":
            raise MethodError("GET")
        match request.path:
            case "/status":
                return self._source.status()
            case "/peers":
                return self._source.peers()
            case "/models":
                return self._source.models()
            case "/doctor":
                return self._source.doctor()
            case "/id":
                return _identity(self._source.status())
            case "/route":
                return self._route(request)
            case _:
                raise UnknownUrlError("the control socket has no such question")

    def _route(self, request: web.BaseRequest) -> Sequence[RouteTerm]:
        model = request.query.get("model", "")
        if not model:
            raise InvalidRequestError("model is missing", param="model")
        n_prompt = _count(request, "n_prompt_tokens", DEFAULT_PROMPT_TOKENS)
        n_output = _count(request, "n_output_tokens", DEFAULT_OUTPUT_TOKENS)
        return self._source.route(model, n_prompt, n_output)


def _identity(status: DaemonStatus) -> dict[str, str | PeerId | tuple[str, ...]]:
    return {
        "peer_id": status.peer_id,
        "name": status.name,
        "network": status.network,
        "addresses": status.addresses,
    }


def _count(request: web.BaseRequest, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= MAX_OUTPUT_TOKENS):
        raise InvalidRequestError(f"{name} must be between 1 and {MAX_OUTPUT_TOKENS}", param=name)
    return int(text)
