"""Requests that generate nothing: embeddings, rerank, tokenize, detokenize, and the kind of every request.

One struct a kind, the same at both ends of the seal: `encode_request` writes what the entry seals, `decode_request`
reads it in the engine and checks everything again, because it comes from a stranger.
"""

from __future__ import annotations

import msgspec

from mcd.api import chat, strict_json
from mcd.api.request import ChatRequest, CompletionRequest
from mcd.api.validate import MAX_MODEL_CHARS, MAX_TOKEN_ID, validate
from mcd.errors import InvalidRequestError, UnsupportedError
from mcd.wire.payload import MAX_DIMENSIONS, Part, Private, Scores, Text, Tokens, Vectors

MAX_INPUTS = 2048
"""OpenAI's limit."""
MAX_DOCUMENTS = 1024
"""What rerank services take."""
MAX_TEXT_CHARS = 1024 * 1024
"""Of one text: the longest contexts."""
MAX_TEXT_TOKENS = 262_144


class EmbeddingsRequest(Private, frozen=True, omit_defaults=True, kw_only=True):
    """Texts or token ids to turn into vectors."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    """Only the first so many numbers of each vector, scaled to length 1 again."""


class RerankRequest(Private, frozen=True, omit_defaults=True, kw_only=True):
    """Documents to score against a query."""

    model: str
    query: str
    documents: tuple[str, ...]


class TokenizeRequest(Private, frozen=True, omit_defaults=True, kw_only=True):
    """A text, or a conversation as the model's template writes it, to split into token ids."""

    model: str
    text: str | None = None
    chat: ChatRequest | None = None
    add_special: bool = False
    """Of a text: with the tokens that the model puts around every text."""
    parse_special: bool = True
    """Of a text: special tokens that are written out count as such."""


class DetokenizeRequest(Private, frozen=True, omit_defaults=True, kw_only=True):
    """Token ids to join into text."""

    model: str
    tokens: tuple[int, ...]


TaskRequest = EmbeddingsRequest | RerankRequest | TokenizeRequest | DetokenizeRequest
AnyRequest = ChatRequest | TaskRequest

KINDS: dict[type[AnyRequest], str] = {
    ChatRequest: "chat",
    CompletionRequest: "completions",
    EmbeddingsRequest: "embeddings",
    RerankRequest: "rerank",
    TokenizeRequest: "tokenize",
    DetokenizeRequest: "detokenize",
}
PARTS: dict[type[TaskRequest], type[Part]] = {
    EmbeddingsRequest: Vectors,
    RerankRequest: Scores,
    TokenizeRequest: Tokens,
    DetokenizeRequest: Text,
}
"""What the frames of each kind's answer hold."""
CAPABILITIES: dict[type[AnyRequest], str] = {**KINDS, DetokenizeRequest: "tokenize"}
"""What a provider must announce for each kind."""

_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[AnyRequest]] = {
    KINDS[struct]: msgspec.json.Decoder(struct)
    for struct in (CompletionRequest, EmbeddingsRequest, RerankRequest, TokenizeRequest, DetokenizeRequest)
}


def encode_request(request: AnyRequest) -> bytes:
    """Write what is sealed: the members that were set, in the struct's order."""
    return _encoder.encode(request)


def decode_request(kind: str, body: bytes) -> AnyRequest:
    """Read what was sealed, checking everything again.   [ENV-34]

    Raises:
        UnsupportedError: A kind that this version does not know.
        InvalidRequestError: Malformed or out of range; ``param`` names the place.
    """
    if kind == "chat":
        return chat.decode_canonical(body)
    if kind not in _decoders:
        raise UnsupportedError("this engine does not know this kind of request", param="kind")
    request = strict_json.decode(body, _decoders[kind])
    if isinstance(request, ChatRequest):
        validate(request)
    else:
        check(request)
    return request


def check(request: TaskRequest) -> None:
    """Check every range.

    Raises:
        InvalidRequestError: The first violation; ``param`` names it.
    """
    _need(1 <= len(request.model) <= MAX_MODEL_CHARS, "model", f"must have 1 to {MAX_MODEL_CHARS} characters")
    match request:
        case EmbeddingsRequest():
            _check_embeddings(request)
        case RerankRequest():
            _need(bool(request.query), "query", "must not be empty")
            _check_length(request.query, "query")
            n_documents = len(request.documents)
            _need(1 <= n_documents <= MAX_DOCUMENTS, "documents", f"must hold 1 to {MAX_DOCUMENTS} documents")
            for index, document in enumerate(request.documents):
                _check_length(document, f"documents[{index}]")
        case TokenizeRequest():
            _check_tokenize(request)
        case DetokenizeRequest():
            _need(len(request.tokens) <= MAX_TEXT_TOKENS, "tokens", f"may hold at most {MAX_TEXT_TOKENS} token ids")
            _check_ids(request.tokens, "tokens")


def _check_embeddings(request: EmbeddingsRequest) -> None:
    _need(1 <= len(request.inputs) <= MAX_INPUTS, "input", f"must hold 1 to {MAX_INPUTS} texts or lists of token ids")
    for index, value in enumerate(request.inputs):
        where = f"input[{index}]"
        _need(len(value) > 0, where, "must not be empty")
        if isinstance(value, str):
            _check_length(value, where)
        else:
            _check_ids(value, where)
    wanted = request.dimensions
    _need(wanted is None or 1 <= wanted <= MAX_DIMENSIONS, "dimensions", f"must be between 1 and {MAX_DIMENSIONS}")


def _check_tokenize(request: TokenizeRequest) -> None:
    is_one = (request.text is None) != (request.chat is None)
    _need(is_one, "content", "or messages must be given, and not both")
    if request.text is not None:
        _check_length(request.text, "content")
    if request.chat is not None:
        validate(request.chat)


def _check_length(text: str, where: str) -> None:
    _need(len(text) <= MAX_TEXT_CHARS, where, f"has more than {MAX_TEXT_CHARS} characters")


def _check_ids(tokens: tuple[int, ...], where: str) -> None:
    _need(
        not tokens or (min(tokens) >= 0 and max(tokens) <= MAX_TOKEN_ID),
        where,
        f"must hold token ids from 0 to {MAX_TOKEN_ID}",
    )


def _need(holds: bool, param: str, rule: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{param} {rule}", param=param)
