"""An expression over classes of characters as a machine that is in one state at a time.   Pure.

llama.cpp follows every way of reading a text, for each token of the vocabulary: ``(a+)+`` has 2 to the 20th ways of
reading twenty letters, forty optional letters have more. A machine with one state has one way. Glushkov's
construction, then subsets of its places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from mcd.engine.gbnf.rules import MAX_CODE_POINT, Ranges, Rules

MAX_PLACES = 1000
"""Letters of an expression, its repetitions written out."""
MAX_STATES = 1000
START = -1
EFFORT_STEPS = 16
"""Places looked at for as much as looking at one schema costs."""


class TooLargeError(Exception):
    """The machine would have more places or states than we write down; ``args[0]`` says which."""


class Letter(msgspec.Struct, frozen=True):
    """One character of these."""

    ranges: Ranges


class Row(msgspec.Struct, frozen=True):
    """One after another."""

    parts: tuple[Node, ...]


class Either(msgspec.Struct, frozen=True):
    """Any one."""

    options: tuple[Node, ...]


class Times(msgspec.Struct, frozen=True):
    """The same so many times."""

    part: Node
    least: int
    most: int | None


Node = Letter | Row | Either | Times


class State(msgspec.Struct):
    """Where a text has led."""

    may_end: bool
    steps: dict[int, list[int]]
    """To which state, by which classes of characters."""


class _Part(msgspec.Struct, frozen=True):
    """What a part of the expression may begin and end with."""

    is_nullable: bool
    firsts: frozenset[int]
    lasts: frozenset[int]


_NOTHING = _Part(True, frozenset(), frozenset())


class Machine:
    """The states of one expression; the first is where it begins."""

    def __init__(self, node: Node, rules: Rules) -> None:
        """Build it.

        Raises:
            TooLargeError: Too many places or states.
            UnsupportedError: It is too much work.
        """
        self._rules = rules
        self._places: list[int] = []
        """By place, which of `_kinds`."""
        self._kinds: dict[Ranges, int] = {}
        self._follow: dict[int, set[int]] = {}
        whole = self._build(node)
        self._follow[START] = set(whole.firsts)
        self._ends = whole.lasts | ({START} if whole.is_nullable else frozenset())
        members, self.classes = _classes(list(self._kinds), rules)
        """The characters of each class, of which no expression tells one from another."""
        self.states = self._states(members)

    # --- places ---

    def _build(self, node: Node) -> _Part:
        match node:
            case Letter(ranges=ranges):
                return self._place(ranges)
            case Row(parts=parts):
                whole = _NOTHING
                for part in parts:
                    whole = self._join(whole, self._build(part))
                return whole
            case Either(options=options):
                found = [self._build(option) for option in options]
                return _Part(
                    any(part.is_nullable for part in found),
                    frozenset().union(*(part.firsts for part in found)),
                    frozenset().union(*(part.lasts for part in found)),
                )
            case Times():
                return self._repeated(node)

    def _place(self, ranges: Ranges) -> _Part:
        place = len(self._places)
        if place >= MAX_PLACES:
            raise TooLargeError(f"more than {MAX_PLACES} characters, its repetitions written out,")
        self._places.append(self._kinds.setdefault(ranges, len(self._kinds)))
        self._follow[place] = set()
        return _Part(False, frozenset({place}), frozenset({place}))

    def _join(self, one: _Part, other: _Part) -> _Part:
        self._rules.spend(len(one.lasts) // EFFORT_STEPS)
        for place in one.lasts:
            self._follow[place] |= other.firsts
        return _Part(
            one.is_nullable and other.is_nullable,
            one.firsts | other.firsts if one.is_nullable else one.firsts,
            one.lasts | other.lasts if other.is_nullable else other.lasts,
        )

    def _repeated(self, node: Times) -> _Part:
        rest = _NOTHING
        if node.most is None:
            rest = self._build(node.part)
            self._join(rest, rest)
            rest = _Part(True, rest.firsts, rest.lasts)
        for _ in range((node.most or node.least) - node.least):  # from the last on: each may be followed by the next
            self._rules.spend()
            more = self._join(self._build(node.part), rest)
            rest = _Part(True, more.firsts, more.lasts)
        needed = _NOTHING
        for _ in range(node.least):
            self._rules.spend()
            needed = self._join(needed, self._build(node.part))
        return self._join(needed, rest)

    # --- states ---

    def _states(self, members: Sequence[frozenset[int]]) -> list[State]:
        found = [frozenset({START})]
        numbers = {found[0]: 0}
        states: list[State] = []
        for places in found:  # grows meanwhile
            steps: dict[int, list[int]] = {}
            for index, after in enumerate(self._after(places, members)):
                if not after:
                    continue
                if after not in numbers:
                    numbers[after] = len(found)
                    found.append(after)
                steps.setdefault(numbers[after], []).append(index)
            if len(found) > MAX_STATES:
                raise TooLargeError(f"more than {MAX_STATES} states to be told apart")
            states.append(State(not places.isdisjoint(self._ends), steps))
        return states

    def _after(self, places: frozenset[int], members: Sequence[frozenset[int]]) -> Iterator[frozenset[int]]:
        """Where a character of each class leads from these places."""
        self._rules.spend(1 + (len(members) + sum(len(self._follow[place]) for place in places)) // EFFORT_STEPS)
        by_kind: dict[int, set[int]] = {}
        for place in set[int]().union(*(self._follow[place] for place in places)):
            by_kind.setdefault(self._places[place], set()).add(place)
        for kinds in members:
            yield frozenset().union(*(by_kind[kind] for kind in kinds & by_kind.keys()))


def _classes(kinds: Sequence[Ranges], rules: Rules) -> tuple[list[frozenset[int]], list[Ranges]]:
    """All characters, parted so that each kind is made of whole classes: the kinds of each, and its characters."""
    edges = sorted({edge for ranges in kinds for low, high in ranges for edge in (low, high + 1)})
    rules.spend(len(edges) * sum(map(len, kinds)) // (EFFORT_STEPS * EFFORT_STEPS))
    parted: dict[frozenset[int], list[tuple[int, int]]] = {}
    for low, after in zip(edges, [*edges[1:], MAX_CODE_POINT + 1], strict=False):
        found = frozenset(i for i, ranges in enumerate(kinds) if any(a <= low <= b for a, b in ranges))
        if found and low < after:
            parted.setdefault(found, []).append((low, after - 1))
    return list(parted), [tuple(ranges) for ranges in parted.values()]
