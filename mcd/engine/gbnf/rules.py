"""Rules under names, literals and classes of characters in GBNF, llama.cpp's grammar notation.   Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from mcd.engine.gbnf.ways import n_ways
from mcd.errors import UnsupportedError

MAX_RULES = 4096
MAX_GRAMMAR_CHARS = 1024 * 1024
"""llama.cpp copies a grammar's elements for every stream."""
MAX_CODE_POINT = 0x10FFFF
MAX_FORKS = 24
"""Of a list of texts, one within the other; below stand whole texts. llama.cpp reads groups by recursion."""
TEXT: tuple[tuple[int, int], ...] = ((0x09, 0x0A), (0x20, 0xD7FF), (0xE000, MAX_CODE_POINT))
"""What bare text is made of."""
MAX_EFFORT = 40_000
"""Schemas looked at, and entries put together, for one grammar: references and unions of unions multiply."""
MAX_REPEATED_CHARS = 4 * MAX_GRAMMAR_CHARS
"""Of what counted repetitions repeat: llama.cpp writes them out, a rule of 250 bytes for each time; 30 MB in all."""
MAX_WAYS = 8192
"""Twice the longest list of values, each with a beginning of its own. llama.cpp compares every two ways at a character,
and every token with each: at 4096 and a vocabulary of 128 000 it takes 0.1 s and 4.5 s, beside the decoding."""
RULE_CHARS = 32
"""What such a rule counts for besides."""
_RULE_NAME = re.compile(r"[^a-z0-9-]+")

Ranges = tuple[tuple[int, int], ...]
"""Code points from, to (inclusive), ascending and apart."""

SHARED = {
    "ws": '| " " | "\\n" [ \\t]{0,20}',
    "null": '"null"',
    "boolean": '"true" | "false"',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "hex": "[0-9a-fA-F]",
    # no surrogates: half of a pair is no character
    "escape": '"\\\\" (["\\\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex))',
    "char": '[^"\\\\\\x7F\\x00-\\x1F] | escape',
    "string": '"\\"" char* "\\""',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (member (ws "," ws member)*)? ws "}"',
    "member": 'string ws ":" ws value',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "tagged-char": '[^<"\\\\\\x7F\\x00-\\x1F] | escape',
    "tagged-string": '"\\"" tagged-char* "\\""',
    "tagged-value": "tagged-object | tagged-array | tagged-string | number | boolean | null",
    "tagged-object": '"{" ws (tagged-member (ws "," ws tagged-member)*)? ws "}"',
    "tagged-member": 'tagged-string ws ":" ws tagged-value',
    "tagged-array": '"[" ws (tagged-value (ws "," ws tagged-value)*)? ws "]"',
    "python-char": '[^\'\\\\\\x7F\\x00-\\x1F] | "\\\\" [\'"\\\\nrt]',
    "python-string": '"\'" python-char* "\'"',
    "python-value": 'python-object | python-array | python-string | number | "True" | "False" | "None"',
    "python-object": '"{" ws (python-member (ws "," ws python-member)*)? ws "}"',
    "python-member": 'python-string ws ":" ws python-value',
    "python-array": '"[" ws (python-value (ws "," ws python-value)*)? ws "]"',
    "gemma-char": '[^<\\x00-\\x08] | "<" [^|<\\x00-\\x08]',
    "gemma-string": '"<|\\"|>" gemma-char* "<|\\"|>"',
    "gemma-key": "[a-zA-Z_] [a-zA-Z0-9_]{0,63}",
    "gemma-value": "gemma-object | gemma-array | gemma-string | number | boolean | null",
    "gemma-object": '"{" ws (gemma-member (ws "," ws gemma-member)*)? ws "}"',
    "gemma-member": 'gemma-key ":" ws gemma-value',
    "gemma-array": '"[" ws (gemma-value (ws "," ws gemma-value)*)? ws "]"',
}
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|([a-z][a-z-]*)')


class Effort:
    """What is left of MAX_EFFORT. Owner: one request's compilation; several grammars may share one."""

    def __init__(self) -> None:
        self.n_left = MAX_EFFORT


class Rules:
    """A grammar under construction. Owner: one request's compilation."""

    def __init__(self, param: str, effort: Effort | None = None) -> None:
        """``param`` is the member of the request that an error names."""
        self._rules: dict[str, str] = {}
        self._n_named: dict[str, int] = {}
        """How many rules have wanted a name."""
        self._untils: dict[str, str] = {}
        self._n_chars = 0
        self._n_repeated_chars = 0
        self._effort = effort if effort is not None else Effort()
        self.param = param
        self.alike: dict[str, tuple[str, ...]] = {}
        """By union, its alternatives that may be meant at once from their beginning to their end: texts and numbers."""
        self.n_rivals = 1
        """The same of objects and arrays, at most; see `alternatives`."""
        self.n_ways = 0
        """How many ways a text may go on at once, at most; known once `definitions` was asked for."""

    def spend(self, n: int = 1) -> None:
        """Count work, of which there is only so much for strangers.

        Raises:
            UnsupportedError: It is too much.
        """
        self._effort.n_left -= n
        if self._effort.n_left < 0:
            raise self.fault("it is too large")

    def fault(self, why: str) -> UnsupportedError:
        """The error for what cannot be enforced."""
        return UnsupportedError(f"the JSON schema cannot be enforced: {why}", param=self.param)

    def rule(self, name: str, body: str) -> str:
        """Add a rule under a name like this one; return the name."""
        self._n_chars += len(body)
        if len(self._rules) >= MAX_RULES or self._n_chars > MAX_GRAMMAR_CHARS:
            raise self.fault("it is too large")
        name = _RULE_NAME.sub("-", name.lower()).strip("-")[:48] or "r"
        unique, count = name, self._n_named.get(name, 1)
        while unique in self._rules or unique in SHARED:
            count += 1
            unique = f"{name}-{count}"
        self._n_named[name] = count
        self._rules[unique] = body
        return unique

    def define(self, name: str, body: str) -> None:
        """Give a rule that was added before its body."""
        self._n_chars += len(body)
        if self._n_chars > MAX_GRAMMAR_CHARS:
            raise self.fault("it is too large")
        self._rules[name] = body

    def shared(self, name: str) -> str:
        """Use a shared rule; returns its name."""
        if name not in self._rules:
            self._rules[name] = SHARED[name]
            for found in _WORD.finditer(SHARED[name]):
                if found[1]:
                    self.shared(found[1])
        return name

    def times(self, item: str, least: int, most: int | None) -> str:
        """A repetition.

        Raises:
            UnsupportedError: Written out, all of them are too large.
        """
        self._n_repeated_chars += (len(item) + RULE_CHARS) * max(least, most or 0)
        if self._n_repeated_chars > MAX_REPEATED_CHARS:
            raise self.fault("its repetitions are too large")
        if most is None:
            return item + {0: "*", 1: "+"}.get(least, f"{{{least},}}")
        return f"{item}{{{least},{most}}}"

    def until(self, stop: str, rule: str | None = None) -> str | None:
        """Remember, or look up, the rule of text that this ends."""
        if rule is not None:
            self._untils[stop] = rule
        return self._untils.get(stop)

    def definitions(self) -> str:
        """All rules, one a line.

        Raises:
            UnsupportedError: A text in them may go on in too many ways at once.
        """
        self.n_ways = n_ways(self._rules, self.alike) * self.n_rivals
        if self.n_ways > MAX_WAYS:
            raise self.fault(f"it may go on in more than {MAX_WAYS} ways at one place")
        return "\n".join(f"{name} ::= {body}" for name, body in self._rules.items())

    def text(self, root: str) -> str:
        """The whole grammar with ``root`` as its start."""
        return f"root ::= {root}\n{self.definitions()}"


def literal(text: str) -> str:
    """A terminal for exactly this text."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if ord(char) < 32 or ord(char) == 127:
        return f"\\x{ord(char):02X}"
    return char


def characters(ranges: Ranges) -> str:
    """A class of characters."""
    return "[" + "".join(_one(low) if low == high else f"{_one(low)}-{_one(high)}" for low, high in ranges) + "]"


def _one(code: int) -> str:
    if chr(code).isalnum() and code < 128:
        return chr(code)
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def union(*groups: Ranges) -> Ranges:
    """Characters in any of them."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for group in groups for pair in group):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """Characters of the first that are not in the second."""
    left: list[tuple[int, int]] = []
    for low, high in ranges:
        at = low
        for first, last in removed:
            if last < at or first > high:
                continue
            if first > at:
                left.append((at, first - 1))
            at = max(at, last + 1)
        if at <= high:
            left.append((at, high))
    return tuple(left)


def any_of(options: Sequence[str]) -> str:
    """One of these, as a group where it needs to be one."""
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def one_of(texts: Iterable[str], depth: int = 0) -> str:
    """Any of these texts, what they begin with in common written once: llama.cpp follows each alternative by itself."""
    ordered = sorted(set(texts))
    if len(ordered) == 1 or depth > MAX_FORKS:
        return any_of([*map(literal, ordered)])
    first, last = ordered[0], ordered[-1]  # what these two share, all between them do
    n_shared = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    shared = first[:n_shared]
    rests = (text[n_shared:] for text in ordered)
    forks = any_of([one_of(group, depth + 1) for _, group in itertools.groupby(rests, key=lambda rest: rest[:1])])
    return f"{literal(shared)} {forks}" if shared else forks


def text_until(rules: Rules, stop: str) -> str:
    """Any text that does not contain ``stop``, nor ends in the middle of one that follows.

    ``stop`` must not overlap itself. A rule for each number of its characters that have been seen, as in the search
    of Knuth, Morris and Pratt.
    """
    found = rules.until(stop)
    if found is not None:
        return found
    names = [rules.rule(f"bare-{at}", "") for at in range(len(stop))]
    letters = {char: _only(char) for char in sorted(set(stop))}
    for at, rule in enumerate(names):
        reached = {char: _matched(stop, stop[:at] + char) for char in letters}
        states = sorted({state for state in reached.values() if 0 < state < len(stop)})
        parts = [
            f"{characters(union(*(letters[c] for c in letters if reached[c] == state)))} {names[state]}"
            for state in states
        ]
        others = without(TEXT, union(*(letters[c] for c in letters if reached[c])))
        rules.define(rule, f"({characters(others)} {names[0]} | {' | '.join(parts)})?")
    rules.until(stop, names[0])
    return names[0]


def _only(char: str) -> Ranges:
    return ((ord(char), ord(char)),)


def _matched(stop: str, seen: str) -> int:
    return next(size for size in range(min(len(stop), len(seen)), -1, -1) if seen.endswith(stop[:size]))
