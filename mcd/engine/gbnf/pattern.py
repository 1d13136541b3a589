"""A regular expression as a grammar of the strings it fits: a bounded subset, the rest refused by name.   Pure.

JSON Schema's ``pattern`` fits anywhere in a string unless anchored, so what is not anchored gets any characters there.
"""

from __future__ import annotations

import msgspec

from mcd.engine.gbnf.automaton import Either, Letter, Machine, Node, Row, Times, TooLargeError
from mcd.engine.gbnf.notation import Notation
from mcd.engine.gbnf.rules import MAX_CODE_POINT, Ranges, Rules, any_of, characters, literal, union, without

MAX_PATTERN_CHARS = 1024
MAX_NESTING = 24
MAX_REPEAT = 1000

DIGITS: Ranges = ((0x30, 0x39),)
WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
ALL: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x7E), (0x80, 0xD7FF), (0xE000, MAX_CODE_POINT))
"""Every character that a string of ours may hold."""
_CLASSES = {
    "d": DIGITS, "w": WORDS, "s": SPACES,
    "D": without(ALL, DIGITS), "W": without(ALL, WORDS), "S": without(ALL, SPACES),
}  # fmt: skip
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
_NEWLINES: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


class _UnfitError(Exception):
    """The pattern uses what we do not support."""


def compile_pattern(rules: Rules, pattern: str, notation: Notation) -> str:
    """An expression for the inside of a string that fits.

    Raises:
        UnsupportedError: Names the keyword and what of it.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARS:
        raise rules.fault(f"keyword pattern must be a text of at most {MAX_PATTERN_CHARS} characters")
    try:
        return _written_out(Machine(_Reader(pattern, notation).whole(), rules), rules, notation)
    except (_UnfitError, TooLargeError) as error:
        raise rules.fault(f"keyword pattern with {error} is not supported") from None


class _Reader(msgspec.Struct):
    """Reads one pattern from left to right."""

    text: str
    notation: Notation
    at: int = 0
    depth: int = 0

    def whole(self) -> Node:
        """All of it, with what may stand around an alternative that is not anchored."""
        options: list[Node] = []
        anything = Times(Letter(ALL), 0, None)
        while True:
            is_begun = self._takes("^")
            body = self._sequence()
            is_ended = self._takes("$")
            options.append(Row((*(() if is_begun else (anything,)), body, *(() if is_ended else (anything,)))))
            if self.at == len(self.text):
                break
            if not self._takes("|"):
                raise _UnfitError("an anchor or bracket in its middle")
        return Either(tuple(options))

    def _takes(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += len(char) * found
        return found

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise _UnfitError("no end")
        self.at += 1
        return self.text[self.at - 1]

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)$":
            parts.append(self._repeated(self._atom()))
        return Row(tuple(parts))

    def _atom(self) -> Node:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._letter(self._class())
            case ".":
                return self._letter(without(ALL, _NEWLINES))
            case "\\":
                return self._letter(self._escape())
            case "^":
                raise _UnfitError("an anchor in its middle")
            case "*" | "+" | "?" | "{":
                raise _UnfitError("nothing to repeat")
        return self._letter(((ord(char), ord(char)),))

    def _group(self) -> Node:
        if self._takes("?") and not self._takes(":"):
            raise _UnfitError("look-around, named groups or flags")
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise _UnfitError(f"more than {MAX_NESTING} groups in groups")
        options = [self._sequence()]
        while self._takes("|"):
            options.append(self._sequence())
        if self._takes("$"):
            raise _UnfitError("an anchor in a group")
        if not self._takes(")"):
            raise _UnfitError("a group without end")
        self.depth -= 1
        return Either(tuple(options))

    def _repeated(self, atom: Node) -> Node:
        for mark, (least, most) in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._takes(mark):
                return self._times(atom, least, most)
        if not self._takes("{"):
            return atom
        inside, brace, rest = self.text[self.at :].partition("}")
        low, comma, high = inside.partition(",")
        if not brace or not low.isdigit() or (high and not high.isdigit()) or len(inside) > 9:
            raise _UnfitError("an odd repetition")
        self.at = len(self.text) - len(rest)
        least = int(low)
        most = int(high) if high else None if comma else least
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            raise _UnfitError(f"a repetition beyond {MAX_REPEAT}")
        return self._times(atom, least, most)

    def _times(self, atom: Node, least: int, most: int | None) -> Node:
        self._takes("?")  # lazy or not, the strings are the same
        if self._takes("+"):
            raise _UnfitError("possessive repetition")
        return Times(atom, least, most)

    def _escape(self) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return ((ord(_CONTROLS[char]), ord(_CONTROLS[char])),)
        if char in "xu":
            n_digits = 2 if char == "x" else 4
            digits = self.text[self.at : self.at + n_digits]
            self.at += n_digits
            try:
                code = int(digits, 16)
            except ValueError:
                raise _UnfitError("an odd escape") from None
            if len(digits) == n_digits:
                return ((code, code),)
        if char.isalnum():
            raise _UnfitError(f"\\{char}")
        return ((ord(char), ord(char)),)

    def _class(self) -> Ranges:
        is_negated = self._takes("^")
        members: list[Ranges] = []
        while not (members and self._takes("]")):
            first = self._member()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                last = self._member()
                if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1] or first[0][0] > last[0][0]:
                    raise _UnfitError("an odd range of characters")
                first = ((first[0][0], last[0][1]),)
            members.append(first)
        found = union(*members)
        return without(ALL, found) if is_negated else found

    def _member(self) -> Ranges:
        char = self._next()
        if char == "\\":
            return self._escape()
        if char == "[":
            raise _UnfitError("[ in a class of characters")
        return ((ord(char), ord(char)),)

    def _letter(self, ranges: Ranges) -> Node:
        if not _written(ranges, self.notation):
            raise _UnfitError("a character that cannot be written here")
        return Letter(ranges)


def _written_out(machine: Machine, rules: Rules, notation: Notation) -> str:
    """A rule for each state."""
    names = [rules.rule("pattern", "") for _ in machine.states]
    for name, state in zip(names, machine.states, strict=True):
        options = []
        for after, classes in state.steps.items():
            letters = _written(union(*(machine.classes[index] for index in classes)), notation)
            if letters:
                options.append(f"{any_of(letters)} {names[after]}")
        body = " | ".join(options)
        rules.define(name, (f"({body})?" if body else '""') if state.may_end else body)
    return names[0]


def _written(ranges: Ranges, notation: Notation) -> list[str]:
    """One character of these, as the notation writes it; empty when it writes none."""
    options = [
        literal(shown) for char, shown in notation.escaped if any(low <= ord(char) <= high for low, high in ranges)
    ]
    plain = without(ranges, without(((0, MAX_CODE_POINT),), notation.plain))
    if plain:
        is_one = plain[0][0] == plain[0][1] and len(plain) == 1
        options.insert(0, literal(chr(plain[0][0])) if is_one else characters(plain))
    return options
