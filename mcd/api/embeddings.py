"""OpenAI's embeddings: request and response.   [GW-15] [GW-36]"""

from __future__ import annotations

import binascii
import struct

import msgspec

from mcd.api import strict_json
from mcd.api.gathered import Gathered
from mcd.api.tasks import EmbeddingsRequest, check
from mcd.errors import InvalidRequestError
from mcd.wire.payload import Private

FORMATS = ("float", "base64")


class _Embeddings(Private, frozen=True):
    model: str | None = None
    input: str | list[str | int | list[int]] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


_foreign = msgspec.json.Decoder(_Embeddings)
_json = msgspec.json.Encoder()


def parse(body: bytes) -> tuple[EmbeddingsRequest, bool]:
    """Read the body of POST /v1/embeddings; whether vectors are wanted as base64.

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
    """
    foreign = strict_json.decode(body, _foreign)
    if foreign.model is None:
        raise InvalidRequestError("model is missing", param="model")
    if foreign.input is None:
        raise InvalidRequestError("input is missing", param="input")
    wanted = foreign.encoding_format or "float"
    if wanted not in FORMATS:
        raise InvalidRequestError("encoding_format must be float or base64", param="encoding_format")
    request = EmbeddingsRequest(model=foreign.model, inputs=_inputs(foreign.input), dimensions=foreign.dimensions)
    check(request)
    return request, wanted == "base64"


def body(gathered: Gathered, *, as_base64: bool) -> bytes:
    """Write the response."""
    n_tokens = gathered.usage.n_prompt_tokens
    return _json.encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else _floats(vector)}
                for index, vector in enumerate(gathered.vectors)
            ],
            "model": gathered.model,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


def _inputs(foreign: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """One text or one list of token ids is one input; a list of either is several."""
    if isinstance(foreign, str):
        return (foreign,)
    ids = tuple(value for value in foreign if isinstance(value, int))
    if ids and len(ids) == len(foreign):
        return (ids,)
    if ids:
        raise InvalidRequestError("input must hold texts, or lists of token ids, or token ids alone", param="input")
    return tuple(value if isinstance(value, str) else tuple(value) for value in foreign if not isinstance(value, int))


def _base64(vector: bytes) -> str:
    return binascii.b2a_base64(vector, newline=False).decode()


def _floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)
