"""Plays text through a MessageParser in any pieces and tells what a reader sees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mcd.api.request import ToolFunction
from mcd.engine.parsers.message import MessageParser
from mcd.engine.parsers.syntax import Family
from tests.fakes.turns import TOOLS, Turn


class Story:
    """What came out."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.calls: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.n_pieces: list[int] = []
        """Of arguments, for each call."""


def play(
    turn: Turn, *, step: int = 0, places: Sequence[int] = (), length: int | None = None, is_cut: bool = False
) -> Story:
    """Through the parser of its family, in steps of so many characters or cut at these places."""
    text = turn.text if length is None else turn.text[:length]
    cuts = list(range(0, len(text), step)) if step else [place % (len(text) + 1) for place in places]
    return read(text, turn.family, cuts, is_thinking=turn.is_thinking, is_cut=is_cut)


def read(
    text: str,
    family: Family,
    cuts: Sequence[int] = (),
    *,
    tools: Sequence[ToolFunction] = TOOLS,
    is_thinking: bool = False,
    is_cut: bool = False,
) -> Story:
    """Any text through a family's parser."""
    parser = MessageParser(family, tools, is_thinking=is_thinking, id_seed=b"seed")
    story = Story()
    edges = sorted({0, len(text), *cuts})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    for index, piece in enumerate([*pieces, ""]):
        is_end = index == len(pieces)
        parsed = parser.feed(piece, is_end=is_end, is_cut=is_cut and is_end)
        story.text += parsed.text
        story.reasoning += parsed.reasoning
        for call in parsed.calls:
            if call.id:
                assert call.index == len(story.calls)
                story.calls.append((call.name, ""))
                story.ids.append(call.id)
                story.n_pieces.append(0)
            name, arguments = story.calls[call.index]
            story.calls[call.index] = (name, arguments + call.arguments)
            story.n_pieces[call.index] += bool(call.arguments)
    return story
