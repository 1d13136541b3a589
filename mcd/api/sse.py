"""Answer events -> the bytes of an OpenAI event stream.   [GW-30]

The clients' contract: every chunk has the same id, created and model; a choice's first delta holds the role and an
empty string; finish_reason is null until the choice's last chunk; the stream ends with ``[DONE]``. Bytes around the
text never change, so they are built once: a chunk of plain text costs one JSON string and one join.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcd.api import shapes
from mcd.api.errors import error_body
from mcd.api.events import AnswerEvent, Answering, Waiting
from mcd.api.request import ChatRequest
from mcd.api.shapes import Json
from mcd.errors import McdError
from mcd.wire.payload import Delta, Final, ToolCallDelta

CONTENT_TYPE = "text/event-stream"
KEEP_ALIVE = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"

_TEXT = b'"choices":[{"index":%d,"delta":{"content":'
_TEXT_END = b'},"logprobs":null,"finish_reason":null}]'
"""Around the text of a chunk that holds nothing else: nearly all of them."""

_json = msgspec.json.Encoder()


class StreamEncoder:
    """One answer's event stream. Owner: the HTTP handler that writes it."""

    OBJECT = "chat.completion.chunk"

    def __init__(self, request: ChatRequest, completion_id: str, created_unix_s: int) -> None:
        self._request = request
        self._id = completion_id
        self._created = created_unix_s
        self._model = request.model
        self._fingerprint: str | None = None
        self._is_labelled = False
        self._opened: set[int] = set()
        self._called: set[tuple[int, int]] = set()
        self._head = b""
        self._tail = b',"usage":null}\n\n' if request.include_usage else b"}\n\n"

    def encode(self, events: Iterable[AnswerEvent]) -> bytes:
        """Return what these events add to the stream; may be nothing.

        Raises:
            RemoteProtocolError: A delta belongs to a choice that was not asked for.
        """
        parts: list[bytes] = []
        for event in events:
            match event:
                case Delta():
                    self._delta(event, parts)
                case Final():
                    self._final(event, parts)
                case Answering():
                    self._answering(event, parts)
                case Waiting():
                    pass
        return b"".join(parts)

    def error(self, error: McdError) -> bytes:
        """End a stream that cannot be finished: the status line has been sent, so the data say it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _answering(self, event: Answering, parts: list[bytes]) -> None:
        # A comment, which clients skip: after a failover it is the only way to say who goes on.
        parts.append(f": peer {event.peer_id}\n\n".encode())
        if not self._is_labelled:
            self._model = event.model
            self._fingerprint = shapes.fingerprint(event.model_digest)

    def _delta(self, event: Delta, parts: list[bytes]) -> None:
        shapes.check_choice(event.choice, self._request.n)
        logprobs = shapes.logprob_items(event.logprobs) if self._request.logprobs else []
        if not (event.text or event.reasoning or event.tool_calls or logprobs):
            return  # padding, or text held back
        self._open(event.choice, parts)
        if not (event.reasoning or event.tool_calls or logprobs):
            text = (_TEXT % event.choice, _json.encode(event.text), _TEXT_END)
            parts += (self._label(), *text, self._tail)
            return
        delta: Json = {}
        if event.reasoning:
            # Two spellings are in use; clients read the one they know.
            delta["reasoning_content"] = delta["reasoning"] = event.reasoning
        if event.text or logprobs:
            delta["content"] = event.text
        if event.tool_calls:
            delta["tool_calls"] = [self._tool_call(call, event.choice) for call in event.tool_calls]
        parts.append(self._chunk(event.choice, delta, logprobs, None))

    def _final(self, event: Final, parts: list[bytes]) -> None:
        for choice in range(self._request.n):
            self._end(choice, shapes.finish_reason(event, choice), parts)
        if self._request.include_usage:
            usage = _json.encode(shapes.usage(event.usage))
            parts.append(b"".join((self._label(), b'"choices":[],"usage":', usage, b"}\n\n")))
        parts.append(DONE)

    def _end(self, choice: int, reason: str, parts: list[bytes]) -> None:
        self._open(choice, parts)
        parts.append(self._chunk(choice, {}, [], reason))

    def _open(self, choice: int, parts: list[bytes]) -> None:
        """Send the role just before the choice's first content, so that it never poses as a first token."""
        if choice not in self._opened:
            self._opened.add(choice)
            parts.append(self._chunk(choice, {"role": "assistant", "content": "", "refusal": None}, [], None))

    def _chunk(self, choice: int, delta: Json, logprobs: list[Json], finish_reason: str | None) -> bytes:
        body: Json = {
            "index": choice,
            "delta": delta,
            "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
            "finish_reason": finish_reason,
        }
        return self._written(body)

    def _written(self, choice: Json) -> bytes:
        """One chunk of one choice."""
        return b"".join((self._label(), b'"choices":[', _json.encode(choice), b"]", self._tail))

    def _label(self) -> bytes:
        """The members all chunks share; fixed by the first chunk."""
        if not self._is_labelled:
            self._is_labelled = True
            label = {
                "id": self._id,
                "object": self.OBJECT,
                "created": self._created,
                "model": self._model,
                "system_fingerprint": self._fingerprint,
            }
            self._head = b"data: " + _json.encode(label)[:-1] + b","
        return self._head

    def _tool_call(self, call: ToolCallDelta, choice: int) -> Json:
        key = (choice, call.index)
        if key in self._called:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._called.add(key)
        return {
            "index": call.index,
            "id": shapes.call_id(call, self._id, choice),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
