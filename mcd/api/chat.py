"""OpenAI's chat completion request <-> our ChatRequest, and the canonical JSON that travels inside the seal.

Explicit nulls are the same as absent members and unknown members are ignored, because real clients send both. A
member that would change the answer and that we do not do is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mcd.api import strict_json
from mcd.api.foreign import Generation, Refused, checked, filled, refuse, required, spelling
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


class _Chat(Generation, frozen=True):
    messages: list[_Message] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[_Call] | None = None
    tool_choice: str | _Call | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None
    """vLLM's and llama.cpp's way to a template's own switches."""
    # Members that would change the answer and that we do not do:
    functions: Refused = msgspec.UNSET
    function_call: Refused = msgspec.UNSET
    audio: Refused = msgspec.UNSET
    modalities: list[str] | None = None
    web_search_options: Refused = msgspec.UNSET


_UNSUPPORTED = {
    "functions": "is OpenAI's retired form; use tools",
    "function_call": "is OpenAI's retired form; use tool_choice",
    "audio": "output is not supported",
    "web_search_options": "is not supported: a peer's engine has no network",
}

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
    spelled = spelling(foreign)
    if foreign.max_completion_tokens is not None:
        spelled["max_tokens"] = "max_completion_tokens"
    return checked(_convert(foreign), spelled)


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
    request = ChatRequest(
        model=required(foreign.model, "model"),
        messages=tuple(
            _message(message, f"messages[{i}]") for i, message in enumerate(required(foreign.messages, "messages"))
        ),
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
    )
    limit = foreign.max_tokens if foreign.max_completion_tokens is None else foreign.max_completion_tokens
    return filled(request, foreign, limit)


def _refuse_unsupported(foreign: _Chat) -> None:
    refuse(foreign, _UNSUPPORTED)
    if any(kind != "text" for kind in foreign.modalities or ()):
        raise UnsupportedError("modalities other than text are not supported", param="modalities")


def _message(foreign: _Message, where: str) -> ChatMessage:
    reasoning = foreign.reasoning if foreign.reasoning_content is None else foreign.reasoning_content
    content, images = _content(foreign.content, f"{where}.content")
    return ChatMessage(
        role=required(foreign.role, f"{where}.role"),
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
    given = required(given, where)
    return parse_image(required(given.url, f"{where}.url"), given.detail, at, f"{where}.url")


def _part(part: _Part, where: str) -> str:
    kind = required(part.type, f"{where}.type")
    if kind == "text":
        return required(part.text, f"{where}.text")
    if kind == "refusal":
        return required(part.refusal, f"{where}.refusal")
    raise UnsupportedError("only parts of type text and image_url are supported", param=where)


def _tool_call(foreign: _Call, where: str) -> ToolCall:
    function = required(foreign.function, f"{where}.function")
    return ToolCall(
        id=required(foreign.id, f"{where}.id"),
        function=FunctionCall(
            name=required(function.name, f"{where}.function.name"),
            arguments=required(function.arguments, f"{where}.function.arguments"),
        ),
        type=foreign.type or "function",
    )


def _tool(foreign: _Call, where: str) -> ToolFunction:
    if foreign.type not in {None, "function"}:
        raise UnsupportedError("only tools of type function are supported", param=f"{where}.type")
    function = required(foreign.function, f"{where}.function")
    return ToolFunction(
        name=required(function.name, f"{where}.function.name"),
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
    function = required(foreign.function, "tool_choice.function")
    return FUNCTION_CHOICE + required(function.name, "tool_choice.function.name")


def _response_format(foreign: _Format | None) -> ResponseFormat:
    if foreign is None:
        return ResponseFormat()
    kind = required(foreign.type, "response_format.type")
    if kind == "json_schema":
        wanted = required(foreign.json_schema, "response_format.json_schema")
        return ResponseFormat(type=kind, schema=_present(wanted.schema))
    schema = _present(foreign.schema)
    if kind == "json_object" and schema:
        return ResponseFormat(type="json_schema", schema=schema)
    return ResponseFormat(type=kind)
