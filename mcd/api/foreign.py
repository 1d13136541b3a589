"""What chats and completions have in common as clients write it: limits, sampling, streaming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from mcd.api.request import ChatRequest
from mcd.api.validate import validate
from mcd.errors import InvalidRequestError, UnsupportedError
from mcd.wire.payload import Private

Refused = msgspec.Raw | msgspec.UnsetType
"""The type of a member that would change the answer and that we do not do."""
R = TypeVar("R", bound=ChatRequest)
T = TypeVar("T")


class StreamOptions(Private, frozen=True):
    """OpenAI's object of that name."""

    include_usage: bool | None = None


class Generation(Private, frozen=True):
    """The members that any request for generated text may have; None is absent."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    """vLLM's spelling of llama.cpp's."""
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Other servers' ways to bind an answer:
    grammar: Refused = msgspec.UNSET
    json_schema: Refused = msgspec.UNSET
    guided_json: Refused = msgspec.UNSET
    guided_regex: Refused = msgspec.UNSET
    guided_choice: Refused = msgspec.UNSET
    guided_grammar: Refused = msgspec.UNSET
    structured_outputs: Refused = msgspec.UNSET


_OTHER_FORM = "is another server's form; use response_format with a JSON schema in a chat"
_OTHER_FORMS = dict.fromkeys(
    (
        "grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
        "structured_outputs",
    ),
    _OTHER_FORM,
)  # fmt: skip
_NOTHING = frozenset({b"null", b"[]", b'""', b'"none"'})


def refuse(foreign: Generation, unsupported: Mapping[str, str]) -> None:
    """Refuse members that would change the answer, each with the reason; those of other servers too.   [GW-13]

    Raises:
        UnsupportedError: ``param`` names it.
    """
    for name, why in {**unsupported, **_OTHER_FORMS}.items():
        raw = getattr(foreign, name)
        if raw and bytes(raw) not in _NOTHING:
            raise UnsupportedError(f"{name} {why}", param=name)


def required(value: T | None, where: str) -> T:
    """A member that must be there.

    Raises:
        InvalidRequestError: It is not.
    """
    if value is None:
        raise InvalidRequestError(f"{where} is missing", param=where)
    return value


def filled(request: R, foreign: Generation, max_tokens: int | None) -> R:
    """The request with these members.

    Raises:
        InvalidRequestError: ``stream_options`` without ``stream``.
    """
    options = foreign.stream_options
    if options is not None and not foreign.stream:
        raise InvalidRequestError("stream_options is only allowed when stream is true", param="stream_options")
    penalty = foreign.repetition_penalty if foreign.repeat_penalty is None else foreign.repeat_penalty
    return msgspec.structs.replace(
        request,
        max_tokens=None if max_tokens == -1 else max_tokens,  # local clients write -1 for "no limit"
        temperature=foreign.temperature,
        top_p=foreign.top_p,
        top_k=0 if foreign.top_k == -1 else foreign.top_k,  # vLLM's spelling of "off"
        min_p=foreign.min_p,
        seed=foreign.seed,
        stop=(foreign.stop,) if isinstance(foreign.stop, str) else tuple(foreign.stop or ()),
        frequency_penalty=foreign.frequency_penalty or 0.0,
        presence_penalty=foreign.presence_penalty or 0.0,
        repeat_penalty=1.0 if penalty is None else penalty,
        logit_bias=tuple((foreign.logit_bias or {}).items()),
        n=1 if foreign.n is None else foreign.n,
        stream=foreign.stream or False,
        include_usage=options is not None and options.include_usage is True,
    )


def checked(request: R, spelled: Mapping[str, str]) -> R:
    """The request, every range of it checked.

    Args:
        request: What was read.
        spelled: Members that the client knows by another name.

    Raises:
        InvalidRequestError: ``param`` names the place, as the client spells it.
    """
    try:
        validate(request)
    except InvalidRequestError as error:
        ours = error.param or ""
        if ours not in spelled:
            raise
        raise InvalidRequestError(error.message.replace(ours, spelled[ours]), param=spelled[ours]) from None
    return request


def spelling(foreign: Generation) -> dict[str, str]:
    """What the client calls by another name than we do."""
    is_vllms = foreign.repeat_penalty is None and foreign.repetition_penalty is not None
    return {"repeat_penalty": "repetition_penalty"} if is_vllms else {}
