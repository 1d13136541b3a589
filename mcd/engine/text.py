"""Bytes of tokens to text that is safe to show: whole UTF-8 characters, nothing that may begin a stop string.

A pure function of the token bytes so far, whatever their grouping: that is what makes a resumed stream equal
the unbroken one.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_new_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one choice. Owner: the slot that produces it."""

    __slots__ = ("_decoder", "_has_partial", "_held", "_stops", "is_stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = _new_decoder("replace")
        self._has_partial = False
        self._held = ""
        self._stops = tuple(stop for stop in stops if stop)
        self.is_stopped = False
        """A stop string was found; nothing more will be shown."""

    def feed(self, piece: bytes, text: str | None = None) -> str:
        """Add one token; return what may be shown now.

        Args:
            piece: The token's bytes; may end inside a character.
            text: ``piece`` as text when it is valid UTF-8 by itself: saves decoding it again.
        """
        if text is None or self._has_partial:
            text = self._decoder.decode(piece)
            self._has_partial = bool(self._decoder.getstate()[0])
        if not self._stops:
            return text
        return self._through_stops(text)

    def finish(self) -> str:
        """What is left at the end: held-back text, an unfinished character as U+FFFD."""
        rest = self._decoder.decode(b"", final=True)
        if not self._stops or self.is_stopped:
            return rest if not self.is_stopped else ""
        shown = self._through_stops(rest)
        if not self.is_stopped:
            shown += self._held
            self._held = ""
        return shown

    def _through_stops(self, text: str) -> str:
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


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ends ``text``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
