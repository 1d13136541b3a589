"""Strings of a length, a pattern or a format.   Pure."""

from __future__ import annotations

import json
from typing import Any

from mcd.engine.gbnf.notation import Notation
from mcd.engine.gbnf.pattern import compile_pattern
from mcd.engine.gbnf.rules import Rules, text_until

MAX_LENGTH = 1000
"""llama.cpp refuses repetitions beyond 2000."""

_DAY = '"0" [1-9] | [1-2] [0-9] | "30"'
_DATE = (
    '[1-9] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" (' + _DAY + ' | "31") | ("0" [469] | "11") "-" (' + _DAY + ")"
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_CLOCK})'
_HEX = "[0-9a-fA-F]"
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])'
_LABEL = "[a-zA-Z0-9] ([a-zA-Z0-9-]{0,30} [a-zA-Z0-9])?"
_HOST = f'{_LABEL} ("." {_LABEL}){{0,6}}'
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "duration": '"P" ([0-9]{1,4} "D" ("T" [0-9]{1,4} [HMS])? | [0-9]{1,4} [WMY] | "T" [0-9]{1,4} [HMS])',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
    "email": f'[a-zA-Z0-9_%+-]{{1,32}} ("." [a-zA-Z0-9_%+-]{{1,32}}){{0,3}} "@" {_LABEL} ("." {_LABEL}){{1,4}}',
    "hostname": _HOST,
    "ipv4": f'{_BYTE} "." {_BYTE} "." {_BYTE} "." {_BYTE}',
    "ipv6": f'{_HEX}{{1,4}} (":" {_HEX}{{1,4}}){{7}}',
    "uri": f'[a-z] [a-z0-9+.-]{{0,15}} "://" {_HOST} (":" [1-9] [0-9]{{0,3}})? ("/" [a-zA-Z0-9._~%-]{{0,64}}){{0,16}}',
}
"""The insides of strings of a format; each at most what the standard admits, in its common shape."""
FORMATS["uri"] = FORMATS["uri"].replace("~%-", "~-")  # a percent sign begins an escape
FORMATS["url"] = FORMATS["uri"]


def string(rules: Rules, node: dict[str, Any], notation: Notation) -> str:
    """A string that a schema admits, quotes and all."""
    least, most = bounds(rules, node, "minLength", "maxLength", MAX_LENGTH)
    for key in ("pattern", "format"):
        if key in node and (least or most is not None or (key == "pattern" and "format" in node)):
            raise rules.fault(f"keyword {key} beside minLength, maxLength or another of its kind is not supported")
    if "pattern" in node:
        return rules.rule("text", notation.quoted(compile_pattern(rules, node["pattern"], notation)))
    if "format" in node:
        form = node["format"]
        if not isinstance(form, str) or form not in FORMATS:
            raise rules.fault(f"format {json.dumps(form)[:40]} is not supported")
        return rules.rule(
            f"format-{form}", notation.quoted(f"({FORMATS[form]})" if "|" in FORMATS[form] else FORMATS[form])
        )
    if not least and most is None:
        return rules.shared(notation.string) if notation.string else text_until(rules, notation.stop)
    char = notation.char if notation.char.startswith("[") else rules.shared(notation.char)
    return rules.rule("text", notation.quoted(rules.times(char, least, most)))


def bounds(rules: Rules, node: dict[str, Any], low: str, high: str, limit: int) -> tuple[int, int | None]:
    """Least and most of a count."""
    least, most = node.get(low, 0), node.get(high)
    for bound, key in ((least, low), (most, high)):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or not 0 <= bound <= limit):
            raise rules.fault(f"{key} must be 0 to {limit}")
    if most is not None and most < least:
        raise rules.fault(f"{high} is less than {low}")
    return least, most
