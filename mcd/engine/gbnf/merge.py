"""Schemas put together: ``allOf`` and what stands beside a union.   Pure."""

from __future__ import annotations

from typing import Any

from mcd.engine.gbnf.alternatives import CHARS_PER_EFFORT, as_text
from mcd.engine.parsers.kinds import kinds_of

ANNOTATIONS = frozenset(
    {
        "$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description",
        "discriminator", "example", "examples", "externalDocs", "readOnly", "strict", "title", "writeOnly", "xml",
    }
)  # fmt: skip
"""Keywords that constrain nothing."""
_LARGER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_SMALLER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


class UnmergedError(Exception):
    """Two schemas that demand different things of one keyword; ``args[0]`` is its name."""


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A schema that demands what both do.

    Raises:
        UnmergedError: They cannot be put together by keyword.
    """
    for one, other in ((first, second), (second, first)):
        # a closed object forbids what only the other declares
        if one.get("additionalProperties", True) is not True and _declared(other) - _declared(one):
            raise UnmergedError("additionalProperties")
    both = dict(first)
    for key, value in second.items():
        if key in ANNOTATIONS or key not in both or both[key] == value:
            both.setdefault(key, value)
        else:
            both[key] = _both(key, both[key], value)
    return both


def _declared(node: dict[str, Any]) -> set[str]:
    properties = node.get("properties")
    return set(properties) if isinstance(properties, dict) else set()


def _both(key: str, one: Any, other: Any) -> Any:
    if key in ("type", "additionalProperties", "items"):
        return _both_schemas(key, one, other)
    if key in _LARGER | _SMALLER and isinstance(one, int | float) and isinstance(other, int | float):
        return max(one, other) if key in _LARGER else min(one, other)
    if key == "properties" and isinstance(one, dict) and isinstance(other, dict):
        both = {name: {"allOf": [node, other[name]]} if name in other else node for name, node in one.items()}
        return {**both, **{name: node for name, node in other.items() if name not in one}}
    if isinstance(one, list) and isinstance(other, list) and key == "required":
        return list(dict.fromkeys([*one, *other]))
    if isinstance(one, list) and isinstance(other, list) and key == "enum":
        admitted = set(map(as_text, other))
        return [value for value in one if as_text(value) in admitted]
    raise UnmergedError(key)


def _both_schemas(key: str, one: Any, other: Any) -> Any:
    if key == "type":
        kinds = kinds_of({"type": one}, {}) & kinds_of({"type": other}, {})
        return sorted(kinds - {"integer"} if "number" in kinds else kinds)
    if key == "additionalProperties" and False in (one, other):
        return False
    return {"allOf": [one, other]}


def size(node: dict[str, Any]) -> int:
    """What it costs to put it together with another: the entries of its lists and objects, and all of fixed values."""
    n_fixed = sum(len(as_text(node[key])) for key in ("const", "enum") if key in node)
    return sum(len(value) for value in node.values() if isinstance(value, dict | list)) + n_fixed // CHARS_PER_EFFORT
