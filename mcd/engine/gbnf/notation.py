"""How values are written: as JSON, in Gemma's notation, or bare between two tags.   Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from mcd.engine.gbnf.rules import MAX_CODE_POINT, Ranges, literal


class Notation(msgspec.Struct, frozen=True):
    """One way of writing. ``inner`` is how the parts of an object or array are written in it."""

    name: str
    opens: str
    """Before a string."""
    closes: str
    string: str
    """Rule of any string; empty: bare text, ended by what `text_until` is told."""
    char: str
    """Rule of one character of a string whose length counts."""
    plain: Ranges
    """Characters that stand for themselves."""
    escaped: tuple[tuple[str, str], ...] = ()
    """Those that are written otherwise, and how."""
    value: str = "value"
    """Rule of any value."""
    has_bare_keys: bool = False
    stop: str = ""
    """What ends bare text."""

    def quoted(self, body: str) -> str:
        """An expression of a string's inside, with its quotes."""
        parts = [literal(self.opens) if self.opens else "", body, literal(self.closes) if self.closes else ""]
        return " ".join(part for part in parts if part)

    def dump(self, value: Any) -> str:
        """A fixed value as it is written."""
        if self is PYTHON:
            return repr(value)
        if isinstance(value, str) and not self.escaped:
            return self.opens + value + self.closes
        if self.has_bare_keys and isinstance(value, dict):
            return "{" + ",".join(f"{key}:{self.dump(item)}" for key, item in value.items()) + "}"
        if self.has_bare_keys and isinstance(value, list):
            return "[" + ",".join(map(self.dump, value)) + "]"
        text = json.dumps(value, ensure_ascii=False)
        return text if self is JSON else text.replace("<", "\\u003C")

    def key(self, name: str) -> str:
        """An object's key as it is written."""
        return name if self.has_bare_keys else self.dump(name)


JSON = Notation(
    "json",
    '"',
    '"',
    string="string",
    char="char",
    plain=((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, MAX_CODE_POINT)),
    escaped=(('"', '\\"'), ("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"), ("\f", "\\f")),
)
TAGGED = Notation(
    "tagged",
    '"',
    '"',
    string="tagged-string",
    char="tagged-char",
    plain=((0x20, 0x21), (0x23, 0x3B), (0x3D, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, MAX_CODE_POINT)),
    escaped=(*JSON.escaped, ("<", "\\u003C")),
    value="tagged-value",
)
"""JSON between two tags: what ends it there must not stand in its strings."""
PYTHON = Notation(
    "python",
    "'",
    "'",
    string="python-string",
    char="python-char",
    plain=((0x20, 0x26), (0x28, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, MAX_CODE_POINT)),
    escaped=(("'", "\\'"), ("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")),
    value="python-value",
)
"""Python's words, and its strings as it writes most of them; in double quotes they are JSON's."""
GEMMA = Notation(
    "gemma",
    '<|"|>',
    '<|"|>',
    string="gemma-string",
    char="[^<\\x00-\\x08]",
    plain=((0x09, 0x3B), (0x3D, 0xD7FF), (0xE000, MAX_CODE_POINT)),
    value="gemma-value",
    has_bare_keys=True,
)


def bare(stop: str) -> Notation:
    """Unquoted text that ``stop`` ends; objects and arrays are TAGGED."""
    return Notation(
        "bare",
        "",
        "",
        string="",
        char="[^<\\x00-\\x08]",
        plain=((0x09, 0x3B), (0x3D, 0xD7FF), (0xE000, MAX_CODE_POINT)),
        stop=stop,
    )
