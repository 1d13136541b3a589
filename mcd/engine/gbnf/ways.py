"""In how many ways a text may go on at once.   Pure.

llama.cpp keeps a stack for each, compares every new one with all others, and every token of the vocabulary with each:
what a grammar costs at a token goes by their number, and so does the memory. A small schema can name a great many:
four unions of 256 in one another, and there are four billion where the innermost begins.

Counted are the characters that may come next, once for each way that leads to them: where a rule begins, and behind
each of its parts. Where all that is left of a rule may be empty, what follows it counts too, wherever it stands.
Not counted are the two or three ways of reading a number of a range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

MANY = 1 << 20
"""Nobody needs to know how much more."""
_PART = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\.)|(?P<rule>[a-z0-9-]+)|(?P<times>\{[^}]*\}|[?*+])|(?P<mark>[(|)])'
)


class _Part(msgspec.Struct):
    """A text, a rule or a group of alternatives, perhaps repeated."""

    rule: str = ""
    group: list[list[_Part]] | None = None
    is_empty: bool = False
    is_optional: bool = False
    is_repeated: bool = False


def n_ways(rules: Mapping[str, str], alike: Mapping[str, Sequence[str]] = {}) -> int:
    """The most ways that a text of these rules may go on in at once; MANY at most.

    ``alike`` says which of a rule's alternatives may all be meant at any place in them.
    """
    count = _Count({name: _alternatives(_PART.finditer(body)) for name, body in rules.items()}, alike)
    for name in rules:
        count.first(name)
    count.spread()
    return max(map(count.within, rules), default=0)


class _Count:
    """Owner: `n_ways`."""

    def __init__(self, rules: Mapping[str, list[list[_Part]]], alike: Mapping[str, Sequence[str]]) -> None:
        self._rules = rules
        self._alike = alike
        self._firsts: dict[str, tuple[int, bool]] = {}
        self._follows = dict.fromkeys(rules, 0)
        """Ways to go on behind a rule, at most."""
        self._most = dict.fromkeys(rules, 0)
        """Ways to go on at a place in a rule, at most."""
        self._called: dict[str, set[str]] = {name: set() for name in rules}
        self._within: dict[str, int] = {}

    def first(self, name: str) -> tuple[int, bool]:
        """In how many ways a rule begins, and whether it may be empty."""
        if name not in self._firsts:
            self._firsts[name] = (0, False)  # one that begins with itself is refused by llama.cpp
            self._firsts[name] = self._first_of(self._rules.get(name, []))
        return self._firsts[name]

    def spread(self) -> None:
        """Walk through all rules, again where more turns out to follow them."""
        waiting = dict.fromkeys(self._rules)
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            for called, follows in self._walk(name, self._rules[name], self._follows[name]):
                if called not in self._follows:
                    continue
                self._called[name].add(called)
                if min(follows, MANY) > self._follows[called]:
                    self._follows[called] = min(follows, MANY)
                    waiting[called] = None

    def within(self, name: str) -> int:
        """Ways to go on at a place in a rule, or in one that stands in it."""
        if name not in self._within:
            self._within[name] = self._most.get(name, 0)  # for who comes back to it by itself
            n_most = max(self._within[name], sum(self.within(each) for each in self._alike.get(name, ())))
            self._within[name] = min(MANY, max([n_most, *map(self.within, self._called.get(name, ()))]))
        return self._within[name]

    def _first_of(self, alternatives: list[list[_Part]]) -> tuple[int, bool]:
        n_heads, may_be_empty = 0, False
        for row in alternatives:
            for part in row:
                n_more, is_nullable = self._part(part)
                n_heads += n_more
                if not is_nullable:
                    break
            else:
                may_be_empty = True
        return min(n_heads, MANY), may_be_empty

    def _part(self, part: _Part) -> tuple[int, bool]:
        if part.group is not None:
            n_heads, is_nullable = self._first_of(part.group)
        elif part.rule:
            n_heads, is_nullable = self.first(part.rule)
        else:
            n_heads, is_nullable = int(not part.is_empty), part.is_empty
        return n_heads, is_nullable or part.is_optional

    def _walk(self, name: str, alternatives: list[list[_Part]], follows: int) -> Iterator[tuple[str, int]]:
        """Every rule that stands in a part of this one, with the ways to go on behind it."""
        n_begin = 0
        for row in alternatives:
            after = follows
            for part in reversed(row):
                n_heads, is_nullable = self._part(part)
                behind = after + n_heads if part.is_repeated else after
                self._most[name] = max(self._most[name], min(behind, MANY))
                if part.group is not None:
                    yield from self._walk(name, part.group, behind)
                elif part.rule:
                    yield part.rule, behind
                after = n_heads + (after if is_nullable else 0)
            n_begin += after
        self._most[name] = max(self._most[name], min(n_begin, MANY))


def _alternatives(parts: Iterator[re.Match[str]]) -> list[list[_Part]]:
    """Up to the end, or the bracket that closes them."""
    rows: list[list[_Part]] = [[]]
    for found in parts:
        if found["mark"] == "|":
            rows.append([])
        elif found["mark"] == "(":
            rows[-1].append(_Part(group=_alternatives(parts)))
        elif found["mark"]:
            break
        elif found["times"]:
            times = found["times"]
            part = rows[-1][-1]
            part.is_optional = times in "?*" or times.startswith(("{0,", "{0}"))
            part.is_repeated = times not in ("?", "{0,1}", "{1}", "{1,1}")
        else:
            rows[-1].append(_Part(rule=found["rule"] or "", is_empty=found["text"] == '""'))
    return rows
