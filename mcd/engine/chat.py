"""A conversation to a prompt, through the model's own Jinja template, sandboxed and limited.

The template comes with the model file: code of a stranger that sees prompts. The sandbox keeps it from everything
but its inputs; it is no boundary against using time or memory, so operators that build large values are refused,
memory has a ceiling and an alarm ends a loop. What gets through all three costs this process, which is disposable.
"""

from __future__ import annotations

import json
import resource
import signal
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox
import msgspec

from mcd.api.request import ChatMessage, ChatRequest
from mcd.engine.tools import THINK_OPEN
from mcd.errors import InvalidRequestError, UnsupportedError

RENDER_TIMEOUT_S = 2.0
MAX_TEMPLATE_CHARS = 256 * 1024
MAX_PROMPT_CHARS = 16 * 1024 * 1024
MAX_REPEATED = 1_000_000
"""Largest product of ``*`` on texts and lists; templates draw lines with it."""
MAX_FACTOR = 1 << 64
"""Largest factor: squaring a number again and again makes one that takes minutes to multiply."""
MAX_INDENT = 64
MEMORY_BYTES = 512 * 1024 * 1024
"""What a rendering may add to the process: a conversation of the largest size takes a tenth."""

PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"})
"""Methods of str that make a text as long as they are told."""
PADDING_FILTERS = ("center", "format", "indent", "lipsum", "wordwrap")


class _TimeoutError(Exception):
    """The alarm went off."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, minus the operators that make one small expression large."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in PADDING_METHODS) and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            sizes = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
            times = [abs(value) for value in (left, right) if isinstance(value, int)]
            if (sizes and times and sizes[0] * times[0] > MAX_REPEATED) or max(times, default=0) > MAX_FACTOR:
                raise jinja2.exceptions.SecurityError("too large")
        elif operator == "%" and isinstance(left, str):
            raise jinja2.exceptions.SecurityError("formatting with % is not available")
        elif operator == "**":
            raise jinja2.exceptions.SecurityError("powers are not available")
        return super().call_binop(context, operator, left, right)


class Template:
    """A compiled chat template. Owner: LlamaBackend."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        """Compile it.

        Raises:
            ValueError: It is no template.
        """
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ValueError("the chat template is too long")
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        environment.globals.pop("lipsum", None)
        for name in PADDING_FILTERS:
            environment.filters.pop(name, None)
        environment.filters["indent"] = _indent
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError("the chat template does not compile") from error

    @property
    def has_tools(self) -> bool:
        """Whether it shows tools to the model."""
        return "tools" in self.source

    @property
    def may_think(self) -> bool:
        """Whether the model writes its thoughts between think tags."""
        return THINK_OPEN in self.source

    def render(self, request: ChatRequest, *, with_tools: bool) -> str:
        """The prompt for a request.

        Raises:
            InvalidRequestError: The template refuses this conversation, or needs too much for it.
        """
        variables: dict[str, Any] = {
            "messages": [_message(message) for message in request.messages],
            "add_generation_prompt": True,
            **self._tokens,
        }
        if with_tools:
            variables["tools"] = [_tool(tool) for tool in request.tools]
        if request.reasoning_effort is not None:
            variables["reasoning_effort"] = request.reasoning_effort
            variables["enable_thinking"] = request.reasoning_effort != "none"
        try:
            return _limited(lambda: self._generate(variables))
        except _TimeoutError:
            raise _refusal(f"it takes more than {RENDER_TIMEOUT_S:.0f} s") from None
        except jinja2.TemplateError as error:
            raise _refusal(str(error.message or "it fails")) from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError, MemoryError):
            raise _refusal("it fails on these messages") from None

    def _generate(self, variables: dict[str, Any]) -> str:
        parts: list[str] = []
        n_chars = 0
        for part in self._template.generate(**variables):
            n_chars += len(part)
            if n_chars > MAX_PROMPT_CHARS:
                raise jinja2.exceptions.SecurityError("the prompt becomes too long")
            parts.append(part)
        return "".join(parts)


def no_template() -> UnsupportedError:
    """The error of a chat with a model that has no template."""
    return UnsupportedError(
        "this model's file has no chat template that can be used, so it cannot answer chats; choose an "
        "instruction-tuned model",
        param="messages",
    )


def _limited(render: Callable[[], str]) -> str:
    """Run under an alarm and a ceiling of memory; the worker is single-threaded, so both mean this rendering."""
    before = signal.signal(signal.SIGALRM, _on_alarm)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = _address_space_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (min([ceiling, *(x for x in (soft, hard) if x >= 0)]), hard))
    signal.setitimer(signal.ITIMER_REAL, RENDER_TIMEOUT_S)
    try:
        return render()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _address_space_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):  # no such file on this platform: no ceiling either
        return 1 << 62


def _on_alarm(number: int, frame: FrameType | None) -> NoReturn:
    raise _TimeoutError


def _refusal(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the model's chat template refuses these messages: {why[:200]}", param="messages")


def _message(message: ChatMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,  # templates know the older word
        "content": message.content or "",
    }
    if message.name is not None:
        shown["name"] = message.name
    if message.reasoning_content is not None:
        shown["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        shown["tool_calls"] = [
            {
                "id": call.id,
                "type": call.type,
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return shown


def _arguments(text: str) -> Any:
    """As an object, which templates print with tojson; as it is when the model once wrote no JSON."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _tool(tool: Any) -> dict[str, Any]:
    parameters = msgspec.json.decode(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    separators = options.get("separators")
    return json.dumps(
        value,
        ensure_ascii=bool(options.get("ensure_ascii", False)),
        indent=min(indent, MAX_INDENT) if indent is not None else None,
        separators=tuple(separators) if separators else None,
        sort_keys=bool(options.get("sort_keys", False)),
    )


def _indent(text: str, width: int = 4, first: bool = False) -> str:
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise jinja2.exceptions.SecurityError("indent is too wide")
    return textwrap.indent(str(text), " " * width)[0 if first else width :]


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message)[:200])


def _strftime_now(layout: str) -> str:
    return datetime.now(UTC).strftime(str(layout)[:64])
