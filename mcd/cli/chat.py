"""`mcd chat`: one question or a conversation, streamed from the running daemon's API."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mcd.cli import client, exits, interrupt, table
from mcd.cli.exits import CommandError
from mcd.config import parse_http
from mcd.errors import ContextLengthError

IDLE_TIMEOUT_S = 120.0
"""The API sends a sign of life every 10 s."""
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_QUESTION_CHARS = 8 * 1024 * 1024
"""As many bytes as the API takes. Without a bound the wrong file on standard input would fill the memory."""
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask a server bound to all addresses

_COMING = {"loading", "restarting"}

Message = dict[str, str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name from mcd models (default: one served here)")
    parser.add_argument("-m", dest="message", metavar="TEXT", help="ask this and exit (else stdin or a conversation)")
    parser.add_argument("--system", metavar="TEXT", help="how the model should behave")
    parser.add_argument("--temperature", type=number, metavar="T", help="0 is the most likely answer")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most this long")
    client.add_flags(parser)


def number(text: str) -> float:
    """A number that JSON can say."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def execute(args: argparse.Namespace) -> int:
    """Ask once, or until the end of input."""
    interrupt.heed()
    status = client.ask(args.home, "status")
    asker = _Asker(status["http"], args.model or _default_model(args, status["engines"]), args)
    opening: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    question = args.message
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read(MAX_QUESTION_CHARS + 1)
    if question is not None:
        if not question.strip():
            raise CommandError("the question is empty", exits.USAGE)
        if len(question) > MAX_QUESTION_CHARS:
            raise CommandError(f"the question is longer than {MAX_QUESTION_CHARS} characters", exits.USAGE)
        return _ask_once(asker, [*opening, {"role": "user", "content": question}], is_json=args.json)
    return _converse(asker, opening)


def _default_model(args: argparse.Namespace, engines: list[dict[str, Any]]) -> str:
    models = [model for model in client.ask(args.home, "models") if "chat" in model["capabilities"]]
    coming = [engine["alias"] for engine in engines if engine["state"] in _COMING]
    if not models and coming:
        raise CommandError(f"{coming[0]} is still being loaded here; ask again in a moment", exits.NOT_FOUND)
    if not models:
        raise CommandError("no peer serves a model that chats; mcd run --cpu serves the embedded one", exits.NOT_FOUND)
    return str(min(models, key=lambda model: not model["is_local"])["alias"])


@dataclass(frozen=True)
class _Piece:
    """Some of an answer."""

    text: str
    is_thought: bool


@dataclass
class _Reply:
    """What one answer consisted of, for the line below it."""

    text: list[str] = field(default_factory=list)
    """Without the thoughts before it, which no model is shown again."""
    peer_id: str = ""
    n_tokens: int = 0
    first_s: float | None = None
    total_s: float = 0.0

    def summary(self) -> str:
        """Who answered, and how fast."""
        parts = [f"peer {table.short_id(self.peer_id)}"] if self.peer_id else []
        if self.first_s is not None:
            parts.append(f"first token {table.duration(self.first_s)}")
            rest_s = self.total_s - self.first_s
            if self.n_tokens > 1 and rest_s > 0:
                parts.append(f"{(self.n_tokens - 1) / rest_s:.0f} tok/s")
        return ", ".join(parts)


class _Asker:
    """Sends conversations to the API and reads the stream."""

    def __init__(self, address: str, model: str, args: argparse.Namespace) -> None:
        host, port = parse_http(address)
        self._host = _ANY_HOST.get(host, host)
        self._port = port
        self.model = model
        optional = {"temperature": args.temperature, "max_tokens": args.max_tokens}
        self._options = {name: value for name, value in optional.items() if value is not None}

    def whole(self, messages: list[Message]) -> Any:
        """Ask without streaming and return the completion object."""
        connection = self._connection()
        try:
            return json.loads(self._request(connection, messages, is_stream=False).read())
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise CommandError("the connection to the API broke; is mcd still running?") from problem
        finally:
            connection.close()

    def stream(self, messages: list[Message], reply: _Reply) -> Iterator[_Piece]:
        """Ask and yield the text as it comes; closing the iterator cancels the answer at the provider.

        Raises:
            CommandError: The API refused, or the stream ended with an error.
        """
        connection = self._connection()
        started = time.monotonic()
        try:
            response = self._request(connection, messages, is_stream=True)
            reply.peer_id = response.headers.get("x-mcd-peer", "")
            for line in iter(lambda: response.readline(MAX_LINE_BYTES), b""):
                for piece in _read_line(line, reply):
                    reply.first_s = time.monotonic() - started if reply.first_s is None else reply.first_s
                    yield piece
            reply.total_s = time.monotonic() - started
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise CommandError("the connection to the API broke; is mcd still running?") from problem
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=IDLE_TIMEOUT_S)

    def _request(
        self, connection: http.client.HTTPConnection, messages: list[Message], *, is_stream: bool
    ) -> http.client.HTTPResponse:
        if not all(_is_text(message["content"]) for message in messages):
            raise CommandError("what you ask holds bytes that are no text", exits.USAGE)
        body: dict[str, Any] = {"model": self.model, "messages": messages, **self._options}
        if is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        host = f"[{self._host}]" if ":" in self._host else self._host
        headers = {"Content-Type": "application/json", "Host": f"{host}:{self._port}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise exits.refusal(json.loads(response.read())["error"])
        return response


def _read_line(line: bytes, reply: _Reply) -> Iterator[_Piece]:
    """What one line of the event stream adds to the answer."""
    if line.startswith(b": peer "):
        reply.peer_id = line.removeprefix(b": peer ").strip().decode(errors="replace")
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return
    chunk = json.loads(line.removeprefix(b"data: "))
    if "error" in chunk:
        raise exits.refusal(chunk["error"])
    if chunk.get("usage"):
        reply.n_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        if thought := choice["delta"].get("reasoning_content"):
            yield _Piece(thought, is_thought=True)
        if text := choice["delta"].get("content"):
            reply.text.append(text)
            yield _Piece(text, is_thought=False)


def _ask_once(asker: _Asker, messages: list[Message], *, is_json: bool) -> int:
    if is_json:
        client.print_json(asker.whole(messages))
        return exits.OK
    reply = _Reply()
    _print_stream(asker, messages, reply)
    if sys.stderr.isatty():
        print(table.paint(reply.summary(), table.DIM, sys.stderr), file=sys.stderr)
    return exits.OK


def _print_stream(asker: _Asker, messages: list[Message], reply: _Reply) -> None:
    """Print as it comes. The text is the model's own and goes out unchanged to a pipe, harmless to a terminal.

    A terminal is shown the thoughts too, or nothing would move for minutes; a pipe gets the answer alone.
    """
    is_terminal = sys.stdout.isatty()
    last: _Piece | None = None
    try:
        for piece in asker.stream(messages, reply):
            if not is_terminal and piece.is_thought:
                continue
            if last is not None and last.is_thought and not piece.is_thought:
                sys.stdout.write("\n\n")
            text = _harmless(piece.text) if is_terminal else piece.text
            sys.stdout.write(table.paint(text, table.DIM) if piece.is_thought else text)
            sys.stdout.flush()
            last = piece
    except (CommandError, KeyboardInterrupt) as end:
        if last is not None or isinstance(end, KeyboardInterrupt):
            print(flush=True)  # whatever is said next begins a line
        raise
    print()


def _is_text(words: str) -> bool:
    """Whether it was text that was typed, or came from a file: Python keeps other bytes as halves of characters."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def _harmless(text: str) -> str:
    """A model must not move the cursor or set the clipboard."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def _converse(asker: _Asker, messages: list[Message]) -> int:
    print(f"{asker.model}   Ctrl-C stops an answer, Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            question = input(table.paint("> ", table.BOLD))
        except (EOFError, KeyboardInterrupt):
            print()
            return exits.OK
        if question.strip():
            messages = _turn(asker, [*messages, {"role": "user", "content": question}])


def _turn(asker: _Asker, messages: list[Message]) -> list[Message]:
    """Ask, and return the conversation so far; one that failed is as if never asked."""
    reply = _Reply()
    try:
        _print_stream(asker, messages, reply)
    except KeyboardInterrupt:
        pass
    except CommandError as error:
        print(error.message, file=sys.stderr)
        if error.api_code == ContextLengthError.code and len(messages) > 1:
            print("the conversation fills it; end it with Ctrl-D, and mcd chat begins a new one", file=sys.stderr)
        return messages[:-1]
    print(table.paint(reply.summary(), table.DIM, sys.stderr), file=sys.stderr)
    return [*messages, {"role": "assistant", "content": "".join(reply.text)}]
