"""Tokenize, count and detokenize, as clients of llama-server and of vLLM write it.   [GW-38]

Both call the same thing by different names: ``content`` and ``prompt``, ``add_special`` and ``add_special_tokens``; and
they differ in whether a text gets the model's special tokens by default. The spelling of the text decides.
"""

from __future__ import annotations

import msgspec

from mcd.api import chat, strict_json
from mcd.api.gathered import Gathered
from mcd.api.tasks import DetokenizeRequest, TokenizeRequest, check
from mcd.errors import InvalidRequestError, UnsupportedError
from mcd.wire.payload import Private


class _Tokenize(Private, frozen=True):
    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class _Detokenize(Private, frozen=True):
    model: str | None = None
    tokens: list[int] | None = None


_tokenize = msgspec.json.Decoder(_Tokenize)
_detokenize = msgspec.json.Decoder(_Detokenize)
_json = msgspec.json.Encoder()


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Read the body of POST /tokenize: a text, or ``messages`` with what else a chat request has.

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
        UnsupportedError: Something asked for that is not done here.
    """
    foreign = strict_json.decode(body, _tokenize)
    if foreign.with_pieces:
        raise UnsupportedError("with_pieces is not supported; detokenize the ids one by one", param="with_pieces")
    has_messages = foreign.messages is not msgspec.UNSET and bytes(foreign.messages) != b"null"
    given = [foreign.content is not None, foreign.prompt is not None, has_messages]
    if sum(given) != 1:
        raise InvalidRequestError("give one of content, prompt and messages", param="content")
    if has_messages:
        request = chat.parse(body)
        return TokenizeRequest(model=request.model, chat=request)
    if foreign.model is None:
        raise InvalidRequestError("model is missing", param="model")
    named = foreign.add_special if foreign.add_special_tokens is None else foreign.add_special_tokens
    task = TokenizeRequest(
        model=foreign.model,
        text=foreign.prompt if foreign.content is None else foreign.content,
        add_special=foreign.prompt is not None if named is None else named,
        parse_special=foreign.parse_special is not False,
    )
    check(task)
    return task


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Read the body of POST /detokenize.

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
    """
    foreign = strict_json.decode(body, _detokenize)
    if foreign.model is None:
        raise InvalidRequestError("model is missing", param="model")
    if foreign.tokens is None:
        raise InvalidRequestError("tokens is missing", param="tokens")
    request = DetokenizeRequest(model=foreign.model, tokens=tuple(foreign.tokens))
    check(request)
    return request


def tokenize_body(gathered: Gathered) -> bytes:
    """Write the ids and how many they are."""
    return _json.encode({"model": gathered.model, "count": len(gathered.tokens), "tokens": gathered.tokens})


def detokenize_body(gathered: Gathered) -> bytes:
    """Write the text under both names."""
    text = "".join(gathered.texts)
    return _json.encode({"model": gathered.model, "content": text, "prompt": text})
