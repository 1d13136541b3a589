"""The results of a task on their way into frames: what is there at a flush shares frames as far as they hold it."""

from __future__ import annotations

from collections.abc import Sequence

from mcd.engine.seal import Paced
from mcd.errors import InvalidRequestError
from mcd.wire.messages import MAX_TOKENS_PER_CHUNK
from mcd.wire.payload import MAX_RESULTS_PER_FRAME, MAX_TEXT_CHARS_PER_FRAME, Part, Scores, Text, Tokens, Vectors

MAX_PART_BYTES = 61_440
"""Of vectors joined in one frame: few frames, and with their heads still below what a frame holds."""
VECTOR_HEAD_BYTES = 5
MAX_RESULT_BYTES = 15 * 1024 * 1024
"""Of all vectors of one answer: what a response may hold, less heads and padding."""
MAX_PARTS = 256
"""Of a list of tokens or a text: with its padding what a response holds, whatever the tokens or the script. Of more the
engine could only break off, and the entry would ask the next provider in vain."""


class PartPolicy(Paced[Part]):
    """When results leave, and which of them together."""

    def put(self, part: Part) -> None:
        """Take the next results."""
        joined = _joined(self._pending[-1], part) if self._pending else None
        if joined is None:
            self._pending.append(part)
        else:
            self._pending[-1] = joined


def n_results(part: Part) -> int:
    """Results that are counted: vectors or scores."""
    match part:
        case Vectors(vectors=results) | Scores(scores=results):
            return len(results)
    return 0


def split_tokens(tokens: Sequence[int], param: str) -> list[Part]:
    """Token ids in parts that frames hold.

    Raises:
        InvalidRequestError: ``param`` has more than an answer may hold.
    """
    _need_fit(len(tokens), MAX_TOKENS_PER_CHUNK, param, "tokens")
    starts = range(0, len(tokens), MAX_TOKENS_PER_CHUNK)
    return [Tokens(tuple(tokens[at : at + MAX_TOKENS_PER_CHUNK])) for at in starts]


def split_text(text: str) -> list[Part]:
    """A text in parts that frames hold.

    Raises:
        InvalidRequestError: It is longer than an answer may hold.
    """
    _need_fit(len(text), MAX_TEXT_CHARS_PER_FRAME, "tokens", "characters")
    starts = range(0, len(text), MAX_TEXT_CHARS_PER_FRAME)
    return [Text(text[at : at + MAX_TEXT_CHARS_PER_FRAME]) for at in starts]


def _need_fit(n: int, n_per_part: int, param: str, what: str) -> None:
    most = MAX_PARTS * n_per_part
    if n > most:
        raise InvalidRequestError(
            f"{param} has {n} {what}; one answer holds {most}: send it in several requests", param=param
        )


def _joined(first: Part, second: Part) -> Part | None:
    """Both in one frame, None when it cannot hold them or they are as large as frames anyway."""
    match first, second:
        case Vectors(), Vectors():
            vectors = first.vectors + second.vectors
            size_bytes = sum(map(len, vectors)) + VECTOR_HEAD_BYTES * len(vectors)
            fits = size_bytes <= MAX_PART_BYTES and len(vectors) <= MAX_RESULTS_PER_FRAME
            return Vectors(vectors) if fits else None
        case Scores(), Scores():
            scores = first.scores + second.scores
            return Scores(scores) if len(scores) <= MAX_RESULTS_PER_FRAME else None
        case _:
            return None
