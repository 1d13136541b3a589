"""Calls to an OpenAI-compatible server, each in a thread of its own. The only engine module with a network."""

from __future__ import annotations

import http.client
import queue
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcd.engine.foreign import Embedded
from mcd.wire.payload import Private

CONNECT_TIMEOUT_S = 10.0
CHAT_PATH = "chat/completions"
EMBEDDINGS_PATH = "embeddings"
READ_TIMEOUT_S = 300.0
"""Between two chunks: a server that queues says nothing for long."""
MAX_EVENTS = 64
"""Chunks read ahead; a paused job's thread waits here, and through TCP so does the server."""
MAX_LINE_BYTES = 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_WHOLE_BYTES = 64 * 1024 * 1024
"""Of an answer that is not streamed: the vectors of the largest response, as decimal numbers."""
USER_FAULTS = frozenset({400, 404, 413, 415, 422})
BUSY = frozenset({429, 503})


class Function(Private, frozen=True):
    """Of a streamed tool call."""

    name: str | None = None
    arguments: str | None = None


class Call(Private, frozen=True):
    """A fragment of a tool call."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class DeltaPart(Private, frozen=True):
    """What a chunk adds to a choice."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None


class ChoicePart(Private, frozen=True):
    """One choice of a chunk."""

    index: int = 0
    delta: DeltaPart = msgspec.field(default_factory=DeltaPart)
    finish_reason: str | None = None


class UsagePart(msgspec.Struct):
    """Counts, in the last chunk."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChunkPart(Private, frozen=True):
    """A server-sent event's data."""

    choices: tuple[ChoicePart, ...] = ()
    usage: UsagePart | None = None


class ErrorPart(Private, frozen=True):
    """An OpenAI error object."""

    message: str = ""
    param: str | None = None


class _ErrorBody(Private, frozen=True):
    error: ErrorPart


class Opened(msgspec.Struct, frozen=True):
    """The server took the request."""


class Rejected(Private, frozen=True):
    """The server refused the request as written, with its message for the requester."""

    message: str


class Busy(msgspec.Struct, frozen=True):
    """The server has no room."""


class Broken(msgspec.Struct, frozen=True):
    """The server is gone or talks nonsense."""


class Ended(msgspec.Struct, frozen=True):
    """The stream is complete."""


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]


Event = Opened | Rejected | Busy | Broken | Ended | ChunkPart | Embedded

_NO_LINGER = struct.pack("ii", 1, 0)
_chunks = msgspec.json.Decoder(ChunkPart)
_models = msgspec.json.Decoder(_Models)
_errors = msgspec.json.Decoder(_ErrorBody)


class UpstreamCall:
    """A running call. Owner: OpenAIBackend; its thread ends with the answer or after `stop`.

    ``read`` turns the body of an answer that is not streamed into its event; it may raise ValueError.
    """

    def __init__(
        self,
        base_url: str,
        body: bytes,
        wake: Callable[[], None],
        path: str = CHAT_PATH,
        read: Callable[[bytes], Embedded] | None = None,
    ) -> None:
        self._base_url = base_url
        self._body = body
        self._wake = wake
        self._path = path
        self._read = read
        self._events: queue.Queue[Event] = queue.Queue(MAX_EVENTS)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._is_stopped = threading.Event()
        threading.Thread(target=self._run, name="upstream", daemon=True).start()

    def take(self) -> Event | None:
        """The next event, None when there is none yet."""
        try:
            return self._events.get_nowait()
        except queue.Empty:
            return None

    @property
    def n_ready(self) -> int:
        """Events read and not taken."""
        return self._events.qsize()

    def stop(self) -> None:
        """End the call now; the server sees its connection close and stops computing."""
        self._is_stopped.set()
        if self._socket is not None:
            try:
                # closing becomes a reset, which even a server notices that waits for our window to open
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _run(self) -> None:
        try:
            self._stream()
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, ValueError):
            self._put(Broken())
        finally:
            if self._connection is not None:
                self._connection.close()
            if self._socket is not None:
                self._socket.close()

    def _stream(self) -> None:
        self._connection = connection = connect(self._base_url)
        path = f"{urlsplit(self._base_url).path}/{self._path}"
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        connection.connect()
        # kept here because the connection forgets it once the response owns it
        self._socket = connection.sock
        self._socket.settimeout(READ_TIMEOUT_S)
        if self._is_stopped.is_set():  # `stop` came before there was a socket to shut down
            return
        connection.request("POST", path, self._body, headers)
        with connection.getresponse() as response:
            if response.status != 200:
                self._put(_refusal(response))
                return
            if self._read is None:
                self._put(Opened())
                self._read_events(response)
                return
            data = response.read(MAX_WHOLE_BYTES + 1)
            self._put(self._read(data) if len(data) <= MAX_WHOLE_BYTES else Broken())

    def _read_events(self, response: http.client.HTTPResponse) -> None:
        # the flag is asked for each line: a shut-down socket goes on yielding what a fast server still sends
        while not self._is_stopped.is_set() and (line := response.readline(MAX_LINE_BYTES)):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self._put(Ended())
                return
            self._put(_chunks.decode(data))
        self._put(Broken())

    def _put(self, event: Event) -> None:
        while not self._is_stopped.is_set():
            try:
                self._events.put(event, timeout=1.0)
            except queue.Full:
                continue
            self._wake()
            return


def port_of(base_url: str) -> int:
    """The TCP port of the server: all the network an adapter keeps."""
    parts = urlsplit(base_url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def connect(base_url: str) -> http.client.HTTPConnection:
    """A connection to the server of a base URL."""
    parts = urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=CONNECT_TIMEOUT_S)


def list_models(base_url: str) -> list[dict[str, Any]]:
    """What GET /models names.

    Raises:
        ValueError: No OpenAI-compatible server answers.
    """
    connection = connect(base_url)
    try:
        connection.request("GET", f"{urlsplit(base_url).path}/models")
        response = connection.getresponse()
        models = _models.decode(response.read(MAX_BODY_BYTES))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        raise ValueError("no model list") from None
    finally:
        connection.close()
    return models.data


def tried(base_url: str, path: str, body: bytes) -> bytes | None:
    """What a small request brings, None for an error; waits while the server loads its model."""
    connection = connect(base_url)
    try:
        connection.connect()
        connection.sock.settimeout(READ_TIMEOUT_S)
        connection.request("POST", f"{urlsplit(base_url).path}/{path}", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read(MAX_BODY_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return data if response.status == 200 else None


def _refusal(response: http.client.HTTPResponse) -> Event:
    if response.status in BUSY:
        return Busy()
    if response.status not in USER_FAULTS:
        return Broken()
    try:
        return Rejected(_errors.decode(response.read(MAX_BODY_BYTES)).error.message)
    except msgspec.MsgspecError:
        return Rejected("")
