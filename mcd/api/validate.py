"""The ranges of a chat request: one set of checks for the gateway and, again, for the engine.

The engine gets its request from a stranger's entry, so it trusts nothing the gateway has checked. Messages name the
parameter and the rule and never repeat a value.   [GW-12]
"""

from __future__ import annotations

import re
from functools import lru_cache

from mcd.api.images import DETAILS
from mcd.api.request import (
    MAX_IMAGES,
    MAX_MESSAGES,
    MAX_STOP,
    MAX_TOOLS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    ToolFunction,
)
from mcd.errors import InvalidRequestError
from mcd.wire.messages import MAX_OUTPUT_TOKENS
from mcd.wire.payload import MAX_CHOICES, MAX_TOOL_CALLS, MAX_TOP_LOGPROBS

MAX_MODEL_CHARS = 256
MAX_STOP_CHARS = 1024
"""A stop string is searched for in every decode step."""
MAX_LOGIT_BIAS = 1024
MAX_LOGIT_BIAS_ABS = 100.0
MAX_TOKEN_ID = 2**31 - 1
"""llama.cpp's token ids are signed 32 bit."""
MAX_TOP_K = 2**31 - 1
MAX_NAME_CHARS = 256
MAX_SCHEMA_BYTES = 256 * 1024
"""A schema becomes a grammar; real ones stay below 32 KiB."""

MAX_TEMPLATE_KWARGS = 16
MAX_TEMPLATE_VALUE_CHARS = 4096
"""Some templates take a sentence about who the model is."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})
FORMATS = frozenset({"text", "json_object", "json_schema"})
OUR_VARIABLES = frozenset(
    {"messages", "tools", "functions", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)
"""Of a chat template: what other members of the request say, and what only the engine knows."""
FUNCTION_CHOICE = "function:"

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_DIGITS = re.compile(r"0|[1-9][0-9]{0,9}")

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, MAX_OUTPUT_TOKENS),
    ("temperature", 0.0, 2.0),
    ("top_p", 0.0, 1.0),
    ("top_k", 0, MAX_TOP_K),
    ("min_p", 0.0, 1.0),
    ("seed", -(2**63), 2**63 - 1),
    ("frequency_penalty", -2.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
    ("repeat_penalty", 0.1, 2.0),
    ("n", 1, MAX_CHOICES),
    ("top_logprobs", 0, MAX_TOP_LOGPROBS),
)


def validate(request: ChatRequest) -> None:
    """Check every range and every relation between parameters.

    Raises:
        InvalidRequestError: The first violation; ``param`` names it as a path, e.g. ``messages[2].role``.
    """
    _need(1 <= len(request.model) <= MAX_MODEL_CHARS, "model", f"must have 1 to {MAX_MODEL_CHARS} characters")
    for name, least, most in _RANGES:
        value = getattr(request, name)
        # Written so that NaN, which compares false with everything, is out of range.
        if value is not None and not least <= value <= most:
            raise InvalidRequestError(f"{name} must be between {least} and {most}", param=name)
    _need(request.top_logprobs == 0 or request.logprobs, "top_logprobs", "needs logprobs to be true")
    _check_stop(request.stop)
    _check_logit_bias(request.logit_bias)
    _need(request.stream or not request.include_usage, "stream_options", "is only allowed when stream is true")
    if isinstance(request, CompletionRequest):
        _check_prompt(request)
        return
    effort = request.reasoning_effort
    _need(effort is None or effort in EFFORTS, "reasoning_effort", f"must be one of {_listed(EFFORTS)}")
    _check_template_kwargs(request.chat_template_kwargs)
    _check_messages(request.messages)
    _check_tools(request.tools)
    _check_tool_choice(request)
    _check_response_format(request)


def _need(holds: bool, param: str, rule: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{param} {rule}", param=param)


@lru_cache
def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))


def _check_prompt(request: CompletionRequest) -> None:
    _need(not request.messages, "messages", "are for chats; a completion has a prompt")
    prompt = request.prompt
    is_known = isinstance(prompt, str) or not prompt or (min(prompt) >= 0 and max(prompt) <= MAX_TOKEN_ID)
    _need(is_known, "prompt", f"must hold token ids from 0 to {MAX_TOKEN_ID}")


def _check_stop(stop: tuple[str, ...]) -> None:
    _need(len(stop) <= MAX_STOP, "stop", f"may hold at most {MAX_STOP} strings")
    for i, text in enumerate(stop):
        _need(1 <= len(text) <= MAX_STOP_CHARS, f"stop[{i}]", f"must have 1 to {MAX_STOP_CHARS} characters")


def _check_logit_bias(pairs: tuple[tuple[str, float], ...]) -> None:
    _need(len(pairs) <= MAX_LOGIT_BIAS, "logit_bias", f"may hold at most {MAX_LOGIT_BIAS} tokens")
    for token, bias in pairs:
        is_id = _DIGITS.fullmatch(token) is not None and int(token) <= MAX_TOKEN_ID
        _need(is_id, "logit_bias", "must map token ids, written as decimal strings")
        in_range = -MAX_LOGIT_BIAS_ABS <= bias <= MAX_LOGIT_BIAS_ABS
        _need(in_range, "logit_bias", f"must hold numbers between -{MAX_LOGIT_BIAS_ABS:g} and {MAX_LOGIT_BIAS_ABS:g}")


def _check_template_kwargs(pairs: tuple[tuple[str, bool | int | float | str], ...]) -> None:
    where = "chat_template_kwargs"
    _need(len(pairs) <= MAX_TEMPLATE_KWARGS, where, f"may hold at most {MAX_TEMPLATE_KWARGS} values")
    for name, value in pairs:
        _need(_VARIABLE.fullmatch(name) is not None, where, "must map names of variables to values")
        _need(name not in OUR_VARIABLES, where, f"must not hold any of {_listed(OUR_VARIABLES)}")
        n_chars = len(value) if isinstance(value, str) else 0
        _need(n_chars <= MAX_TEMPLATE_VALUE_CHARS, where, f"holds more than {MAX_TEMPLATE_VALUE_CHARS} characters")


def _check_messages(messages: tuple[ChatMessage, ...]) -> None:
    _need(1 <= len(messages) <= MAX_MESSAGES, "messages", f"must hold 1 to {MAX_MESSAGES} messages")
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
        _check_images(message, f"messages[{i}].content")
    n_images = sum(len(message.images) for message in messages)
    _need(n_images <= MAX_IMAGES, "messages", f"may hold at most {MAX_IMAGES} pictures")


def _check_message(message: ChatMessage, where: str) -> None:
    role = message.role
    _need(role in ROLES, f"{where}.role", f"must be one of {_listed(ROLES)}")
    _need(message.content is not None or role == "assistant", f"{where}.content", "is missing")
    _need(len(message.name or "") <= MAX_NAME_CHARS, f"{where}.name", f"has more than {MAX_NAME_CHARS} characters")
    if role == "tool":
        _need(bool(message.tool_call_id), f"{where}.tool_call_id", "is missing")
    id_chars = len(message.tool_call_id or "")
    _need(id_chars <= MAX_NAME_CHARS, f"{where}.tool_call_id", f"has more than {MAX_NAME_CHARS} characters")
    calls = message.tool_calls
    _need(not calls or role == "assistant", f"{where}.tool_calls", "are only allowed in assistant messages")
    _need(len(calls) <= MAX_TOOL_CALLS, f"{where}.tool_calls", f"may hold at most {MAX_TOOL_CALLS} calls")
    for k, call in enumerate(calls):
        at = f"{where}.tool_calls[{k}]"
        _need(call.type == "function", f"{at}.type", "must be function")
        _need(1 <= len(call.id) <= MAX_NAME_CHARS, f"{at}.id", f"must have 1 to {MAX_NAME_CHARS} characters")
        _check_function_name(call.function.name, f"{at}.function.name")


def _check_images(message: ChatMessage, where: str) -> None:
    _need(not message.images or message.role == "user", where, "may hold pictures only in messages of the user")
    least = 0
    for image in message.images:
        _need(image.detail in DETAILS, where, f"may ask for a detail of {_listed(DETAILS)}")
        _need(bool(image.data), where, "holds a picture without data")
        _need(least <= image.at <= len(message.content or ""), where, "places a picture outside its text")
        least = image.at


def _check_function_name(name: str, where: str) -> None:
    is_name = _FUNCTION_NAME.fullmatch(name) is not None
    _need(is_name, where, "must have 1 to 64 letters, digits or any of _ . : / -")


def _check_tools(tools: tuple[ToolFunction, ...]) -> None:
    _need(len(tools) <= MAX_TOOLS, "tools", f"may hold at most {MAX_TOOLS} tools")
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        at = f"tools[{i}].function"
        _check_function_name(tool.name, f"{at}.name")
        _need(tool.name not in seen, f"{at}.name", "occurs twice")
        seen.add(tool.name)
        if tool.parameters:
            _check_schema(bytes(tool.parameters), f"{at}.parameters")


def _check_schema(schema: bytes, where: str) -> None:
    _need(schema[:1] == b"{", where, "must be a JSON object")
    _need(len(schema) <= MAX_SCHEMA_BYTES, where, f"has more than {MAX_SCHEMA_BYTES} bytes")


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice in {"none", "auto"}:
        return
    is_named = choice.startswith(FUNCTION_CHOICE)
    _need(choice == "required" or is_named, "tool_choice", "must be none, auto, required or a named function")
    _need(bool(request.tools), "tool_choice", "is only allowed when tools are given")
    if is_named:
        names = {tool.name for tool in request.tools}
        _need(choice[len(FUNCTION_CHOICE) :] in names, "tool_choice", "names a function that is not in tools")


def _check_response_format(request: ChatRequest) -> None:
    wanted = request.response_format
    _need(wanted.type in FORMATS, "response_format.type", f"must be one of {_listed(FORMATS)}")
    where = "response_format.json_schema.schema"
    if wanted.type == "json_schema":
        _need(bool(wanted.schema), where, "is missing")
    if wanted.schema:
        _check_schema(bytes(wanted.schema), where)
