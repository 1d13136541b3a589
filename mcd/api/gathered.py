"""The results of one task as they arrive; written when they are whole, for clients of these endpoints do not stream."""

from __future__ import annotations

from collections.abc import Iterable

from mcd.api.events import AnswerEvent, Answering
from mcd.errors import RemoteProtocolError
from mcd.wire.payload import Final, Scores, Text, Tokens, Usage, Vectors


class Gathered:
    """Collects one task's results. Owner: the HTTP handler."""

    def __init__(self, model: str) -> None:
        self._begin(model)

    def _begin(self, model: str) -> None:
        self.model = model
        """As the provider calls it, once one answers."""
        self.vectors: list[bytes] = []
        self.scores: list[float] = []
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self._usage: Usage | None = None

    def add(self, events: Iterable[AnswerEvent]) -> None:
        """Take the next events; what a provider that failed had delivered goes when the next answers.   [ENV-37]"""
        for event in events:
            match event:
                case Answering():
                    self._begin(event.model)
                case Vectors():
                    self.vectors += event.vectors
                case Scores():
                    self.scores += event.scores
                case Tokens():
                    self.tokens += event.tokens
                case Text():
                    self.texts.append(event.text)
                case Final():
                    self._usage = event.usage

    @property
    def usage(self) -> Usage:
        """What is billed.

        Raises:
            RemoteProtocolError: The answer ended without its final statement.
        """
        if self._usage is None:
            raise RemoteProtocolError("the answer ended without its final statement")
        return self._usage
