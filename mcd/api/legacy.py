"""OpenAI's older completions, a prompt that the model goes on with as it is: request, answer, stream.   [GW-17] [GW-39]

Editors, evaluation harnesses and base models need it: there is no chat template between the user and the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from mcd.api import completion, foreign, shapes, sse, strict_json
from mcd.api.foreign import Generation
from mcd.api.request import ChatRequest, CompletionRequest
from mcd.api.shapes import Json
from mcd.errors import UnsupportedError
from mcd.wire.payload import Delta, Final, TokenLogprob

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, and what other servers keep to."""
OBJECT = "text_completion"


class _Completion(Generation, frozen=True):
    prompt: str | list[str | int | list[int]] | None = None
    logprobs: int | bool | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    response_format: foreign.Refused = msgspec.UNSET
    tools: foreign.Refused = msgspec.UNSET


_UNSUPPORTED = {
    "response_format": "is for chats; send messages to /v1/chat/completions",
    "tools": "are for chats; send messages to /v1/chat/completions",
}

_foreign = msgspec.json.Decoder(_Completion)


def parse(body: bytes) -> CompletionRequest:
    """Read the body of POST /v1/completions.

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
        UnsupportedError: Something asked for that is not done here; ``param`` names it.
    """
    given = strict_json.decode(body, _foreign)
    _refuse_unsupported(given)
    n_logprobs = None if given.logprobs is None or given.logprobs is False else int(given.logprobs)
    request = CompletionRequest(
        model=foreign.required(given.model, "model"),
        prompt=_prompt(foreign.required(given.prompt, "prompt")),
        logprobs=n_logprobs is not None,
        top_logprobs=n_logprobs or 0,
    )
    request = foreign.filled(request, given, DEFAULT_MAX_TOKENS if given.max_tokens is None else given.max_tokens)
    return foreign.checked(request, {**foreign.spelling(given), "top_logprobs": "logprobs"})


def _refuse_unsupported(given: _Completion) -> None:
    foreign.refuse(given, _UNSUPPORTED)
    if given.echo:
        raise UnsupportedError("echo is not supported: only what is generated comes back", param="echo")
    if given.suffix:
        raise UnsupportedError("suffix is not supported; write the model's own fill-in tokens", param="suffix")
    if given.best_of is not None and given.best_of != (given.n or 1):
        raise UnsupportedError("best_of is not supported; ask for n and choose", param="best_of")


def _prompt(given: str | Sequence[str | int | list[int]]) -> str | tuple[int, ...]:
    """A text or one list of token ids; a list that holds one of these is taken for it."""
    if isinstance(given, str):
        return given
    ids = tuple(value for value in given if isinstance(value, int))
    if ids and len(ids) == len(given):
        return ids
    if len(given) != 1:
        raise UnsupportedError(
            "prompt may hold one text or one list of token ids; send several requests, side by side", param="prompt"
        )
    only = given[0]
    return only if isinstance(only, str) else tuple(only) if isinstance(only, list) else ids


class Assembler(completion.Assembler):
    """Collects one answer. Owner: the HTTP handler."""

    OBJECT = OBJECT

    def _choice(self, index: int, choice: completion.Choice, final: Final) -> Json:
        logprobs = _logprobs(choice.logprobs, 0) if self._request.logprobs else None
        return _choice(index, "".join(choice.text), logprobs, shapes.finish_reason(final, index))


class StreamEncoder(sse.StreamEncoder):
    """One answer's event stream. Owner: the HTTP handler that writes it."""

    OBJECT = OBJECT

    def __init__(self, request: ChatRequest, completion_id: str, created_unix_s: int) -> None:
        super().__init__(request, completion_id, created_unix_s)
        self._n_chars = [0] * request.n

    def _delta(self, event: Delta, parts: list[bytes]) -> None:
        index = event.choice
        shapes.check_choice(index, self._request.n)
        logprobs = (
            _logprobs(event.logprobs, self._n_chars[index]) if self._request.logprobs and event.logprobs else None
        )
        self._n_chars[index] += len(event.text)
        if event.text or logprobs:
            parts.append(self._written(_choice(index, event.text, logprobs, None)))

    def _end(self, choice: int, reason: str, parts: list[bytes]) -> None:
        parts.append(self._written(_choice(choice, "", None, reason)))


def _choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> Json:
    """The older form: rows instead of objects. The chosen token is among the best, even where it was not."""
    texts = [token.token.decode(errors="replace") for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [shapes.logprob_of(token.logprob) for token in tokens],
        "top_logprobs": [
            {text: shapes.logprob_of(token.logprob)}
            | {top.token.decode(errors="replace"): shapes.logprob_of(top.logprob) for top in token.top}
            for text, token in zip(texts, tokens, strict=True)
        ],
        "text_offset": list(itertools.accumulate((len(text) for text in texts[:-1]), initial=offset)) if texts else [],
    }
