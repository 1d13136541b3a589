"""Schemas put together: ``allOf`` and what stands beside a union; whether alternatives exclude each other.   Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mcd.engine.parsers.kinds import ALL, kinds_of

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
    if isinstance(one, list) and isinstance(other, list) and key in ("required", "allOf"):
        return [*one, *(part for part in other if part not in one)]
    if isinstance(one, list) and isinstance(other, list) and key == "enum":
        return [value for value in one if value in other]
    raise UnmergedError(key)


def _both_schemas(key: str, one: Any, other: Any) -> Any:
    if key == "type":
        kinds = kinds_of({"type": one}, {}) & kinds_of({"type": other}, {})
        return sorted(kinds - {"integer"} if "number" in kinds else kinds)
    if key == "additionalProperties" and False in (one, other):
        return False
    return {"allOf": [one, other]}


def are_apart(options: list[Any], resolve: Callable[[Any], Any], root: Any) -> bool:
    """Whether no value fits two of these alternatives, as ``oneOf`` wants it."""
    nodes = [resolve(option) for option in options]
    return all(_apart(nodes[i], nodes[j], resolve, root) for i in range(len(nodes)) for j in range(i))


def _apart(one: Any, other: Any, resolve: Callable[[Any], Any], root: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    fixed, fixed_too = _values(one), _values(other)
    if fixed is not None and fixed_too is not None:
        return not fixed & fixed_too
    kinds, kinds_too = kinds_of(one, root), kinds_of(other, root)
    if not _widened(kinds) & _widened(kinds_too):
        return True
    if kinds == kinds_too == {"object"}:
        shared = set(_names(one)) & set(_names(other))
        return any(
            _apart_values(resolve(one["properties"][name]), resolve(other["properties"][name])) for name in shared
        )
    return False


def _apart_values(one: Any, other: Any) -> bool:
    fixed, fixed_too = _values(one), _values(other)
    return fixed is not None and fixed_too is not None and not fixed & fixed_too


def _names(node: dict[str, Any]) -> list[str]:
    """Properties that every such object has."""
    required, properties = node.get("required"), node.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return []
    return [name for name in required if isinstance(name, str) and name in properties]


def _values(node: Any) -> frozenset[str] | None:
    """The only values a schema admits, as text; None when it does not list them."""
    if not isinstance(node, dict):
        return None
    if "const" in node:
        return frozenset({json.dumps(node["const"], sort_keys=True)})
    if isinstance(node.get("enum"), list):
        return frozenset(json.dumps(value, sort_keys=True) for value in node["enum"])
    return None


def _widened(kinds: frozenset[str]) -> frozenset[str]:
    return (kinds | {"number"} if "integer" in kinds else kinds) & ALL
