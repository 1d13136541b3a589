"""Values for the vectors, derived from messages.toml alone: good ones at their bounds, and one for each bound broken.

Nothing here looks at the structs in `mcd.wire`, so a vector and the code can disagree.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Type = dict[str, Any]

NAMED = {
    "Alias": ("modelcloud-nano", ["Upper", "-first", "white space", "newline\n", ""]),
    "Capability": ("json-schema", ["UPPER", "under_score", "newline\n", ""]),
    "PlainName": ("Kitchen (4090)", [" leading", "tab\t", "<b>", "newline\n", "\u0430"]),
    "NetworkName": ("main", ["Main", "-main", "a.b", "main\n", ""]),
    "Region": ("eu-west", ["EU", "a b", "eu\n"]),
    "Address": ("/ip4/192.0.2.1/tcp/4101", ["ip4/192.0.2.1", "/ip4/ 192.0.2.1", "/ip4/192.0.2.1\n", "/"]),
}
"""For each patterned type one good text, and texts of allowed length that break the pattern."""

WRONG_KIND: dict[str, list[Any]] = {
    "uint": [None, "1", 1.0, True],
    "bytes": [None, "text", 0],
    "str": [None, b"bytes", 0],
    "float": [None, "1.0", True],
    "list": [None, 0, b""],
    "struct": [None, 0, b""],
}
"""Values of another kind, which must not be converted."""
FREE_BYTES = 3
"""Length of a sample whose bound allows it."""


class Cases:
    """Sample values for the types of one messages.toml."""

    def __init__(self, toml: dict[str, Any]) -> None:
        self._structs = toml["structs"]

    def typical(self, form: Type) -> Any:
        """An ordinary value."""
        match form["type"]:
            case "uint":
                return min(max(form["min"], 7), form["max"])
            case "bytes":
                n = max(form.get("min", 0), min(form.get("max", FREE_BYTES), FREE_BYTES))
                return bytes((0x10 + at) & 0xFF for at in range(n))
            case "str":
                return NAMED[form["name"]][0] if "pattern" in form else "text"[: form.get("max", 4)]
            case "float":
                return 0.25
            case "list":
                return [self.typical(form["of"])] * max(form.get("min", 0), min(form.get("max", 1), 1))
            case _:
                return [self.typical(entry) for entry in self._structs[form["name"]]["fields"]]

    def edge(self, form: Type, *, high: bool) -> Any:
        """The value at the lower or upper bound; ordinary where there is none."""
        bound = form.get("max" if high else "min")
        match form["type"]:
            case "struct":
                return [self.edge(entry, high=high) for entry in self._structs[form["name"]]["fields"]]
            case "list" if bound is not None:
                return [self.edge(form["of"], high=high)] * bound
            case "uint":
                return bound
            case "bytes" if bound is not None:
                return b"\x5a" * bound
            case "str" if bound is not None:
                return self.text(form, bound)
            case _:
                return self.typical(form)

    def text(self, form: Type, length: int) -> str:
        """A text of this length; of the type's alphabet where it has a pattern."""
        if "pattern" in form and form["name"] == "Address":
            return "/" + "a" * (length - 1)
        return "a" * length

    def broken(self, form: Type) -> Iterator[tuple[str, Any]]:
        """Values that break one bound, each with what it breaks."""
        kind = form["type"]
        for value in WRONG_KIND[kind]:
            yield f"is {type(value).__name__}", value
        yield from self._out_of_bounds(form)
        if kind == "float":
            for value in ("nan", "inf", "-inf"):
                yield f"is {value}", float(value)
        if "pattern" in form:
            for text in NAMED[form["name"]][1]:
                if not re.fullmatch(form["pattern"], text, re.DOTALL) or text.endswith("\n"):
                    yield f"breaks its pattern: {text!a}", text
        if kind == "list":
            for what, value in self.broken(form["of"]):
                yield f"[0] {what}", [value]
        if kind == "struct":
            yield from self.broken_fields(form["name"], self._structs[form["name"]]["fields"])

    def _out_of_bounds(self, form: Type) -> Iterator[tuple[str, Any]]:
        if "max" not in form:
            return
        low, high = form["min"], form["max"]
        match form["type"]:
            case "uint":
                yield "is below its bound", low - 1
                yield "is above its bound", high + 1
            case "bytes" | "str":
                make = bytes if form["type"] == "bytes" else lambda length: self.text(form, length)
                if low > 0:
                    yield "is too short", make(low - 1)
                yield "is too long", make(high + 1)
            case "list":
                yield "has too many elements", [self.typical(form["of"])] * (high + 1)

    def broken_fields(self, owner: str, fields: list[Type]) -> Iterator[tuple[str, list[Any]]]:
        """Arrays of a message or struct with one field broken, or too short."""
        good = [self.typical(entry) for entry in fields]
        required = sum(1 for entry in fields if "default" not in entry)
        if required:
            yield f"{owner} without {fields[required - 1]['field']}", copy.deepcopy(good[: required - 1])
        for at, entry in enumerate(fields):
            for what, value in self.broken(entry):
                yield f"{owner}.{entry['field']} {what}", [*good[:at], value, *good[at + 1 :]]


def as_json(value: Any) -> Any:
    """A value as vectors spell it: byte strings in hex, long runs as {"repeat", "times"}."""
    if isinstance(value, bytes):
        return spell(value)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


RUN_BYTES = 256
_BLOCK_BYTES = RUN_BYTES // 2
"""Every run of RUN_BYTES holds a whole block at a multiple of this."""
_STRIDE_BYTES = 64 * 1024
"""Compared at once: vectors hold runs of 9 MiB."""


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each run of RUN_BYTES or more; a pattern with a back-reference takes seconds for 9 MiB."""
    floor = at = 0
    while at + _BLOCK_BYTES <= len(data):
        first = data[at : at + 1]
        if at >= floor and data.count(first, at, at + _BLOCK_BYTES) == _BLOCK_BYTES:
            start, end = at, _end_of_run(data, at)
            while start > floor and data[start - 1] == first[0]:
                start -= 1
            if end - start >= RUN_BYTES:
                yield start, end
            floor = end
        at = max(at + _BLOCK_BYTES, floor // _BLOCK_BYTES * _BLOCK_BYTES)


def _end_of_run(data: bytes, at: int) -> int:
    """Where the run of the byte at ``at`` ends."""
    first = data[at : at + 1]
    stride = first * _STRIDE_BYTES
    while data.startswith(stride, at):
        at += _STRIDE_BYTES
    rest = data[at : at + _STRIDE_BYTES]
    return at + len(rest) - len(rest.lstrip(first))


def spell(data: bytes) -> str | list[Any]:
    """Hex; where a byte repeats RUN_BYTES times or more, an array of hex and {"repeat": HEX, "times": N}."""
    pieces: list[Any] = []
    at = 0
    for start, end in _runs(data):
        if start > at:
            pieces.append(data[at:start].hex())
        pieces.append({"repeat": data[start : start + 1].hex(), "times": end - start})
        at = end
    if not pieces:
        return data.hex()
    if at < len(data):
        pieces.append(data[at:].hex())
    return pieces


def unspell(spelled: str | list[Any]) -> bytes:
    """The bytes behind `spell`."""
    if isinstance(spelled, str):
        return bytes.fromhex(spelled)
    parts = (bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["repeat"]) * p["times"] for p in spelled)
    return b"".join(parts)
