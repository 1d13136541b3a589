"""How many ways a text may go on: never fewer than a machine of stacks finds that walks through the grammar."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.gbnf import rules as limits
from mcd.engine.gbnf.rules import Rules
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.gbnf.ways import MANY, n_ways
from mcd.errors import UnsupportedError

WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\[[^\]]*\])|([a-z0-9-]+)|(\{[^}]*\}|[?*+])|([(|)])')
Item = tuple[str, Any]
Rows = tuple[tuple[Item, ...], ...]
Stack = tuple[tuple[Item, ...], ...]


LETTERS = sorted({*map(chr, range(32, 127)), "\n"})


class Machine:
    """Follows every way of reading a text, one frame of what is still to come for each rule that was entered."""

    def __init__(self, grammar: dict[str, str]) -> None:
        self.rules = {name: self._read(body) for name, body in grammar.items()}

    def _read(self, body: str) -> Rows:
        return self._rows(WORD.finditer(body))

    def _rows(self, found: Any) -> Rows:
        rows: list[list[Item]] = [[]]
        for word in found:
            text, letters, rule, times, mark = word.groups()
            if mark == "|":
                rows.append([])
            elif mark == "(":
                rows[-1].append(("group", self._rows(found)))
            elif mark == ")":
                break
            elif times:
                low, high = {"?": (0, 1), "*": (0, 99), "+": (1, 99)}.get(times) or self._bounds(times)
                rows[-1][-1] = ("times", (rows[-1][-1], low, high))
            elif rule:
                rows[-1].append(("rule", rule))
            elif text is not None:
                rows[-1].append(("group", (tuple(("char", re.escape(char)) for char in _unescaped(text)),)))
            else:
                rows[-1].append(("char", letters))
        return tuple(map(tuple, rows))

    @staticmethod
    def _bounds(times: str) -> tuple[int, int]:
        low, _, high = times[1:-1].partition(",")
        return int(low), int(high) if high else (99 if "," in times else int(low))

    def heads(self, stack: Stack) -> set[Stack]:
        """All stacks that this one comes to, each with a character on top."""
        done: set[Stack] = set()
        todo, seen = [stack], {stack}
        while todo:
            now = todo.pop()
            for after in self._step(now):
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
            if not now or (now[-1] and now[-1][0][0] == "char"):
                done.add(now)
        return done

    def _step(self, stack: Stack) -> list[Stack]:
        if not stack:
            return []
        below, top = stack[:-1], stack[-1]
        if not top:
            return [below]
        (kind, value), rest = top[0], top[1:]
        under = (*below, rest) if rest else below
        if kind == "char":
            return []
        if kind == "times":
            item, low, high = value
            if not high:
                return [under]
            more: tuple[Item, ...] = (
                (("times", (item, max(0, low - 1), high if high == 99 else high - 1)),) if high > 1 else ()
            )
            taken = (*under, (item, *more))
            return [taken] if low else [taken, under]
        rows = self.rules[value] if kind == "rule" else value
        return [(*under, tuple(row)) if row else under for row in rows]

    def walk(self, start: str, seed: int, n_steps: int) -> int:
        """Through a text by chance, and the most stacks alive at once."""
        choose = random.Random(seed)
        alive = self.heads(((("rule", start),),))
        most = len(alive)
        for _ in range(n_steps):
            tops = {stack: re.compile(str(stack[-1][0][1])) for stack in alive if stack}
            letters = [char for char in LETTERS if any(top.fullmatch(char) for top in tops.values())]
            if not letters:
                break
            letter = choose.choice(letters)
            taken = [stack for stack, top in tops.items() if top.fullmatch(letter)]
            alive = set().union(*(self.heads((*stack[:-1], stack[-1][1:])) for stack in taken))
            most = max(most, len(alive))
        return most


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


LEAVES = st.sampled_from(
    [
        {"type": "string"}, {"type": "integer"}, {"enum": ["a", "b", 1]}, {"type": "boolean"}, {"const": "ab"},
        {"type": "string", "format": "date"}, {"type": "string", "maxLength": 3}, {"type": ["string", "null"]},
        {"type": "string", "pattern": "^[a-c]{1,3}$"}, {"type": "string", "format": "uuid"}, {"type": "null"},
    ]
)  # fmt: skip
KEYS = st.sampled_from(["a", "ab", "b", "c", "kind"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda properties, needed, extra: {
                "type": "object",
                "properties": properties,
                "required": sorted(needed & set(properties)),
                **({"additionalProperties": {"type": "null"}} if extra else {}),
            },
            st.dictionaries(KEYS, inner, max_size=4),
            st.sets(KEYS),
            st.booleans(),
        ),
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)),
        st.lists(inner, min_size=2, max_size=4).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=150)
@given(SCHEMAS, st.integers(0, 1000))
def test_no_walk_finds_more_ways_than_were_counted(schema: Any, seed: int) -> None:
    rules = Rules("x")
    try:
        start = SchemaCompiler(rules).schema(json.dumps(schema).encode(), "answer")
    except UnsupportedError:
        return
    rules.definitions()
    assert Machine(rules._rules).walk(start, seed, 40) <= rules.n_ways


@pytest.mark.parametrize(
    ("grammar", "ways"),
    [
        ({"a": '"x"'}, 1),
        ({"a": '"x" | "y" | [a-z]'}, 3),
        ({"a": '"x"? "y"* "z"'}, 3),
        ({"a": 'b b "z"', "b": '"x" | "y" |'}, 5),
        ({"a": '"(" b ")" | "[" b c', "b": '"x" | "y" |', "c": '"1" | "2" | "3"'}, 5),
        ({"a": '"" | "x"'}, 1),
        ({"a": "b | b", "b": "c | c", "c": '"x" | "y"'}, 8),
        ({"a": "a | b"}, 0),
    ],
)
def test_ways_of_small_grammars(grammar: dict[str, str], ways: int) -> None:
    assert n_ways(grammar) == ways


def test_unions_in_unions_are_counted_at_once() -> None:
    grammar = {f"u{i}": " | ".join([f"u{i + 1}"] * 256) for i in range(30)} | {"u30": '"x"'}
    assert n_ways(grammar) == MANY


def test_what_may_go_on_in_too_many_ways_is_refused() -> None:
    """9,000 stacks behind one quotation mark, each compared with all others there."""
    lists = [{"enum": [chr(0x4E00 + 3000 * i + j) for j in range(3000)]} for i in range(3)]
    rules = Rules("x")
    SchemaCompiler(rules).schema(json.dumps({"anyOf": lists}).encode(), "answer")
    with pytest.raises(UnsupportedError, match=f"more than {limits.MAX_WAYS} ways"):
        rules.definitions()


def test_the_longest_list_of_values_is_taken() -> None:
    rules = Rules("x")
    SchemaCompiler(rules).schema(json.dumps({"enum": [chr(0x4E00 + i) for i in range(4096)]}).encode(), "answer")
    assert rules.definitions()
    assert rules.n_ways == 4096
