"""A regular expression as a grammar of the strings it fits: a bounded subset, the rest refused by name.   Pure.

JSON Schema's ``pattern`` fits anywhere in a string unless anchored, so what is not anchored gets any characters there.
"""

from __future__ import annotations

import msgspec

from mcd.engine.gbnf.notation import Notation
from mcd.engine.gbnf.rules import MAX_CODE_POINT, Ranges, Rules, any_of, characters, literal, union, without

MAX_PATTERN_CHARS = 1024
MAX_NESTING = 24
MAX_REPEAT = 1000
MAX_STEPS = 1000
"""Characters of a pattern once its repetitions, and those in them, are written out: llama.cpp may have to follow all
of them side by side, through the whole vocabulary, for each token."""

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
        return rules.rule("pattern", _Reader(pattern, notation, rules).whole())
    except _UnfitError as error:
        raise rules.fault(f"keyword pattern with {error} is not supported") from None


class _Reader(msgspec.Struct):
    """Reads one pattern from left to right."""

    text: str
    notation: Notation
    rules: Rules
    at: int = 0
    n_steps: int = 0
    depth: int = 0

    def whole(self) -> str:
        """All of it, with what may stand around an alternative that is not anchored."""
        parts = []
        anything = f"{self._written(ALL)}*"
        while True:
            is_begun = self._takes("^")
            body = self._sequence()
            is_ended = self._takes("$")
            parts.append(" ".join(x for x in ("" if is_begun else anything, body, "" if is_ended else anything) if x))
            if self.at == len(self.text):
                break
            if not self._takes("|"):
                raise _UnfitError("an anchor or bracket in its middle")
        return " | ".join(part or '""' for part in parts)

    def _takes(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += len(char) * found
        return found

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise _UnfitError("no end")
        self.at += 1
        return self.text[self.at - 1]

    def _sequence(self) -> str:
        parts: list[str] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)$":
            before = self.n_steps
            atom = self._atom()
            parts.append(self._repeated(atom, self.n_steps - before))
        return " ".join(part for part in parts if part)

    def _atom(self) -> str:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._written(self._class())
            case ".":
                return self._written(without(ALL, _NEWLINES))
            case "\\":
                return self._written(self._escape())
            case "^":
                raise _UnfitError("an anchor in its middle")
            case "*" | "+" | "?" | "{":
                raise _UnfitError("nothing to repeat")
        return self._written(((ord(char), ord(char)),))

    def _group(self) -> str:
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
        return f"({' | '.join(option or chr(34) * 2 for option in options)})"

    def _repeated(self, atom: str, n_steps: int) -> str:
        for mark, (least, most) in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._takes(mark):
                return self._times(atom, n_steps, least, most)
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
        return self._times(atom, n_steps, least, most)

    def _times(self, atom: str, n_steps: int, least: int, most: int | None) -> str:
        self._takes("?")  # lazy or not, the strings are the same
        if self._takes("+"):
            raise _UnfitError("possessive repetition")
        self._step(n_steps * (max(least, most or 1) - 1))
        return self.rules.times(atom, least, most)

    def _step(self, n_more: int) -> None:
        self.n_steps += n_more
        if self.n_steps > MAX_STEPS:
            raise _UnfitError(f"more than {MAX_STEPS} characters, its repetitions written out,")

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

    def _written(self, ranges: Ranges) -> str:
        """One character of these, as the notation writes it."""
        self._step(1)
        options = [
            literal(shown)
            for char, shown in self.notation.escaped
            if any(low <= ord(char) <= high for low, high in ranges)
        ]
        plain = _common(ranges, self.notation.plain)
        if plain:
            is_one = plain[0][0] == plain[0][1] and len(plain) == 1
            options.insert(0, literal(chr(plain[0][0])) if is_one else characters(plain))
        if not options:
            raise _UnfitError("a character that cannot be written here")
        return any_of(options)


def _common(ranges: Ranges, others: Ranges) -> Ranges:
    return without(ranges, without(((0, MAX_CODE_POINT),), others))
