"""A model's template, compiled in Jinja's sandbox, less what makes one small expression large.

Knows what templates on model hubs rely on: `tojson` that does not escape for HTML, `raise_exception`, `strftime_now`,
`break` and `continue`, the `generation` tag, lists that grow. Only the renderer's process runs this: the sandbox keeps
a template from everything but its inputs, and is no boundary against using time or memory.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import ItemsView, Iterator, KeysView, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Longer than any context: a token is a few bytes and a context a million tokens."""
MAX_REPEATED = 1_000_000
"""Largest product of ``*`` on texts and lists; templates draw lines with it."""
MAX_FACTOR = 1 << 64
"""Largest factor: squaring a number again and again makes one that takes minutes to multiply."""
MAX_INDENT = 64
MAX_REASON_CHARS = 200

PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"})
"""Methods of str that make a text as long as they are told."""
PADDING_FILTERS = ("center", "format", "indent", "lipsum", "wordwrap")


_CHANCE_FILTERS = ("random",)
"""An answer that goes on at another provider needs the same prompt there."""
_ADDRESS = re.compile(rb" at 0x[0-9a-f]+")
"""Part of what Python prints for a function and whatever else has no text: another one in every process."""
_UNIX_TIME = re.compile(r"%%|%[-_0^#]*\d*[EO]?s")
_WIDE = re.compile(r"\d{4}|\{")
"""In a format's specification: a width of thousands, or one that comes from a value."""


class TemplateRefusalError(Exception):
    """A template that is none, or refuses what it is given; the message may quote that."""


class PromptTooLongError(Exception):
    """The prompt exceeds MAX_PROMPT_BYTES."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``: marks what a model is trained on; says nothing while one is used."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute, which nobody changes

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Sandbox(jinja2.sandbox.SandboxedEnvironment):
    """Jinja's sandbox, minus the operators that make one small expression large.

    Lists and dicts may be changed, as templates do: what a rendering is given is its own copy.
    """

    intercepted_binops = frozenset(["*", "**", "%", "-"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in PADDING_METHODS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Formatting as Jinja makes it safe, without wide fields: a text is as long as its width says."""
        formatting = super().wrap_str_format(value)
        if formatting is not None:
            layout = value.__self__
            if any(spec and _WIDE.search(spec) for _, _, spec, _ in string.Formatter().parse(layout)):
                raise jinja2.exceptions.SecurityError("a format is too wide")
        return formatting

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
        elif operator == "-" and isinstance(left, KeysView | ItemsView):
            return [each for each in left if each not in right]  # Python's set has another order in every process
        return super().call_binop(context, operator, left, right)


class CompiledTemplate:
    """A template ready to render."""

    def __init__(self, source: str) -> None:
        """Compile it.

        Raises:
            TemplateRefusalError: It is no template.
        """
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals.pop("lipsum", None)
        for name in (*PADDING_FILTERS, *_CHANCE_FILTERS):
            environment.filters.pop(name, None)
        environment.filters["indent"] = _indent
        self._source = source
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {error.message}"[:MAX_REASON_CHARS]
            raise TemplateRefusalError(reason) from None
        except (jinja2.TemplateError, SyntaxError, RecursionError, ValueError, ArithmeticError, TypeError):
            raise TemplateRefusalError("it does not compile") from None

    def render(self, variables: Mapping[str, Any]) -> bytes:
        """The prompt as UTF-8. ``strftime_now`` tells of ``asked_ms``, one of the variables, and never of our clock.

        Raises:
            TemplateRefusalError: The template refuses these variables.
            PromptTooLongError: It becomes too long.
        """
        prompt = bytearray()
        try:
            asked_at = datetime.fromtimestamp(variables.get("asked_ms", 0) // 1000, UTC)
            for part in self._template.generate({**variables, "strftime_now": partial(_strftime, asked_at)}):
                prompt += part.encode("utf-8", "replace")
                if len(prompt) > MAX_PROMPT_BYTES:
                    raise PromptTooLongError
        except jinja2.TemplateError as error:
            raise TemplateRefusalError(str(error.message or "it fails")[:MAX_REASON_CHARS]) from None
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError):
            raise TemplateRefusalError("it fails on these messages") from None
        return self._without_addresses(bytes(prompt), variables)

    def _without_addresses(self, prompt: bytes, variables: Mapping[str, Any]) -> bytes:
        """The prompt as every process writes it: templates print ``spec.items`` and mean a member of that name."""
        if _ADDRESS.search(prompt) is None:
            return prompt
        given = (self._source + json.dumps(variables, ensure_ascii=False)).encode("utf-8", "replace")
        return _ADDRESS.sub(lambda match: match[0] if match[0] in given else b" at 0x0", prompt)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    separators = options.get("separators")
    return json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=min(indent, MAX_INDENT) if indent is not None else None,
        separators=tuple(separators) if separators else None,
        sort_keys=bool(options.get("sort_keys", False)),
        default=_listed,
    )


def _listed(value: Any) -> list[Any]:
    """What `map` and `select` leave behind; nothing else of ours is not JSON."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError


def _indent(text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise jinja2.exceptions.SecurityError("indent is too wide")
    return jinja2.filters.do_indent(text, width, first, blank)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message)[:MAX_REASON_CHARS])


def _strftime(asked_at: datetime, layout: str) -> str:
    # what libc writes for %s depends on the machine's time zone, although the date is in UTC
    unix_s = str(int(asked_at.timestamp()))
    return asked_at.strftime(_UNIX_TIME.sub(lambda found: found[0] if found[0] == "%%" else unix_s, str(layout)[:64]))
