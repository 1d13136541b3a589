"""Rerank as Jina and Cohere write it: request and response.   [GW-15] [GW-37]"""

from __future__ import annotations

import msgspec

from mcd.api import strict_json
from mcd.api.gathered import Gathered
from mcd.api.tasks import MAX_DOCUMENTS, RerankRequest, check
from mcd.errors import InvalidRequestError
from mcd.wire.payload import Private


class _Document(Private, frozen=True):
    text: str | None = None


class _Rerank(Private, frozen=True):
    model: str | None = None
    query: str | None = None
    documents: list[str | _Document] | None = None
    top_n: int | None = None
    return_documents: bool | None = None


class Shown(Private, frozen=True):
    """What of the result the client wants to see; the engine scores every document."""

    top_n: int
    with_documents: bool


_foreign = msgspec.json.Decoder(_Rerank)
_json = msgspec.json.Encoder()


def parse(body: bytes) -> tuple[RerankRequest, Shown]:
    """Read the body of POST /v1/rerank.

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
    """
    foreign = strict_json.decode(body, _foreign)
    for name in ("model", "query", "documents"):
        if getattr(foreign, name) is None:
            raise InvalidRequestError(f"{name} is missing", param=name)
    assert foreign.model is not None
    assert foreign.query is not None
    assert foreign.documents is not None
    texts = tuple(_text(document, index) for index, document in enumerate(foreign.documents[: MAX_DOCUMENTS + 1]))
    request = RerankRequest(model=foreign.model, query=foreign.query, documents=texts)
    check(request)
    top_n = len(texts) if foreign.top_n is None else foreign.top_n
    if top_n < 1:
        raise InvalidRequestError("top_n must be at least 1", param="top_n")
    return request, Shown(top_n, foreign.return_documents or False)


def body(request: RerankRequest, shown: Shown, gathered: Gathered) -> bytes:
    """Write the response, most relevant first; equals stay in the order of the request."""
    ranked = sorted(range(len(gathered.scores)), key=lambda index: (-gathered.scores[index], index))
    n_tokens = gathered.usage.n_prompt_tokens
    return _json.encode(
        {
            "object": "list",
            "model": gathered.model,
            "results": [
                {"index": index, "relevance_score": gathered.scores[index]}
                | ({"document": {"text": request.documents[index]}} if shown.with_documents else {})
                for index in ranked[: shown.top_n]
            ],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


def _text(document: str | _Document, index: int) -> str:
    text = document if isinstance(document, str) else document.text
    if text is None:
        raise InvalidRequestError(f"documents[{index}].text is missing", param=f"documents[{index}].text")
    return text
