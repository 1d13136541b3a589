"""What a piece of text added to an answer.   Pure."""

from __future__ import annotations

from mcd.wire.payload import ToolCallDelta


class Parsed:
    """Text, reasoning and pieces of calls."""

    __slots__ = ("calls", "is_thinking", "reasoning", "text")

    def __init__(self, text: str = "", reasoning: str = "", calls: tuple[ToolCallDelta, ...] = ()) -> None:
        self.text = text
        self.reasoning = reasoning
        self.calls = calls
        self.is_thinking = False
        """Thoughts are open."""

    def tell(self, text: str) -> None:
        """More of the answer."""
        self.text += text

    def think(self, text: str) -> None:
        """More of the thoughts."""
        self.reasoning += text

    def take(self) -> Parsed:
        """All so far; begin anew."""
        taken = Parsed(self.text, self.reasoning, self.calls)
        self.text, self.reasoning, self.calls = "", "", ()
        return taken
