"""JSON schema to GBNF, llama.cpp's grammar notation.   Pure.

What a keyword demands is either enforced by the grammar or refused by name; nothing is ignored but annotations.
Objects are written with their properties in the schema's order, as OpenAI's strict mode does.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from mcd.errors import UnsupportedError

MAX_DEPTH = 32
"""Nesting of a schema; the grammar parser and its stacks are recursive."""
MAX_RULES = 4096
MAX_OPTIONAL = 64
"""Optional properties of one object; each needs a rule of its own."""
MAX_REPEAT = 1000
"""llama.cpp refuses repetitions beyond 2000."""
MAX_ENUM = 4096

ANNOTATIONS = frozenset(
    {
        "$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description",
        "discriminator", "example", "examples", "readOnly", "strict", "title", "writeOnly",
    }
)  # fmt: skip
"""Keywords that constrain nothing."""

_SHARED = {
    "ws": '| " " | "\\n" [ \\t]{0,20}',
    "null": '"null"',
    "boolean": '"true" | "false"',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "char": '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": '"\\"" char* "\\""',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (member (ws "," ws member)*)? ws "}"',
    "member": 'string ws ":" ws value',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [1-2] [0-9] | "3" [0-1])',
    "time": 'clock ("Z" | [-+] [0-9]{2} ":" [0-9]{2})',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?',
    "uuid": '[0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12}',
}
_SHARED_PARTS = {
    "object": ("member", "ws"),
    "member": ("string", "ws", "value"),
    "array": ("value", "ws"),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "string": ("char",),
    "time": ("clock",),
}
_FORMATS = {
    "date": '"\\"" date "\\""',
    "time": '"\\"" time "\\""',
    "date-time": '"\\"" date "T" time "\\""',
    "uuid": '"\\"" uuid "\\""',
}
_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
_RULE_NAME = re.compile(r"[^a-z0-9-]+")


def literal(text: str) -> str:
    """A GBNF terminal for exactly this text."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif ord(char) < 32 or ord(char) == 127:
            out.append(f"\\x{ord(char):02X}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


class Grammar:
    """Collects rules. Owner: one request's compilation."""

    def __init__(self, param: str) -> None:
        self._rules: dict[str, str] = {}
        self._param = param
        self._root: Any = None
        self._refs: dict[str, str] = {}

    def fault(self, why: str) -> UnsupportedError:
        """The error for a schema that cannot be enforced."""
        return UnsupportedError(f"the JSON schema cannot be enforced: {why}", param=self._param)

    def rule(self, name: str, body: str) -> str:
        """Add a rule under a name like this one; return the name."""
        if len(self._rules) >= MAX_RULES:
            raise self.fault("it is too large")
        name = _RULE_NAME.sub("-", name.lower()).strip("-") or "r"
        unique, count = name, 1
        while unique in self._rules or unique in _SHARED:
            count += 1
            unique = f"{name}-{count}"
        self._rules[unique] = body
        return unique

    def shared(self, name: str) -> str:
        """Use a shared rule; returns its name."""
        if name not in self._rules:
            self._rules[name] = _SHARED[name]
            for part in _SHARED_PARTS.get(name, ()):
                self.shared(part)
        return name

    def text(self, root: str) -> str:
        """The whole grammar with ``root`` as its start."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())])

    # --- schemas ---

    def schema(self, raw: msgspec.Raw | bytes, name: str) -> str:
        """Compile a schema document; returns the expression that matches its values.

        Raises:
            UnsupportedError: Names the keyword that cannot be enforced.
        """
        try:
            self._root = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self.fault("it is not JSON") from None
        self._refs = {}
        try:
            return self._visit(self._root, name, 0)
        except (TypeError, AttributeError):  # a keyword's value is not of the kind that JSON Schema says
            raise self.fault("a keyword has a value of the wrong kind") from None

    def _visit(self, node: Any, name: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise self.fault(f"it is nested more than {MAX_DEPTH} deep")
        if node is True or node == {}:
            return self.shared("value")
        if not isinstance(node, dict):
            raise self.fault("a schema must be an object")
        keys = node.keys() - ANNOTATIONS
        if "$ref" in keys:
            self._only(keys, {"$ref"})
            return self._reference(node["$ref"], depth)
        word = next((word for word in ("anyOf", "oneOf", "allOf", "const", "enum") if word in keys), None)
        if word is None:
            return self._typed(node, keys, name, depth)
        if word == "allOf":
            return self._visit(self._merge(node), name, depth + 1)
        self._only(keys, {word, "type"})
        if word in ("anyOf", "oneOf"):
            return self._union(node[word], name, depth)
        return self._enum([node[word]] if word == "const" else node[word])

    def _typed(self, node: dict[str, Any], keys: set[str], name: str, depth: int) -> str:
        kind = node.get("type")
        if isinstance(kind, list):
            options = []
            for one in kind:
                part = {k: v for k, v in node.items() if k in _KEYWORDS.get(one, frozenset())}
                options.append({**part, "type": one})
            known = frozenset[str]().union(*(_KEYWORDS.get(one, frozenset()) for one in kind))
            self._only(keys, {"type", *known})
            return self._union(options, name, depth)
        if kind is None:
            kind = next((k for k, words in _KEYWORDS.items() if keys & words), None)
        if kind not in _KEYWORDS:
            raise self.fault(f"type {json.dumps(kind)[:40]} is unknown")
        self._only(keys, {"type", *_KEYWORDS[kind]})
        match kind:
            case "object":
                return self._object(node, name, depth)
            case "array":
                return self._array(node, name, depth)
            case "string":
                return self._string(node)
            case "integer":
                return self._integer(node)
        return self.shared(str(kind))

    def _only(self, keys: set[str], known: set[str]) -> None:
        unknown = sorted(keys - known)
        if unknown:
            raise self.fault(f"keyword {unknown[0][:40]} is not supported here")

    def _reference(self, target: Any, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise self.fault("$ref may only point into the schema itself")
        if target not in self._refs:
            node = self._root
            for part in target.lstrip("#").strip("/").split("/") if target not in ("#", "#/") else []:
                key = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(node, dict) or key not in node:
                    raise self.fault("a $ref points nowhere")
                node = node[key]
            # the name is known before its body is compiled: schemas may be recursive
            self._refs[target] = self.rule(f"ref-{target.rsplit('/', 1)[-1]}", "")
            self._rules[self._refs[target]] = self._visit(node, "ref", depth + 1)
        return self._refs[target]

    def _union(self, options: Any, name: str, depth: int) -> str:
        if not isinstance(options, list) or not 1 <= len(options) <= MAX_ENUM:
            raise self.fault("a union needs alternatives")
        parts = [self._visit(option, name, depth + 1) for option in options]
        return self.rule(f"{name}-any", " | ".join(parts))

    def _merge(self, node: dict[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {k: v for k, v in node.items() if k != "allOf"}
        if not isinstance(node["allOf"], list):
            raise self.fault("allOf needs a list")
        for part in node["allOf"]:
            if isinstance(part, dict) and part.keys() - ANNOTATIONS == {"$ref"} and len(node["allOf"]) == 1:
                self._only(merged.keys() - ANNOTATIONS, set())
                return part
            if not isinstance(part, dict) or part.keys() - ANNOTATIONS - {"type", "properties", "required"}:
                raise self.fault("allOf may only join plain objects")
            merged.setdefault("type", "object")
            merged["properties"] = {**merged.get("properties", {}), **part.get("properties", {})}
            merged["required"] = [*merged.get("required", []), *part.get("required", [])]
        return merged

    def _enum(self, values: Any) -> str:
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_ENUM:
            raise self.fault(f"enum needs 1 to {MAX_ENUM} values")
        return self.rule("enum", " | ".join(literal(self._dump(value)) for value in values))

    def _dump(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    # --- objects ---

    def _object(self, node: dict[str, Any], name: str, depth: int) -> str:
        properties = node.get("properties", {})
        required = node.get("required", [])
        extra = node.get("additionalProperties", not properties)
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise self.fault("properties must be an object and required a list")
        missing = [key for key in required if key not in properties]
        if missing and (properties or extra is False):
            raise self.fault("required names a property that is not declared")
        self.shared("ws")
        pairs = {key: self._pair(key, sub, name, depth) for key, sub in properties.items()}
        optional = [key for key in pairs if key not in required]
        if len(optional) > MAX_OPTIONAL:
            raise self.fault(f"more than {MAX_OPTIONAL} optional properties in one object")
        tail = self._extra_pairs(extra, name, depth) if extra is not False and not missing else ""
        body = self._members([pairs[k] for k in pairs if k in required], [pairs[k] for k in optional], tail, name)
        return self.rule(f"{name}-object", f'"{{" ws {body} ws "}}"' if body else '"{" ws "}"')

    def _pair(self, key: str, sub: Any, name: str, depth: int) -> str:
        value = self._visit(sub, f"{name}-{key}"[:48], depth + 1)
        return self.rule(f"{name}-{key}-kv"[:56], f'{literal(self._dump(key))} ws ":" ws {value}')

    def _extra_pairs(self, extra: Any, name: str, depth: int) -> str:
        value = self._visit(extra, f"{name}-extra", depth + 1)
        self.shared("string")
        return self.rule(f"{name}-extra-kv", f'string ws ":" ws {value}')

    def _members(self, required: list[str], optional: list[str], extra: str, name: str) -> str:
        comma = ' ws "," ws '
        needed = comma.join(required)
        options = [*optional, *([f'{extra} (ws "," ws {extra})*'] if extra else [])]
        if not options:
            return needed
        # after[i]: what may follow option i, each option at most once and in order
        after = ""
        starts: list[str] = []
        for option in reversed(options):
            starts.insert(0, f"{option} {after}".strip())
            after = f'(ws "," ws {starts[0]})?' if not after else f'((ws "," ws {starts[0]}) | {after})?'
            after = self.rule(f"{name}-rest", after)
        if needed:
            return f"{needed} {after}"
        return f"({' | '.join(starts)})?"

    # --- the rest ---

    def _array(self, node: dict[str, Any], name: str, depth: int) -> str:
        self.shared("ws")
        least, most = self._bounds(node, "minItems", "maxItems")
        if "prefixItems" in node:
            self._only(node.keys() - ANNOTATIONS, {"type", "prefixItems"})
            parts = [self._visit(sub, f"{name}-item", depth + 1) for sub in node["prefixItems"]]
            joined = ' ws "," ws '.join(parts)
            return self.rule(f"{name}-array", f'"[" ws {joined} ws "]"')
        item = self._visit(node.get("items", True), f"{name}-item", depth + 1)
        if most == 0:
            return '"[" ws "]"'
        more = f'(ws "," ws {item}){_times(max(0, least - 1), None if most is None else most - 1)}'
        body = f"{item} {more}" if least else f"({item} {more})?"
        return self.rule(f"{name}-array", f'"[" ws {body} ws "]"')

    def _string(self, node: dict[str, Any]) -> str:
        if "format" in node:
            form = node["format"]
            if form not in _FORMATS or "minLength" in node or "maxLength" in node:
                raise self.fault(f"format {json.dumps(form)[:40]} is not supported here")
            for part in ("date", "time", "uuid"):
                if part in _FORMATS[form]:
                    self.shared(part)
            return self.rule(f"format-{form}", _FORMATS[form])
        least, most = self._bounds(node, "minLength", "maxLength")
        if not least and most is None:
            return self.shared("string")
        self.shared("char")
        return self.rule("text", f'"\\"" char{_times(least, most)} "\\""')

    def _integer(self, node: dict[str, Any]) -> str:
        low, high = node.get("minimum"), node.get("maximum")
        if "exclusiveMinimum" in node:
            low = node["exclusiveMinimum"] + 1
        if "exclusiveMaximum" in node:
            high = node["exclusiveMaximum"] - 1
        if low is None and high is None:
            return self.shared("integer")
        if not all(bound is None or isinstance(bound, int) for bound in (low, high)):
            raise self.fault("minimum and maximum must be integers")
        if low == 0 and high is None:
            return self.rule("natural", '"0" | [1-9] [0-9]{0,15}')
        if low == 1 and high is None:
            return self.rule("positive", "[1-9] [0-9]{0,15}")
        if low is None or high is None or high - low >= MAX_ENUM or high < low:
            raise self.fault("keyword minimum or maximum is supported for small ranges, 0 and 1 only")
        return self.rule("range", " | ".join(f'"{value}"' for value in range(low, high + 1)))

    def _bounds(self, node: dict[str, Any], low: str, high: str) -> tuple[int, int | None]:
        least, most = node.get(low, 0), node.get(high)
        for bound, key in ((least, low), (most, high)):
            if bound is not None and (not isinstance(bound, int) or not 0 <= bound <= MAX_REPEAT):
                raise self.fault(f"{key} must be 0 to {MAX_REPEAT}")
        if most is not None and most < least:
            raise self.fault(f"{high} is less than {low}")
        return least, most


def _times(least: int, most: int | None) -> str:
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return f"{{{least},{most}}}"
