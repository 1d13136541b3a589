"""Embeddings of an OpenAI-compatible server, as ours: floats or base64 to vectors of length 1, counted.   Pure."""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence

import msgspec

from mcd.api.tasks import EmbeddingsRequest
from mcd.wire.payload import MAX_DIMENSIONS, Private

UNIT_SLACK = 1e-4
"""How far from length 1 a vector may be to be passed on as it came."""


class _Item(Private, frozen=True):
    index: int
    embedding: str | list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(Private, frozen=True):
    data: list[_Item]
    usage: _Usage = msgspec.field(default_factory=_Usage)


class Embedded(Private, frozen=True):
    """A whole answer, in the order of the inputs."""

    vectors: tuple[bytes, ...]
    n_tokens: int
    """0 when the server does not count."""


_decoder = msgspec.json.Decoder(_Answer)


def request_body(request: EmbeddingsRequest, model: str) -> bytes:
    """The request as OpenAI's JSON; base64 is a quarter of the bytes, and servers that do not know it send floats."""
    body: dict[str, object] = {"model": model, "input": request.inputs, "encoding_format": "base64"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return msgspec.json.encode(body)


def read_answer(data: bytes, n_inputs: int, dimensions: int | None) -> Embedded:
    """Read a server's answer; takes a tenth of a millisecond a vector, so not in the worker's loop.

    Raises:
        ValueError: It is none, or not an answer to this request.
    """
    answer = _decoder.decode(data)
    items = {item.index: item.embedding for item in answer.data}
    if sorted(items) != list(range(n_inputs)):
        raise ValueError("other inputs than asked for")
    vectors = tuple(_vector(items[index], dimensions) for index in range(n_inputs))
    if len(set(map(len, vectors))) > 1:
        raise ValueError("vectors of different lengths")
    return Embedded(vectors, max(0, min(answer.usage.prompt_tokens, 2**31)))


def is_answer(data: bytes) -> bool:
    """Whether this is the answer to one input."""
    try:
        read_answer(data, 1, None)
    except ValueError:
        return False
    return True


def _vector(embedding: str | list[float], dimensions: int | None) -> bytes:
    numbers: Sequence[float] = embedding if isinstance(embedding, list) else _decoded(embedding)
    numbers = numbers[:dimensions]
    if not 1 <= len(numbers) <= MAX_DIMENSIONS or len(numbers) < (dimensions or 0):
        raise ValueError("not as many numbers as asked for")
    length = math.sqrt(sum(number * number for number in numbers))
    if not math.isfinite(length):
        raise ValueError("numbers that are none")
    if length and abs(length - 1) > UNIT_SLACK:
        numbers = [number / length for number in numbers]
    return struct.pack(f"<{len(numbers)}f", *numbers)


def _decoded(text: str) -> tuple[float, ...]:
    data = binascii.a2b_base64(text, strict_mode=True)
    return struct.unpack(f"<{len(data) // 4}f", data)
