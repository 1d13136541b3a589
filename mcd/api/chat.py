"""OpenAI's chat completion request <-> our ChatRequest, and the canonical JSON that travels inside the seal.

Explicit nulls are the same as absent members and unknown members are ignored, because real clients send both. A
member that would change the answer and that we do not do is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from mcd.api import strict_json
from mcd.api.images import parse_image
from mcd.api.request import (
    ChatImage,
    ChatMessage,
    ChatRequest,
    FunctionCall,
    ResponseFormat,
    ToolCall,
    ToolFunction,
)
from mcd.api.validate import FUNCTION_CHOICE, validate
from mcd.errors import InvalidRequestError, UnsupportedError
from mcd.wire.payload import Private

T = TypeVar("T")

__all__ = ["decode_canonical", "encode_canonical", "parse", "validate"]


class _Function(Private, frozen=True):
    name: str | None = None
    arguments: str | None = None
    description: str | None = None
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    strict: bool | None = None


class _Call(Private, frozen=True):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _ImageUrl(Private, frozen=True):
    url: str | None = None
    detail: str | None = None


class _Part(Private, frozen=True):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: str | _ImageUrl | None = None
    """OpenAI's is an object; a bare URL is what several local clients write."""


class _Message(Private, frozen=True):
    role: str | None = None
    content: str | list[_Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Schema(Private, frozen=True):
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Format(Private, frozen=True):
    type: str | None = None
    json_schema: _Schema | None = None
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """llama.cpp's spelling: a schema beside ``json_object``."""


class _StreamOptions(Private, frozen=True):
    include_usage: bool | None = None


class _Chat(Private, frozen=True):
    model: str | None = None
    messages: list[_Message] | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[_Call] | None = None
    tool_choice: str | _Call | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None
    """vLLM's and llama.cpp's way to a template's own switches."""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Members that would change the answer and that we do not do:
    functions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    function_call: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    audio: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    modalities: list[str] | None = None
    web_search_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    grammar: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    json_schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    guided_json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    guided_regex: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    guided_choice: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    guided_grammar: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    structured_outputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_OWN_FORM = "is another server's form; use response_format with a JSON schema"
_UNSUPPORTED = {
    "functions": "is OpenAI's retired form; use tools",
    "function_call": "is OpenAI's retired form; use tool_choice",
    "audio": "output is not supported",
    "web_search_options": "is not supported: a peer's engine has no network",
    "grammar": _OWN_FORM,
    "json_schema": _OWN_FORM,
    "guided_json": _OWN_FORM,
    "guided_regex": _OWN_FORM,
    "guided_choice": _OWN_FORM,
    "guided_grammar": _OWN_FORM,
    "structured_outputs": _OWN_FORM,
}

_NOTHING = frozenset({b"null", b"[]", b'""', b'"none"'})

_foreign = msgspec.json.Decoder(_Chat)
_canonical = msgspec.json.Decoder(ChatRequest)
_encoder = msgspec.json.Encoder()


def parse(body: bytes) -> ChatRequest:
    """Read the body of POST /v1/chat/completions.   [GW-10] [GW-12]

    Raises:
        InvalidRequestError: Malformed, of a wrong type or out of range; ``param`` names the place.
        UnsupportedError: Something asked for that is not text; ``param`` names it.
    """
    foreign = strict_json.decode(body, _foreign)
    _refuse_unsupported(foreign)
    request = _convert(foreign)
    try:
        validate(request)
    except InvalidRequestError as error:
        raise _as_written(error, foreign) from None
    return request


def encode_canonical(request: ChatRequest) -> bytes:
    """Write what is sealed: the members that were set, in the struct's order."""
    return _encoder.encode(request)


def decode_canonical(body: bytes) -> ChatRequest:
    """Read what was sealed, checking everything again: it comes from a stranger.

    Raises:
        InvalidRequestError: As for `parse`.
    """
    request = strict_json.decode(body, _canonical)
    validate(request)
    return request


def _convert(foreign: _Chat) -> ChatRequest:
    limit = foreign.max_tokens if foreign.max_completion_tokens is None else foreign.max_completion_tokens
    options = foreign.stream_options
    stop = (foreign.stop,) if isinstance(foreign.stop, str) else tuple(foreign.stop or ())
    return ChatRequest(
        model=_required(foreign.model, "model"),
        messages=tuple(
            _message(message, f"messages[{i}]") for i, message in enumerate(_required(foreign.messages, "messages"))
        ),
        max_tokens=None if limit == -1 else limit,  # local clients write -1 for "no limit"
        temperature=foreign.temperature,
        top_p=foreign.top_p,
        top_k=0 if foreign.top_k == -1 else foreign.top_k,  # vLLM's spelling of "off"
        min_p=foreign.min_p,
        seed=foreign.seed,
        stop=stop,
        frequency_penalty=foreign.frequency_penalty or 0.0,
        presence_penalty=foreign.presence_penalty or 0.0,
        logit_bias=tuple((foreign.logit_bias or {}).items()),
        n=1 if foreign.n is None else foreign.n,
        logprobs=foreign.logprobs or False,
        top_logprobs=foreign.top_logprobs or 0,
        tools=tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(foreign.tools or ())),
        tool_choice=_tool_choice(foreign.tool_choice),
        parallel_tool_calls=foreign.parallel_tool_calls is not False,
        response_format=_response_format(foreign.response_format),
        reasoning_effort=foreign.reasoning_effort,
        chat_template_kwargs=tuple(
            (name, value) for name, value in (foreign.chat_template_kwargs or {}).items() if value is not None
        ),
        stream=foreign.stream or False,
        include_usage=options is not None and options.include_usage is True,
    )


def _as_written(error: InvalidRequestError, foreign: _Chat) -> InvalidRequestError:
    """Name the limit the way the client spelled it."""
    if error.param != "max_tokens" or foreign.max_completion_tokens is None:
        return error
    return InvalidRequestError(
        error.message.replace("max_tokens", "max_completion_tokens"), param="max_completion_tokens"
    )


def _refuse_unsupported(foreign: _Chat) -> None:
    for name, why in _UNSUPPORTED.items():
        raw = getattr(foreign, name)
        if raw and bytes(raw) not in _NOTHING:
            raise UnsupportedError(f"{name} {why}", param=name)
    if any(kind != "text" for kind in foreign.modalities or ()):
        raise UnsupportedError("modalities other than text are not supported", param="modalities")
    if foreign.stream_options is not None and not foreign.stream:
        raise InvalidRequestError("stream_options is only allowed when stream is true", param="stream_options")


def _required(value: T | None, where: str) -> T:
    if value is None:
        raise InvalidRequestError(f"{where} is missing", param=where)
    return value


def _message(foreign: _Message, where: str) -> ChatMessage:
    reasoning = foreign.reasoning if foreign.reasoning_content is None else foreign.reasoning_content
    content, images = _content(foreign.content, f"{where}.content")
    return ChatMessage(
        role=_required(foreign.role, f"{where}.role"),
        content=content,
        name=foreign.name,
        reasoning_content=reasoning,
        tool_calls=tuple(
            _tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(foreign.tool_calls or ())
        ),
        tool_call_id=foreign.tool_call_id,
        images=images,
    )


def _content(content: str | Sequence[_Part] | None, where: str) -> tuple[str | None, tuple[ChatImage, ...]]:
    """The text of all parts, and the pictures with their places in it."""
    if content is None or isinstance(content, str):
        return content, ()
    text = ""
    images: list[ChatImage] = []
    for i, part in enumerate(content):
        at = f"{where}[{i}]"
        if part.type == "image_url":
            images.append(_image(part, len(text), f"{at}.image_url"))
        else:
            text += _part(part, at)
    return text, tuple(images)


def _image(part: _Part, at: int, where: str) -> ChatImage:
    given = part.image_url
    if isinstance(given, str):
        return parse_image(given, None, at, where)
    given = _required(given, where)
    return parse_image(_required(given.url, f"{where}.url"), given.detail, at, f"{where}.url")


def _part(part: _Part, where: str) -> str:
    kind = _required(part.type, f"{where}.type")
    if kind == "text":
        return _required(part.text, f"{where}.text")
    if kind == "refusal":
        return _required(part.refusal, f"{where}.refusal")
    raise UnsupportedError("only parts of type text and image_url are supported", param=where)


def _tool_call(foreign: _Call, where: str) -> ToolCall:
    function = _required(foreign.function, f"{where}.function")
    return ToolCall(
        id=_required(foreign.id, f"{where}.id"),
        function=FunctionCall(
            name=_required(function.name, f"{where}.function.name"),
            arguments=_required(function.arguments, f"{where}.function.arguments"),
        ),
        type=foreign.type or "function",
    )


def _tool(foreign: _Call, where: str) -> ToolFunction:
    if foreign.type not in {None, "function"}:
        raise UnsupportedError("only tools of type function are supported", param=f"{where}.type")
    function = _required(foreign.function, f"{where}.function")
    return ToolFunction(
        name=_required(function.name, f"{where}.function.name"),
        description=function.description or "",
        parameters=_present(function.parameters),
        strict=function.strict or False,
    )


def _present(raw: msgspec.Raw | msgspec.UnsetType) -> msgspec.Raw | msgspec.UnsetType:
    """Treat null as absent."""
    return msgspec.UNSET if raw and bytes(raw) == b"null" else raw


def _tool_choice(foreign: str | _Call | None) -> str:
    if foreign is None:
        return "auto"
    if isinstance(foreign, str):
        if foreign.startswith(FUNCTION_CHOICE):  # our own spelling is not part of OpenAI's dialect
            raise InvalidRequestError("tool_choice must be none, auto, required or an object", param="tool_choice")
        return foreign
    if foreign.type != "function":
        raise UnsupportedError("tool_choice may name only a tool of type function", param="tool_choice.type")
    function = _required(foreign.function, "tool_choice.function")
    return FUNCTION_CHOICE + _required(function.name, "tool_choice.function.name")


def _response_format(foreign: _Format | None) -> ResponseFormat:
    if foreign is None:
        return ResponseFormat()
    kind = _required(foreign.type, "response_format.type")
    if kind == "json_schema":
        wanted = _required(foreign.json_schema, "response_format.json_schema")
        return ResponseFormat(type=kind, schema=_present(wanted.schema))
    schema = _present(foreign.schema)
    if kind == "json_object" and schema:
        return ResponseFormat(type="json_schema", schema=schema)
    return ResponseFormat(type=kind)
