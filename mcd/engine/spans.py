"""Pictures within a prompt: the cells they take, where what follows stands, and that none is cut in two.   Pure.

A prompt is a list of token ids. A picture's cells stand in it as one negative number, repeated: the hash of its pixels
and of its number in the prompt. So equal prompts are equal lists, the same picture at the same place is found again in
a cache, another never is, and everything that compares or counts tokens needs to know nothing of pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

KEY_BYTES = 16


class Span:
    """One picture, or one tile of it. Owner: the prompt's `Pictures`, who owns ``chunk``."""

    __slots__ = ("chunk", "last", "n_cells", "n_positions", "start")

    def __init__(self, start: int, n_cells: int, n_positions: int, *, is_flat: bool, chunk: Any = None) -> None:
        self.start = start
        """Cells of the prompt before it."""
        self.n_cells = n_cells
        self.n_positions = n_positions
        """What it moves on what follows; fewer than cells where rows and columns count (M-RoPE)."""
        self.last = n_cells - 1 if is_flat else 0
        """Position of its last cell, from its first."""
        self.chunk = chunk

    @property
    def end(self) -> int:
        """The first cell behind it."""
        return self.start + self.n_cells


def key_of(picture_id: str, index: int) -> int:
    """The number that stands in a prompt for the cells of its ``index``-th picture."""
    digest = hashlib.sha256(f"{index} {picture_id}".encode()).digest()
    return -1 - int.from_bytes(digest[:KEY_BYTES], "big")


def position(spans: Sequence[Span], n_tokens: int) -> int:
    """Where the token stands that has so many before it."""
    return n_tokens - sum(span.n_cells - span.n_positions for span in spans if span.end <= n_tokens)


def last_position(spans: Sequence[Span], n_tokens: int) -> int:
    """The highest position among the first ``n_tokens``."""
    for span in spans:
        if span.end == n_tokens:
            return position(spans, span.start) + span.last
    return position(spans, n_tokens) - 1


def next_span(spans: Sequence[Span], n_tokens: int) -> Span | None:
    """The first picture not among the first ``n_tokens``."""
    return next((span for span in spans if span.start >= n_tokens), None)


def whole(prompt: Sequence[int], n_tokens: int) -> int:
    """At most ``n_tokens``, and no picture cut in two."""
    while 0 < n_tokens < len(prompt) and prompt[n_tokens] < 0 and prompt[n_tokens] == prompt[n_tokens - 1]:
        n_tokens -= 1
    return n_tokens
