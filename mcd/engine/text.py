"""Bytes of tokens to text that is safe to show: whole UTF-8 characters, nothing that may begin a stop string.

A pure function of the token bytes so far, whatever their grouping: that is what makes a resumed stream equal
the unbroken one.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Characters:
    """Bytes to text. Owner: the slot that produces them."""

    __slots__ = ("_decoder", "is_inside")

    def __init__(self) -> None:
        self._decoder = _new_decoder("replace")
        self.is_inside = False
        """The last character is not whole yet."""

    def feed(self, piece: bytes | str) -> str:
        """Add one token, as text where its bytes are valid UTF-8 by themselves; return its whole characters."""
        if isinstance(piece, str):
            if not self.is_inside:
                return piece
            piece = piece.encode()
        text = self._decoder.decode(piece)
        self.is_inside = bool(self._decoder.getstate()[0])
        return text

    def finish(self) -> str:
        """An unfinished character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class Stops:
    """Ends a text before a stop string, and holds back what may be the beginning of one."""

    __slots__ = ("_held", "_stops", "is_stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._held = ""
        self._stops = tuple(stop for stop in stops if stop)
        self.is_stopped = False
        """A stop string was found; nothing more will be shown."""

    @property
    def is_wanted(self) -> bool:
        """There are stop strings."""
        return bool(self._stops)

    def feed(self, text: str) -> str:
        """Add text; return what may be shown now."""
        if not self._stops or not text:
            return text
        if self.is_stopped:
            return ""
        held = self._held + text
        cut = min((at for stop in self._stops if (at := held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.is_stopped = True
            self._held = ""
            return held[:cut]
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back: the text ended, or something else follows."""
        shown, self._held = self._held, ""
        return shown


class TextStream:
    """Both, one after the other."""

    __slots__ = ("_characters", "_stops")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._characters = Characters()
        self._stops = Stops(stops)

    @property
    def is_stopped(self) -> bool:
        """A stop string was found; nothing more will be shown."""
        return self._stops.is_stopped

    def feed(self, piece: bytes | str) -> str:
        """Add one token; return what may be shown now."""
        return self._stops.feed(self._characters.feed(piece))

    def finish(self) -> str:
        """What is left at the end: held-back text, an unfinished character as U+FFFD."""
        return self._stops.feed(self._characters.finish()) + self._stops.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ends ``text``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
