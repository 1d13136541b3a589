"""Answer events -> one OpenAI chat.completion object, for clients that do not stream.   [GW-31]"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcd.api import shapes
from mcd.api.events import AnswerEvent, Answering, Waiting
from mcd.api.request import ChatRequest
from mcd.api.shapes import Json
from mcd.errors import RemoteProtocolError
from mcd.wire.payload import MAX_TOOL_CALLS, Delta, Final, TokenLogprob, ToolCallDelta, Usage

MAX_ANSWER_CHARS = 32 * 1024 * 1024
"""An answer that is not streamed waits in memory; a million tokens of text stay below this."""

_json = msgspec.json.Encoder()


class _Call:
    def __init__(self, call_id: str, name: str) -> None:
        self.call_id = call_id
        self.name = name
        self.arguments: list[str] = []


class Choice:
    """What came of one choice."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, _Call] = {}
        self.logprobs: list[TokenLogprob] = []


class Assembler:
    """Collects one answer. Owner: the HTTP handler."""

    OBJECT = "chat.completion"

    def __init__(self, request: ChatRequest, completion_id: str, created_unix_s: int) -> None:
        self._request = request
        self._id = completion_id
        self._created = created_unix_s
        self._model = request.model
        self._digest = b""
        self._choices = [Choice() for _ in range(request.n)]
        self._n_chars = 0
        self._final: Final | None = None

    def add(self, events: Iterable[AnswerEvent]) -> None:
        """Take the next events.

        Raises:
            RemoteProtocolError: A choice nobody asked for, or more than MAX_ANSWER_CHARS.
        """
        for event in events:
            match event:
                case Delta():
                    self._delta(event)
                case Final():
                    self._final = event
                case Answering():
                    self._model = event.model
                    self._digest = event.model_digest
                case Waiting():
                    pass

    @property
    def usage(self) -> Usage | None:
        """The counts, once the answer is complete."""
        return None if self._final is None else self._final.usage

    def body(self) -> bytes:
        """Write the completion.

        Raises:
            RemoteProtocolError: The answer ended without its final statement.
        """
        final = self._final
        if final is None:
            raise RemoteProtocolError("the answer ended without its final statement")
        return _json.encode(
            {
                "id": self._id,
                "object": self.OBJECT,
                "created": self._created,
                "model": self._model,
                "system_fingerprint": shapes.fingerprint(self._digest),
                "choices": [self._choice(i, choice, final) for i, choice in enumerate(self._choices)],
                "usage": shapes.usage(final.usage),
            }
        )

    def _delta(self, event: Delta) -> None:
        shapes.check_choice(event.choice, self._request.n)
        choice = self._choices[event.choice]
        self._count(len(event.text) + len(event.reasoning))
        choice.text.append(event.text)
        choice.reasoning.append(event.reasoning)
        if self._request.logprobs:
            choice.logprobs += event.logprobs
        for delta in event.tool_calls:
            self._tool_call(delta, event.choice)

    def _tool_call(self, delta: ToolCallDelta, choice: int) -> None:
        calls = self._choices[choice].calls
        call = calls.get(delta.index)
        if call is None:
            if len(calls) >= MAX_TOOL_CALLS:
                raise RemoteProtocolError(f"the provider sent more than {MAX_TOOL_CALLS} tool calls")
            call = calls[delta.index] = _Call(shapes.call_id(delta, self._id, choice), delta.name)
        self._count(len(delta.arguments))
        call.arguments.append(delta.arguments)

    def _count(self, n_chars: int) -> None:
        self._n_chars += n_chars
        if self._n_chars > MAX_ANSWER_CHARS:
            raise RemoteProtocolError(f"the answer has more than {MAX_ANSWER_CHARS} characters")

    def _choice(self, index: int, choice: Choice, final: Final) -> Json:
        text = "".join(choice.text)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        reasoning = "".join(choice.reasoning)
        if reasoning:
            message["reasoning_content"] = message["reasoning"] = reasoning
        if choice.calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for _, call in sorted(choice.calls.items())
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": shapes.logprob_items(choice.logprobs), "refusal": None}
            if self._request.logprobs
            else None,
            "finish_reason": shapes.finish_reason(final, index),
        }
