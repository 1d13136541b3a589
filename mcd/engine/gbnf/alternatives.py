"""Alternatives of a union: which exclude each other, and which may long be taken for another.   Pure.

llama.cpp follows all that may still be meant, side by side. Two arrays that begin alike, each of such two again, are
four after two brackets and a thousand after ten, each compared with all others: that must not begin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mcd.engine.gbnf.rules import Rules
from mcd.engine.parsers.kinds import ALL, kinds_of

MAX_SHARED = 8
"""Properties in a row compared; objects that begin with more alike are rivals."""
CHARS_PER_EFFORT = 32
"""Of fixed values, which may be large, compared for as much as looking at one schema costs."""
_OPENS = frozenset({"object", "array"})


class Alternative:
    """One of a union's schemas, looked at once. Owner: the compilation of the union."""

    __slots__ = ("_fixed", "_is_known", "_kinds", "_order", "_values")

    def __init__(self, node: Any, resolve: Callable[[Any], Any], root: Any, rules: Rules) -> None:
        """``resolve`` follows references and puts ``allOf`` together.

        Raises:
            UnsupportedError: It is too large.
        """
        node = resolve(node)
        self._is_known = isinstance(node, dict)
        self._values = _listed(node, rules)
        self._kinds = _widened(kinds_of(node, root))
        required = {name: resolve(sub) for name, sub in _required(node).items()}
        self._fixed = {name: values for name, sub in required.items() if (values := _listed(sub, rules)) is not None}
        self._order = [(name, bool(kinds_of(sub, root) & _OPENS)) for name, sub in list(required.items())[:MAX_SHARED]]
        """The properties it is sure to begin with, and whether something opens in them."""

    def excludes(self, other: Alternative) -> bool:
        """Whether no value fits both, as ``oneOf`` wants it."""
        if not (self._is_known and other._is_known):
            return False
        if self._values is not None and other._values is not None:
            return self._values.isdisjoint(other._values)
        if not self._kinds & other._kinds:
            return True
        if self._kinds == other._kinds == {"object"}:
            return any(self._differs(other, name) for name in self._fixed)
        return False

    @property
    def may_be_plain(self) -> bool:
        """Whether it admits values in which nothing opens."""
        return bool(self._kinds - _OPENS)

    def rivals(self, other: Alternative) -> bool:
        """Whether both may still be meant when an object or array opens in them."""
        shared = self._kinds & other._kinds
        if self._values is not None or other._values is not None or not shared & _OPENS:
            return False
        if "array" in shared:
            return True
        for (name, opens), (other_name, other_opens) in zip(self._order, other._order, strict=False):
            if name != other_name or self._differs(other, name):
                return False
            if opens or other_opens:
                return True
        return True

    def _differs(self, other: Alternative, name: str) -> bool:
        return name in self._fixed and name in other._fixed and self._fixed[name].isdisjoint(other._fixed[name])


def are_apart(alternatives: Sequence[Alternative]) -> bool:
    """Whether no value fits two of them."""
    return all(one.excludes(other) for i, one in enumerate(alternatives) for other in alternatives[:i])


def n_rivals(alternatives: Sequence[Alternative]) -> int:
    """How many at most may be meant at once where something opens in them."""
    return max(sum(one is other or one.rivals(other) for other in alternatives) for one in alternatives)


def _required(node: Any) -> dict[str, Any]:
    """Declared properties that every such object has, in the schema's order."""
    if not isinstance(node, dict):
        return {}
    required, properties = node.get("required"), node.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return {}
    names = {name for name in required if isinstance(name, str)}
    return {name: sub for name, sub in properties.items() if name in names}


def _listed(node: Any, rules: Rules) -> frozenset[str] | None:
    """The only values a schema admits, as text; None when it does not list them."""
    if not isinstance(node, dict):
        return None
    fixed = [node["const"]] if "const" in node else node.get("enum")
    if not isinstance(fixed, list):
        return None
    values = frozenset(map(as_text, fixed))
    rules.spend(sum(map(len, values)) // CHARS_PER_EFFORT)
    return values


def as_text(value: Any) -> str:
    """Equal for equal JSON values only: to Python true is 1, and 1.0 has another text."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    """With whole numbers as integers."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {name: _whole(item) for name, item in value.items()}
    return value


def _widened(kinds: frozenset[str]) -> frozenset[str]:
    return (kinds | {"number"} if "integer" in kinds else kinds) & ALL
