"""The text of one choice not yet taken, and the small steps that every reader is made of.   Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Generator[None, None, T]
"""Yields whenever it needs more text; returns what it read."""
Tell = Callable[[str], None]

MAX_HELD_SPACE = 256
"""White space before a marker is dropped with it, and held back until it is known what follows; so much at most."""
MIN_MARKER_CHARS = 3
"""So much of a marker at the end of a text that was cut off is no text any more; inside a call any of it."""

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r'[^"{}\[\]]*')
_SCALAR = re.compile(r"[^,;\]}\s]*")


class Cursor:
    """What was fed and not yet taken. Owner: a MessageParser."""

    __slots__ = ("at", "held", "is_cut", "is_end", "kept_from")

    def __init__(self) -> None:
        self.held = ""
        self.at = 0
        self.is_end = False
        """Nothing more will come."""
        self.is_cut = False
        """Though there was more to say."""
        self.kept_from = -1
        """Where to go back to should this be no call after all; -1 for nowhere."""

    def add(self, text: str) -> None:
        """Drop what was taken, append what came."""
        start = self.at if self.kept_from < 0 else self.kept_from
        self.held = self.held[start:] + text
        self.at -= start
        self.kept_from = min(0, self.kept_from)

    def keep(self, start: int) -> None:
        """Stay able to go back to ``start``."""
        self.kept_from = start

    def commit(self) -> None:
        """What was read is what it seemed to be."""
        self.kept_from = -1

    def go_back(self) -> None:
        """It was not."""
        self.at, self.kept_from = self.kept_from, -1

    def give_up(self) -> bool:
        """Go back, unless the text was cut off on the way: then it was the beginning of something, and no text."""
        if self.was_cut:
            self.commit()
            return False
        self.go_back()
        return True

    @property
    def was_cut(self) -> bool:
        """All is taken, and there was more to say."""
        return self.is_cut and self.at >= len(self.held)

    @property
    def n_kept(self) -> int:
        """Characters held for going back."""
        return self.at - self.kept_from if self.kept_from >= 0 else 0


class Markers:
    """A set of fixed texts to look for."""

    __slots__ = ("_firsts", "_longest", "_pattern", "texts")

    def __init__(self, texts: Sequence[str]) -> None:
        # the longest first: where one begins with another, the longer is meant
        self.texts = tuple(sorted((text for text in texts if text), key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self.texts))) if self.texts else None
        self._firsts = frozenset(text[0] for text in self.texts)
        self._longest = max(map(len, self.texts), default=0)

    def find(self, text: str, start: int) -> tuple[int, str] | None:
        """The first of them from ``start`` on, and where."""
        found = self._pattern.search(text, start) if self._pattern is not None else None
        return (found.start(), found.group()) if found is not None else None

    def may_begin_in(self, text: str) -> bool:
        """False when no character of the text begins one of them."""
        return not self._firsts.isdisjoint(text)

    def overlap(self, text: str, start: int) -> int:
        """How many characters at the end may be the beginning of one of them."""
        first = max(start, len(text) - self._longest + 1)
        if not self.may_begin_in(text[first:]):
            return 0
        for at in range(first, len(text)):
            if text[at] in self._firsts and any(marker.startswith(text[at:]) for marker in self.texts):
                return len(text) - at
        return 0


class Found:
    """A marker that ended a stretch of text, and the white space before it that was not told."""

    __slots__ = ("marker", "space")

    def __init__(self, marker: str, space: str) -> None:
        self.marker = marker
        self.space = space


def until(cursor: Cursor, markers: Markers, tell: Tell, *, trims: str | None = "") -> Reader[Found | None]:
    r"""Tell what comes before the first marker, and take the marker. None: the text ended first, all told.

    Args:
        cursor: Where to read.
        markers: What ends it.
        tell: Told each stretch that cannot be part of a marker.
        trims: White space dropped right before a marker: none (``""``), all (None), or ``"\n"``, one line end.
    """
    while True:
        held, at = cursor.held, cursor.at
        found = markers.find(held, at)
        if found is not None:
            start, marker = found
            end = start - _n_trailing(held, at, start, trims)
            if end > at:
                tell(held[at:end])
            cursor.at = start + len(marker)
            return Found(marker, held[end:start])
        end = len(held)
        if not cursor.is_end:
            end -= markers.overlap(held, at)
            end -= _n_trailing(held, at, end, trims)
        elif cursor.is_cut:
            n_begun = markers.overlap(held, at)
            end -= n_begun if n_begun >= MIN_MARKER_CHARS or trims is not None else 0
            end -= _n_trailing(held, at, end, trims or "")
        if end > at:
            tell(held[at:end])
        cursor.at = len(held) if cursor.is_end else end
        if cursor.is_end:
            return None
        yield


def _n_trailing(text: str, start: int, end: int, trims: str | None) -> int:
    if trims == "":
        return 0
    if trims is not None:
        return len(trims) if text.endswith(trims, start, end) else 0
    first = max(start, end - MAX_HELD_SPACE)
    at = end
    while at > first and text[at - 1].isspace():
        at -= 1
    return end - at


def skip_space(cursor: Cursor) -> Reader[None]:
    """Take all white space."""
    while True:
        held, at = cursor.held, cursor.at
        while at < len(held) and held[at].isspace():
            at += 1
        cursor.at = at
        if at < len(held) or cursor.is_end:
            return
        yield


def choose(cursor: Cursor, options: Sequence[str]) -> Reader[str | None]:
    """Take whichever of these texts comes next (the longest, where one begins with another); None for none."""
    while True:
        rest = cursor.held[cursor.at :]
        undecided = [option for option in options if len(option) > len(rest) and option.startswith(rest)]
        if not undecided or cursor.is_end:
            fitting = max((option for option in options if option and rest.startswith(option)), key=len, default=None)
            if fitting is None and undecided and cursor.is_cut:
                cursor.at = len(cursor.held)  # the beginning of one of them
            cursor.at += len(fitting or "")
            return fitting
        yield


def json_value(cursor: Cursor, tell: Tell) -> Reader[None]:
    """Take one JSON value and tell its text as it comes; what follows it stays."""
    while cursor.at >= len(cursor.held):
        if cursor.is_end:
            return
        yield
    first = cursor.held[cursor.at]
    if first == '"':
        yield from _string(cursor, tell)
    elif first in "{[":
        yield from _container(cursor, tell)
    else:
        yield from scalar(cursor, tell)


def scalar(cursor: Cursor, tell: Tell) -> Reader[None]:
    """Take a word or number, up to white space or a delimiter of JSON."""
    while True:
        if (yield from _run(cursor, _SCALAR, tell)):
            return


def _run(cursor: Cursor, pattern: re.Pattern[str], tell: Tell) -> Reader[bool]:
    """Tell what matches; True when something else follows or nothing will, else after more has come."""
    found = pattern.match(cursor.held, cursor.at)
    assert found is not None
    if found.end() > cursor.at:
        tell(found.group())
        cursor.at = found.end()
    if cursor.at < len(cursor.held) or cursor.is_end:
        return True
    yield
    return False


def _string(cursor: Cursor, tell: Tell) -> Reader[None]:
    _take(cursor, tell, 1)
    while True:
        if not (yield from _run(cursor, _IN_STRING, tell)):
            continue
        if cursor.at >= len(cursor.held):
            return
        if cursor.held[cursor.at] == '"':
            _take(cursor, tell, 1)
            return
        while len(cursor.held) < cursor.at + 2 and not cursor.is_end:  # an escape is told whole
            yield
        _take(cursor, tell, 2)


def _container(cursor: Cursor, tell: Tell) -> Reader[None]:
    depth = 0
    while True:
        if not (yield from _run(cursor, _BETWEEN, tell)):
            continue
        if cursor.at >= len(cursor.held):
            return
        char = cursor.held[cursor.at]
        if char == '"':
            yield from _string(cursor, tell)
            continue
        _take(cursor, tell, 1)
        depth += 1 if char in "{[" else -1
        if depth <= 0:
            return


def _take(cursor: Cursor, tell: Tell, n_chars: int) -> None:
    tell(cursor.held[cursor.at : cursor.at + n_chars])
    cursor.at = min(cursor.at + n_chars, len(cursor.held))


def run_to_end(reader: Generator[None, None, Any]) -> bool:
    """Let a reader go on until it needs more text; True when it is done."""
    try:
        next(reader)
    except StopIteration:
        return True
    return False
