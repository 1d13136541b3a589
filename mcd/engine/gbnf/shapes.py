"""What kind of value each keyword of a schema takes: one of another kind says nothing that could be held to.   Pure."""

from __future__ import annotations

from typing import Any

from mcd.engine.gbnf.rules import Rules

_SHAPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("properties", "$defs", "definitions"), (dict,)),
    **dict.fromkeys(("required", "enum", "prefixItems", "allOf", "anyOf", "oneOf"), (list,)),
    **dict.fromkeys(("items", "additionalProperties", "unevaluatedProperties"), (dict, bool)),
    "type": (str, list),
    **dict.fromkeys(("pattern", "format"), (str,)),
    **dict.fromkeys(("nullable", "uniqueItems"), (bool,)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (int, float)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties"), (int,)),
}
_WORDS: dict[tuple[type, ...], str] = {
    (dict,): "an object",
    (list,): "a list",
    (dict, bool): "a schema",
    (str, list): "a name or a list of names",
    (str,): "a text",
    (bool,): "true or false",
    (int, float): "a number",
    (int,): "a whole number",
}
_LISTS_OF_NAMES = ("required", "type")


def check_shapes(node: Any, rules: Rules) -> None:
    """See that the keywords of one schema have values of their kinds; those of the schemas within are not looked at.

    Raises:
        UnsupportedError: Names one that has not.
    """
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        shape = _SHAPES.get(key)
        if shape is None:
            continue
        if type(value) not in shape:  # exactly: to Python true is a number
            raise rules.fault(f"keyword {key} must be {_WORDS[shape]}")
        if key in _LISTS_OF_NAMES and isinstance(value, list) and not all(isinstance(name, str) for name in value):
            raise rules.fault(f"keyword {key} must hold names")
