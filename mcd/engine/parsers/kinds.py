"""What a schema says of a parameter that was written without quotes: is ``5`` a number or a text?   Pure."""

from __future__ import annotations

import ast
import json
from typing import Any

import msgspec

from mcd.api.request import ToolFunction

ALL = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
MAX_DEPTH = 16
"""References and unions followed; deeper ones mean any kind."""
MAX_LOOKED = 1024
"""Schemas and fixed values looked at for one parameter; more mean any kind: references in unions multiply."""
MAX_LITERAL_CHARS = 65_536
"""Longest value that is tried as Python: some templates show such to the model, who then writes it."""
_WORDS = {"True": "true", "False": "false", "None": "null"}
_OF_PYTHON = {str: "string", bool: "boolean", type(None): "null", dict: "object", list: "array", float: "number"}


class ParameterKinds:
    """The JSON types that the parameters of one tool may have."""

    __slots__ = ("_properties", "_root")

    def __init__(self, tool: ToolFunction | None) -> None:
        self._root: Any = {}
        if tool is not None and tool.parameters:
            try:
                self._root = msgspec.json.decode(tool.parameters)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._root = {}
        properties = self._root.get("properties") if isinstance(self._root, dict) else None
        self._properties: dict[str, Any] = properties if isinstance(properties, dict) else {}

    def of(self, key: str) -> frozenset[str]:
        """Of one parameter; all when the schema does not say."""
        return kinds_of(self._properties.get(key), self._root)


def kinds_of(node: Any, root: Any) -> frozenset[str]:
    """The JSON types that a schema admits, as far as its keywords say so plainly."""
    return _Look(root).at(node, 0)


class _Look:
    """One look into a schema, which ends in time."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._n_left = MAX_LOOKED

    def at(self, node: Any, depth: int) -> frozenset[str]:
        self._n_left -= 1
        if not isinstance(node, dict) or depth > MAX_DEPTH or self._n_left < 0:
            return ALL
        if isinstance(node.get("$ref"), str):
            return self.at(find(self._root, node["$ref"]), depth + 1)
        admitted = _named(node)
        if isinstance(node.get("enum"), list):
            admitted &= self._values(node["enum"])
        if "const" in node:
            admitted &= _kinds_of_value(node["const"])
        for word in ("anyOf", "oneOf"):
            if isinstance(node.get(word), list):
                admitted &= self._any(node[word], depth)
        for part in node["allOf"] if isinstance(node.get("allOf"), list) else ():
            admitted &= self.at(part, depth + 1)
            if self._n_left < 0:
                break
        return admitted

    def _values(self, values: list[Any]) -> frozenset[str]:
        self._n_left -= len(values)
        return ALL if self._n_left < 0 else frozenset().union(*map(_kinds_of_value, values))

    def _any(self, parts: list[Any], depth: int) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for part in parts:
            found |= self.at(part, depth + 1)
            if found == ALL:  # also once it has looked enough
                break
        return found


def _named(node: dict[str, Any]) -> frozenset[str]:
    """What ``type`` says."""
    types = node.get("type")
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list):
        return ALL
    named = {kind for kind in types if isinstance(kind, str)}
    if node.get("nullable") is True:
        named.add("null")
    return ALL & (named | ({"integer"} if "number" in named else set()))


def find(root: Any, target: str) -> Any:
    """What a local reference points at; None for nothing."""
    node = root
    for part in target.lstrip("#").strip("/").split("/") if target not in ("#", "#/") else []:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            return None
        node = node[key]
    return node


def to_json(text: str, kinds: frozenset[str]) -> str:
    """An unquoted value as JSON text: as it is if that is of a kind the schema admits, else as a string."""
    shown = text.strip()
    for candidate in (shown, _WORDS.get(shown, "")):
        if (_kind_of_json(candidate) & kinds) - {"string"}:
            return candidate
    if kinds & {"object", "array"} and shown[:1] in ("{", "["):
        literal = _python_literal(shown)
        if literal is not None:
            return literal
    if kinds == {"string"} or not shown.startswith('"') or "string" not in _kind_of_json(shown):
        return json.dumps(text, ensure_ascii=False)
    return shown  # a quoted string where something else, or nothing, was said of it


def python_to_json(text: str, kinds: frozenset[str]) -> str:
    """A value written as JSON or as Python does, as JSON text."""
    shown = text.strip()
    if _kind_of_json(shown):
        return shown
    return _python_literal(shown) or to_json(shown, kinds)


def _kind_of_json(text: str) -> frozenset[str]:
    try:
        return _kinds_of_value(msgspec.json.decode(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()


def _kinds_of_value(value: Any) -> frozenset[str]:
    if isinstance(value, int) and not isinstance(value, bool):
        return frozenset({"integer", "number"})
    return frozenset({_OF_PYTHON[type(value)]})


def _python_literal(text: str) -> str | None:
    if len(text) > MAX_LITERAL_CHARS:
        return None
    try:
        shown = json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
        return shown.encode().decode()  # fails for half a surrogate pair, which a literal may spell: not to be sent
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
