"""Cases for protocol/vectors/kinds.json: sealed requests of every kind at their bounds, and each bound broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mcd.api.tasks import MAX_DOCUMENTS, MAX_INPUTS, MAX_TEXT_CHARS, MAX_TEXT_TOKENS
from mcd.api.validate import MAX_MODEL_CHARS, MAX_TOKEN_ID
from mcd.wire.payload import MAX_DIMENSIONS, MAX_KIND_CHARS
from scripts.vector_cases import spell

Vector = dict[str, Any]
_RUNS = re.compile(rb'(?:("a",)){64,}|(?:("d",)){64,}|(?:(7,)){64,}')
MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CALL = {"id": "c1", "function": {"name": "f", "arguments": "{}"}, "type": "function"}
EVERY_MEMBER: Vector = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u", "name": "n"},
        {"role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [CALL]},
        {"role": "tool", "content": "t", "tool_call_id": "c1"},
    ],
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.5,
    "seed": -1,
    "stop": ["."],
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "repeat_penalty": 1.5,
    "logit_bias": [["7", -100.0]],
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [TOOL],
    "tool_choice": "function:f",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "schema": {"type": "object"}},
    "reasoning_effort": "low",
    "chat_template_kwargs": [["enable_thinking", False]],
    "stream": True,
    "include_usage": True,
}
"""In the order of the table in 06, none at its default."""


def kinds() -> Iterator[Vector]:
    """Whole bodies of a sealed request; ``param`` is what the failure must name."""
    yield from _accepted()
    yield from _refused()
    yield from _chats()


def good(comment: str, kind: str, ids: list[str] | None = None, **members: Any) -> Vector:
    """One that an engine takes."""
    body = {"kind": kind, "request": {"model": "m", **members}}
    return {"comment": f"{kind}: {comment}", "spec": ids or ["GW-14"], "bytes": _folded(_json(body))}


def bad(comment: str, kind: str, param: str, error: str = "invalid_request", **members: Any) -> Vector:
    """One that it refuses."""
    ids = ["ENV-34"] if param == "kind" else ["GW-14"]
    return good(comment, kind, ids, **members) | {"error": error, "param": param}


def _accepted() -> Iterator[Vector]:
    yield good("texts and token ids", "embeddings", inputs=["one", [1, 2, 3], "two"])
    yield good("most inputs, most dimensions", "embeddings", inputs=["a"] * MAX_INPUTS, dimensions=MAX_DIMENSIONS)
    yield good("least dimensions, largest id", "embeddings", inputs=[[0, MAX_TOKEN_ID]], dimensions=1)
    yield good("a query and documents", "rerank", query="q", documents=["one", ""])
    yield good("most documents", "rerank", query="q", documents=["d"] * MAX_DOCUMENTS)
    yield good("a text", "tokenize", text="Hello")
    yield good("an empty text, both switches", "tokenize", text="", add_special=True, parse_special=False)
    yield good("the longest text", "tokenize", text="a" * MAX_TEXT_CHARS)
    yield good("a conversation", "tokenize", chat={"model": "m", "messages": MESSAGES})
    yield good("token ids", "detokenize", tokens=[0, MAX_TOKEN_ID])
    yield good("no token ids", "detokenize", tokens=[])
    yield good("a chat", "chat", messages=MESSAGES)
    yield good("a text", "completions", max_tokens=5, n=2, logprobs=True, prompt="Once")
    yield good("token ids, largest", "completions", prompt=[0, MAX_TOKEN_ID])


def _refused() -> Iterator[Vector]:
    yield bad("a model of no name", "embeddings", "model", model="", inputs=["a"])
    yield bad("a model of too long a name", "embeddings", "model", model="m" * (MAX_MODEL_CHARS + 1), inputs=["a"])
    yield bad("no inputs", "embeddings", "input", inputs=[])
    yield bad("too many inputs", "embeddings", "input", inputs=["a"] * (MAX_INPUTS + 1))
    yield bad("an empty text", "embeddings", "input[1]", inputs=["a", ""])
    yield bad("no token ids", "embeddings", "input[0]", inputs=[[]])
    yield bad("an id below 0", "embeddings", "input[0]", inputs=[[-1]])
    yield bad("an id above 2^31 - 1", "embeddings", "input[0]", inputs=[[MAX_TOKEN_ID + 1]])
    yield bad("no dimensions", "embeddings", "dimensions", inputs=["a"], dimensions=0)
    yield bad("too many dimensions", "embeddings", "dimensions", inputs=["a"], dimensions=MAX_DIMENSIONS + 1)
    yield bad("an empty query", "rerank", "query", query="", documents=["d"])
    yield bad("no documents", "rerank", "documents", query="q", documents=[])
    yield bad("too many documents", "rerank", "documents", query="q", documents=["d"] * (MAX_DOCUMENTS + 1))
    yield bad("neither text nor conversation", "tokenize", "content")
    chat = {"model": "m", "messages": MESSAGES}
    yield bad("both text and conversation", "tokenize", "content", text="a", chat=chat)
    yield bad("too long a text", "tokenize", "content", text="a" * (MAX_TEXT_CHARS + 1))
    yield bad("a conversation without messages", "tokenize", "messages", chat=chat | {"messages": []})
    yield bad("an id below 0", "completions", "prompt", prompt=[-1])
    yield bad("messages too", "completions", "messages", prompt="a", messages=MESSAGES)
    yield bad("a limit out of range", "completions", "max_tokens", prompt="a", max_tokens=0)
    yield bad("too many ids", "detokenize", "tokens", tokens=[7] * (MAX_TEXT_TOKENS + 1))
    yield bad("an id below 0", "detokenize", "tokens", tokens=[-1])
    for kind in ("images", "Chat", "", "k" * MAX_KIND_CHARS):
        yield bad("a kind of later versions, or none", kind, "kind", "unsupported_parameter")
    yield bad("a kind of too long a name", "k" * (MAX_KIND_CHARS + 1), "", "body_invalid") | {"spec": ["ENV-20"]}


def _chats() -> Iterator[Vector]:
    """What 06 says of a chat's members, where it is not OpenAI's form."""
    yield good("every member", "chat", **EVERY_MEMBER)
    yield good("pictures", "chat", messages=[MESSAGES[0] | {"images": [{"data": "aaaa"}, {"data": "aaaa", "at": 5}]}])

    yield bad("tools as OpenAI wraps them", "chat", "tools[0]", messages=MESSAGES, tools=[{"function": TOOL}])
    yield bad("a tool choice as OpenAI wraps it", "chat", "tool_choice", messages=MESSAGES, tool_choice={"name": "f"})
    schema = "response_format.json_schema.schema"
    wrapped = {"type": "json_schema", "json_schema": {"schema": {}}}
    yield bad("a schema as OpenAI wraps it", "chat", schema, messages=MESSAGES, response_format=wrapped)
    yield bad("content in parts", "chat", "messages[0].content", messages=[{"role": "user", "content": []}])
    yield bad("no content", "chat", "messages[0].content", messages=[{"role": "user"}])
    yield bad("a role that is none", "chat", "messages[0].role", messages=[{"role": "robot", "content": ""}])
    yield bad("no messages", "chat", "messages", messages=[])
    yield bad("too hot", "chat", "temperature", messages=MESSAGES, temperature=2.5)
    yield bad("alternatives without logprobs", "chat", "top_logprobs", messages=MESSAGES, top_logprobs=1)
    twice = bad("a member twice", "chat", "n", messages=MESSAGES, n=1)
    yield twice | {"bytes": twice["bytes"].replace(b'"n":1'.hex(), b'"n":1,"n":1'.hex())}


def _folded(data: bytes) -> str | list[Any]:
    """As `spell`, with runs of one list item folded too."""
    pieces: list[Any] = []
    at = 0
    for run in _RUNS.finditer(data):
        item = next(group for group in run.groups() if group)
        spelled = spell(data[at : run.start()])
        pieces += spelled if isinstance(spelled, list) else [spelled]
        pieces.append({"repeat": item.hex(), "times": len(run[0]) // len(item)})
        at = run.end()
    spelled = spell(data[at:])
    return [*pieces, *(spelled if isinstance(spelled, list) else [spelled])] if pieces else spelled


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
