"""The request every dialect is parsed into, and every engine parses again.

JSON schemas stay verbatim as `msgspec.Raw`. Where one may be absent the default is UNSET instead of None, because
msgspec decodes ``Raw | UnsetType`` but not ``Raw | None``.
"""

from __future__ import annotations

import msgspec

from mcd.wire.payload import Private

MAX_MESSAGES = 2048
MAX_STOP = 4
MAX_TOOLS = 128
MAX_IMAGES = 16
"""Pictures of one request. Each is a few hundred tokens and up to ten megabytes of an engine's memory."""


class FunctionCall(Private, frozen=True):
    """A function the model called earlier in the conversation; arguments stay a JSON string."""

    name: str
    arguments: str


class ToolCall(Private, frozen=True):
    """One call of an assistant message."""

    id: str
    function: FunctionCall
    type: str = "function"


class ChatImage(Private, frozen=True, omit_defaults=True):
    """A picture within a message, still encoded: only an engine looks into it."""

    data: bytes
    """A PNG, JPEG, WebP or GIF file; base64 in JSON."""
    at: int = 0
    """Characters of the content that come before it."""
    detail: str = "auto"
    """auto, high, or low: a smaller picture, fewer tokens."""


class ChatMessage(Private, frozen=True, omit_defaults=True):
    """One turn. ``content`` is text: text parts are joined on parsing, ``images`` say where they stood in it."""

    role: str
    """system, developer, user, assistant or tool."""
    content: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[ChatImage, ...] = ()


class ToolFunction(Private, frozen=True, omit_defaults=True):
    """A function the model may call; ``parameters`` is its JSON schema, verbatim."""

    name: str
    description: str = ""
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    strict: bool = False


class ResponseFormat(Private, frozen=True, omit_defaults=True):
    """``text``, ``json_object`` or ``json_schema`` (then ``schema`` holds it, verbatim)."""

    type: str = "text"
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ChatRequest(Private, frozen=True, omit_defaults=True, kw_only=True):
    """A chat completion as every room understands it; also the canonical JSON inside the envelope.

    Optional members are absent when the client did not set them, so the engine can apply the model's defaults.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    """Most output tokens per choice; OpenAI's max_completion_tokens wins over max_tokens."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    """llama.cpp's: what the answer holds already becomes so many times less likely; 1 does nothing."""
    logit_bias: tuple[tuple[str, float], ...] = ()
    """Pairs of token id (as text) and bias; OpenAI's JSON object, ordered."""
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    tools: tuple[ToolFunction, ...] = ()
    tool_choice: str = "auto"
    """none, auto, required, or ``function:NAME``."""
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    reasoning_effort: str | None = None
    chat_template_kwargs: tuple[tuple[str, bool | int | float | str], ...] = ()
    """Variables for the model's chat template, e.g. ``enable_thinking``; an object in the API, ordered."""
    stream: bool = False
    include_usage: bool = False
    """stream_options.include_usage; the gateway's affair, carried so that one struct holds the whole request."""


class CompletionRequest(ChatRequest, frozen=True, omit_defaults=True, kw_only=True):
    """A prompt to go on with as it is: no template, no calls, no thoughts. What chats add stays at its default."""

    messages: tuple[ChatMessage, ...] = ()
    prompt: str | tuple[int, ...]
    """Text, or token ids of the model."""
