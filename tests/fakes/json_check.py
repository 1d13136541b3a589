"""A second opinion on JSON Schema: whether a value fits, with none of our compiler's code."""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float),
}  # fmt: skip


def fits(value: Any, schema: Any, root: Any) -> bool:
    """Whether ``value`` is valid under ``schema``."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        node = root
        for part in schema["$ref"].lstrip("#").strip("/").split("/"):
            node = node[part] if part else node
        if not fits(value, node, root):
            return False
    return all(check(value, schema, root) for check in (_general, _strings, _numbers, _arrays, _objects))


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    if kind == "number" and isinstance(value, bool):
        return False
    return isinstance(value, TYPES[kind])


def _equal(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _general(value: Any, schema: dict[str, Any], root: Any) -> bool:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if schema.get("nullable") and value is None:
        return True
    if kinds and not any(_is(value, kind) for kind in kinds):
        return False
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    return _joined(value, schema, root)


def _joined(value: Any, schema: dict[str, Any], root: Any) -> bool:
    if not all(fits(value, part, root) for part in schema.get("allOf", [])):
        return False
    if "anyOf" in schema and not any(fits(value, part, root) for part in schema["anyOf"]):
        return False
    return "oneOf" not in schema or sum(fits(value, part, root) for part in schema["oneOf"]) == 1


def _strings(value: Any, schema: dict[str, Any], root: Any) -> bool:
    del root
    if not isinstance(value, str):
        return True
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    return "format" not in schema or FORMATS[schema["format"]](value)


def _numbers(value: Any, schema: dict[str, Any], root: Any) -> bool:
    del root
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return False
    return "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]


def _arrays(value: Any, schema: dict[str, Any], root: Any) -> bool:
    if not isinstance(value, list):
        return True
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    prefix = schema.get("prefixItems", [])
    if not all(fits(item, part, root) for item, part in zip(value, prefix, strict=False)):
        return False
    return all(fits(item, schema.get("items", True), root) for item in value[len(prefix) :])


def _objects(value: Any, schema: dict[str, Any], root: Any) -> bool:
    if not isinstance(value, dict):
        return True
    if not all(key in value for key in schema.get("required", [])):
        return False
    properties = schema.get("properties", {})
    if not all(fits(value[key], part, root) for key, part in properties.items() if key in value):
        return False
    extra = schema.get("additionalProperties", True)
    return all(fits(value[key], extra, root) for key in value if key not in properties)


def _parses(parse: Any) -> Any:
    def check(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return check


FORMATS: dict[str, Any] = {
    "date": _parses(datetime.date.fromisoformat),
    "time": _parses(datetime.time.fromisoformat),
    "date-time": _parses(datetime.datetime.fromisoformat),
    "duration": lambda value: bool(re.fullmatch(r"P(?!$)(\d+[YMWD])*(T(\d+[HMS])+)?", value)),
    "uuid": _parses(uuid.UUID),
    "email": lambda value: bool(re.fullmatch(r"[^@\s]+@[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+", value)),
    "hostname": lambda value: all(re.fullmatch(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)", part) for part in value.split(".")),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "uri": lambda value: bool(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+(/\S*)?", value)),
    "url": lambda value: bool(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+(/\S*)?", value)),
}
