"""A JSON schema as a grammar of the values it admits.   Pure.

Objects are written with their properties in the schema's order, as OpenAI's strict mode does, and without properties
that are not declared unless ``additionalProperties`` asks for them.
"""

from __future__ import annotations

import json
from string import ascii_letters
from typing import Any

import msgspec

from mcd.engine.gbnf import numbers
from mcd.engine.gbnf.alternatives import Alternative, are_apart, as_text, n_rivals
from mcd.engine.gbnf.merge import ANNOTATIONS, UnmergedError, merged, size
from mcd.engine.gbnf.notation import JSON, PYTHON, TAGGED, Notation
from mcd.engine.gbnf.rules import Rules, characters, literal, one_of, text_until, union, without
from mcd.engine.gbnf.shapes import check_shapes
from mcd.engine.gbnf.strings import bounds, string
from mcd.engine.parsers.kinds import find, kinds_of

MAX_DEPTH = 32
"""Nesting of a schema; the grammar parser and its stacks are recursive."""
MAX_OPTIONAL = 64
"""Optional properties of one object; each needs a rule of its own."""
MAX_ITEMS = 1000
MAX_ENUM = 4096
MAX_UNION = 256
MAX_RIVALS = 32
"""Alternatives, and those within them, that may still be meant at once; see `alternatives`."""
MAX_KEY_CHARS = 128
"""Of a declared property beside which others may stand: each letter needs a rule."""

_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "format", "pattern"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_PYTHONIC = {"boolean": '"true" | "false" | "True" | "False"', "null": '"null" | "None"'}
"""Between tags templates write these as Python does, so models do too; `kinds.to_json` reads both."""
_PYTHONS_OWN = {"boolean": '"True" | "False"', "null": '"None"'}
_UNIONS = ("anyOf", "oneOf")
COMMA = ' ws "," ws '


class _NothingFitsError(Exception):
    """A schema that admits no value; as one of several alternatives it is left out."""


class SchemaCompiler:
    """Compiles schemas into one set of rules. Owner: one request's compilation."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._root: Any = None
        self._refs: dict[tuple[str, str, int], str] = {}
        self._n_rivals = 1
        """Alternatives that may be meant at once where we are."""
        self._notation = JSON

    def schema(self, raw: msgspec.Raw | bytes, name: str, notation: Notation = JSON) -> str:
        """Compile a schema document; returns the expression that matches its values.

        Raises:
            UnsupportedError: Names the keyword that cannot be enforced.
        """
        return self.node(self.load(raw), name, notation)

    def arguments(self, raw: msgspec.Raw | bytes, name: str, notation: Notation = JSON) -> str:
        """The same of a call's arguments: an object, whatever else its schema would admit."""
        node = self.load(raw)
        return self.node(
            node if node.get("type") == "object" else {"allOf": [node, {"type": "object"}]}, name, notation
        )

    def load(self, raw: msgspec.Raw | bytes) -> Any:
        """Decode a document, and look up references in it from now on."""
        try:
            self._root = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self.rules.fault("it is not JSON") from None
        self._refs = {}
        return self._root

    def node(self, node: Any, name: str, notation: Notation) -> str:
        """Compile a part of the loaded document.

        Raises:
            UnsupportedError: Names the keyword that cannot be enforced.
        """
        self._notation = notation
        try:
            return self._visit(node, name, 0)
        except _NothingFitsError as error:
            raise self.rules.fault(f"no value fits {error}") from None
        except (TypeError, AttributeError, ValueError, OverflowError):  # a value of another kind than its keyword wants
            raise self.rules.fault("a keyword has a value of the wrong kind") from None

    def object_of(self, node: Any) -> dict[str, Any]:
        """A schema of objects, with references followed and ``allOf`` put together."""
        node = self._resolved(node)
        if not isinstance(node, dict) or node.keys() - ANNOTATIONS - _KEYWORDS["object"] - {"type"}:
            raise self.rules.fault("a tool's parameters must be described as an object with properties here")
        return node

    # --- what kind of schema it is ---

    def _visit(self, node: Any, name: str, depth: int) -> str:
        self.rules.spend()
        if depth > MAX_DEPTH:
            raise self.rules.fault(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(node, dict) and node.keys() - ANNOTATIONS == {"$ref"}:
            return self._reference(node["$ref"], depth)
        node = self._resolved(node)
        if node is True or node == {}:
            return self._anything()
        if not isinstance(node, dict):
            raise self.rules.fault("a schema must be an object or true")
        keys = node.keys() - ANNOTATIONS
        if not keys:
            return self._anything()
        for word in _UNIONS:
            if word in keys:
                return self._union(node, word, name, depth)
        if "const" in keys or "enum" in keys:
            return self._enum(node, keys)
        return self._typed(node, keys, name, depth)

    def _anything(self) -> str:
        if self._notation.stop:
            return text_until(self.rules, self._notation.stop)
        return self.rules.shared(self._notation.value)

    def _resolved(self, node: Any, n_followed: int = 0) -> Any:
        """With a reference followed and ``allOf`` put together, until there is neither."""
        self.rules.spend()
        check_shapes(node, self.rules)
        if not isinstance(node, dict) or not node.keys() & {"$ref", "allOf"}:
            return _closed(node)
        if n_followed > MAX_DEPTH:
            raise self.rules.fault("its references or allOf lead nowhere")
        whole: Any = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
        parts = []
        if "$ref" in node:
            parts.append(self._target(node["$ref"]))
        if "allOf" in node:
            if not node["allOf"]:
                raise self.rules.fault("allOf needs a part")
            parts += node["allOf"]
        for part in parts:
            flat = self._resolved(part, n_followed + 1)
            if flat is True:
                continue
            if not isinstance(flat, dict):
                raise self.rules.fault("allOf may only join schemas that are objects")
            self.rules.spend(size(whole) + size(flat))
            try:
                whole = merged(whole, flat)
            except UnmergedError as error:
                raise self.rules.fault(f"keyword {error} cannot be joined by allOf") from None
        return _closed(whole)

    def _target(self, target: Any) -> Any:
        if not isinstance(target, str) or not target.startswith("#"):
            raise self.rules.fault("$ref may only point into the schema itself")
        node = find(self._root, target)
        if node is None:
            raise self.rules.fault("a $ref points nowhere")
        return node

    def _reference(self, target: Any, depth: int) -> str:
        # one for each number of rivals: a reference that leads to itself by rivals comes to too many of them
        key = (self._notation.name + self._notation.stop, str(target), self._n_rivals)
        if key not in self._refs:
            node = self._target(target)
            # the name is known before its body is compiled: schemas may be recursive
            self._refs[key] = self.rules.rule(f"ref-{target.rsplit('/', 1)[-1]}", "")
            self.rules.define(self._refs[key], self._visit(node, "ref", depth + 1))
        return self._refs[key]

    def _only(self, keys: set[str], known: frozenset[str]) -> None:
        unknown = sorted(keys - known)
        if unknown:
            raise self.rules.fault(f"keyword {unknown[0][:40]} is not supported here")

    def _union(self, node: dict[str, Any], word: str, name: str, depth: int) -> str:
        options = node[word]
        if not 1 <= len(options) <= MAX_UNION:
            raise self.rules.fault(f"{word} needs 1 to {MAX_UNION} alternatives")
        beside = {key: value for key, value in node.items() if key != word and key not in ANNOTATIONS}
        alternatives = [Alternative(option, self._resolved, self._root, self.rules) for option in options]
        if word == "oneOf" and not are_apart(alternatives):
            raise self.rules.fault("keyword oneOf is supported only where its alternatives exclude each other")
        outer = self._n_rivals
        self._n_rivals *= n_rivals(alternatives)
        if self._n_rivals > MAX_RIVALS:
            raise self.rules.fault(f"{word} has too many alternatives that begin alike, perhaps in one another")
        self.rules.n_rivals = max(self.rules.n_rivals, self._n_rivals)
        parts, plain = [], []
        for option, alternative in zip(options, alternatives, strict=True):
            try:
                parts.append(self._visit({**beside, "allOf": [option]} if beside else option, name, depth + 1))
            except _NothingFitsError:
                continue
            if alternative.may_be_plain:
                plain.append(parts[-1])
        self._n_rivals = outer
        if not parts:
            raise _NothingFitsError(word)
        union_name = self.rules.rule(f"{name}-any", " | ".join(dict.fromkeys(parts)))
        self.rules.alike[union_name] = tuple(dict.fromkeys(plain))
        return union_name

    def _enum(self, node: dict[str, Any], keys: set[str]) -> str:
        self._only(keys, frozenset({"const", "enum", "type", "nullable"}))
        values = node.get("enum", [node.get("const")])
        if not 1 <= len(values) <= MAX_ENUM:
            raise self.rules.fault(f"enum needs 1 to {MAX_ENUM} values")
        self.rules.spend(len(values))
        if "const" in node:
            wanted = as_text(node["const"])
            values = [value for value in values if as_text(value) == wanted]
        if "type" in node:
            kinds = kinds_of({key: node[key] for key in ("type", "nullable") if key in node}, {})
            values = [value for value in values if kinds_of({"const": value}, {}) & kinds]
        if not values:
            raise _NothingFitsError("enum or const and the keywords beside it")
        return self.rules.rule("enum", one_of(map(self._notation.dump, values)))

    def _typed(self, node: dict[str, Any], keys: set[str], name: str, depth: int) -> str:
        kind = node.get("type")
        if node.get("nullable") is True and kind is not None:
            kind = [*(kind if isinstance(kind, list) else [kind]), "null"]
        keys = keys - {"nullable"}
        if kind is None:
            self._only(keys, frozenset[str]().union(*_KEYWORDS.values()))
            # what the keywords are about is meant, though strictly they admit all else too
            kind = [kind for kind, words in _KEYWORDS.items() if keys & words and kind != "integer"]
        if isinstance(kind, list):
            return self._types(node, keys, list(dict.fromkeys(kind)), name, depth)
        if kind not in _KEYWORDS:
            raise self.rules.fault(f"type {json.dumps(kind)[:40]} is unknown")
        self._only(keys, _KEYWORDS[kind] | {"type"})
        if kind == "object":
            return self._inside(self._object, node, name, depth)
        if kind == "array":
            return self._inside(self._array, node, name, depth)
        return self._scalar(str(kind), node)

    def _scalar(self, kind: str, node: dict[str, Any]) -> str:
        if kind == "string":
            return string(self.rules, node, self._notation)
        if kind in ("integer", "number"):
            return (numbers.integer if kind == "integer" else numbers.number)(self.rules, node)
        if self._notation.stop and kind in _PYTHONIC:
            return self.rules.rule(kind, _PYTHONIC[kind])
        if self._notation is PYTHON and kind in _PYTHONS_OWN:
            return self.rules.rule(kind, _PYTHONS_OWN[kind])
        return self.rules.shared(kind)

    def _types(self, node: dict[str, Any], keys: set[str], kinds: list[Any], name: str, depth: int) -> str:
        if not kinds:
            raise _NothingFitsError("its types")
        if any(kind not in _KEYWORDS for kind in kinds):
            raise self.rules.fault("a type is unknown")
        self._only(keys, frozenset({"type"}).union(*(_KEYWORDS[kind] for kind in kinds)))
        parts = []
        for kind in kinds:
            part = {key: value for key, value in node.items() if key in _KEYWORDS[kind]}
            parts.append(self._visit({**part, "type": kind}, name, depth + 1))
        return self.rules.rule(f"{name}-any", " | ".join(dict.fromkeys(parts)))

    # --- objects and arrays ---

    def _inside(self, compile_: Any, node: dict[str, Any], name: str, depth: int) -> str:
        """What stands in an object or array is never bare."""
        outer = self._notation
        self._notation = TAGGED if outer.stop else outer
        try:
            return str(compile_(node, name, depth))
        finally:
            self._notation = outer

    def _object(self, node: dict[str, Any], name: str, depth: int) -> str:
        properties = dict(node.get("properties", {}))
        required = node.get("required", [])
        extra = node.get("additionalProperties", not properties)
        needed = set(required)
        for key in required:
            if key not in properties:
                if node.get("additionalProperties") is False:
                    raise self.rules.fault("required names a property that is not declared")
                properties[key] = node.get("additionalProperties", True)
        if node.get("minProperties", 0) > len(needed):
            raise self.rules.fault("keyword minProperties is not supported beyond the required properties")
        if self._notation.has_bare_keys:  # Gemma's templates sort them, so its models do
            properties = dict(sorted(properties.items(), key=lambda pair: pair[0].lower()))
        self.rules.shared("ws")
        pairs = {key: self._pair(key, sub, name, depth) for key, sub in properties.items()}
        optional = [key for key in pairs if key not in needed]
        if len(optional) > MAX_OPTIONAL:
            raise self.rules.fault(f"more than {MAX_OPTIONAL} optional properties in one object")
        tail = self._extra_pair(extra, list(properties), name, depth) if extra is not False else ""
        body = self.members([pairs[k] for k in pairs if k in needed], [pairs[k] for k in optional], tail, name)
        return self.rules.rule(f"{name}-object", f'"{{" ws {body} ws "}}"' if body else '"{" ws "}"')

    def _pair(self, key: str, sub: Any, name: str, depth: int) -> str:
        value = self._visit(sub, f"{name}-{key}"[:40], depth + 1)
        return self.rules.rule(f"{name}-{key}-kv"[:48], f'{literal(self._notation.key(key))} ws ":" ws {value}')

    def _extra_pair(self, extra: Any, declared: list[str], name: str, depth: int) -> str:
        """A pair whose key is none of the declared: what those must be is not to be had by writing them again."""
        value = self._visit(extra, f"{name}-extra", depth + 1)
        if any(len(key) > MAX_KEY_CHARS for key in declared):
            raise self.rules.fault(f"a property beside additionalProperties has more than {MAX_KEY_CHARS} characters")
        if not declared:
            key = self.rules.shared("gemma-key" if self._notation.has_bare_keys else self._notation.string)
        elif self._notation.has_bare_keys:
            key = _other_word(self.rules, frozenset(declared), f"{name}-key")
        else:
            char = self.rules.shared(self._notation.char)
            key = self._notation.quoted(
                _other_text(self.rules, frozenset(declared), f"{name}-key", char, self._notation)
            )
        return self.rules.rule(f"{name}-extra-kv", f'{key} ws ":" ws {value}')

    def members(self, required: list[str], optional: list[str], extra: str, name: str) -> str:
        """Those required, then of the others any, in their order, then any number of ``extra``; commas between."""
        needed = COMMA.join(required)
        options = [*optional, *([f'{extra} (ws "," ws {extra})*'] if extra else [])]
        if not options:
            return needed
        # after: what may follow option i, each option at most once and in order
        after = ""
        starts: list[str] = []
        for option in reversed(options):
            starts.insert(0, f"{option} {after}".strip())
            after = f'(ws "," ws {starts[0]})?' if not after else f'((ws "," ws {starts[0]}) | {after})?'
            after = self.rules.rule(f"{name}-rest", after)
        if needed:
            return f"{needed} {after}"
        return f"({' | '.join(starts)})?"

    def _array(self, node: dict[str, Any], name: str, depth: int) -> str:
        self.rules.shared("ws")
        least, most = bounds(self.rules, node, "minItems", "maxItems", MAX_ITEMS)
        if node.get("uniqueItems") is True and (most is None or most > 1):
            raise self.rules.fault("keyword uniqueItems is not supported for more than one item")
        prefix = node.get("prefixItems", [])
        firsts = [self._visit(sub, f"{name}-item", depth + 1) for sub in prefix[:most]]
        rest = node.get("items", not prefix)
        least, most = max(0, least - len(firsts)), None if most is None else most - len(firsts)
        if rest is False or most == 0:
            if least:
                raise self.rules.fault("minItems asks for more items than there can be")
            tail = ""
        else:
            tail = self._items(self._visit(rest, f"{name}-item", depth + 1), least, most, follows=bool(firsts))
        body = f"{COMMA.join(firsts)} {tail}".strip()
        return self.rules.rule(f"{name}-array", f'"[" ws {body} ws "]"' if body else '"[" ws "]"')

    def _items(self, item: str, least: int, most: int | None, *, follows: bool) -> str:
        if follows:
            return self.rules.times(f'(ws "," ws {item})', least, most)
        more = self.rules.times(f'(ws "," ws {item})', max(0, least - 1), None if most is None else most - 1)
        return f"{item} {more}" if least else f"({item} {more})?"


def _closed(node: Any) -> Any:
    """With ``unevaluatedProperties`` false said as we read it: once all is put together, it is the same."""
    if isinstance(node, dict) and node.get("unevaluatedProperties") is False and not node.keys() & {*_UNIONS, "$ref"}:
        kept = {key: value for key, value in node.items() if key != "unevaluatedProperties"}
        return {**kept, "additionalProperties": False}
    return node


def _other_text(rules: Rules, texts: frozenset[str], name: str, char: str, notation: Notation) -> str:
    """The inside of any string but these, letter by letter along the tree of their beginnings."""
    heads = sorted({text[0] for text in texts if text})
    first = characters(without(notation.plain, union(*(((ord(head), ord(head)),) for head in heads))))
    parts = [f"{first} {char}*"]
    for head in heads:
        if any(low <= ord(head) <= high for low, high in notation.plain):  # one that needs an escape is left out
            below = frozenset(text[1:] for text in texts if text[:1] == head)
            parts.append(f"{literal(head)} {_other_text(rules, below, name, char, notation)}")
    return rules.rule(name, f"({' | '.join(parts)})?" if "" not in texts else " | ".join(parts))


def _other_word(rules: Rules, words: frozenset[str], name: str) -> str:
    """A bare key that none of these begins with."""
    first = [letter for letter in ascii_letters if not any(word.startswith(letter) for word in words)]
    return rules.rule(name, f"[{''.join(first) or '_'}] [a-zA-Z0-9_]{{0,63}}")
