"""One choice being generated: its tokens, its sampler, its text, its limits, why it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items

import numpy as np

from mcd.engine.backend import Job, Piece
from mcd.engine.candidates import Floats
from mcd.engine.model import Model
from mcd.engine.parsers.message import MessageParser
from mcd.engine.sampler import DEAD_END, TOO_SLOW, Sampler
from mcd.engine.slots import Slot
from mcd.engine.spans import Span
from mcd.engine.text import Characters, Stops
from mcd.wire.payload import TokenLogprob, ToolCallDelta, TopLogprob


class Vocabulary(dict[int, str | bytes | None]):
    """Token pieces, looked up once each: text, bytes if they are no whole UTF-8, None for an end token."""

    def __init__(self, model: Model, marks: str = "") -> None:
        """Begin.

        Args:
            model: Whose tokens.
            marks: Control tokens whose text is in here are shown: the parser reads them. Others show nothing.
        """
        super().__init__()
        self._model = model
        self._marks = marks

    def __missing__(self, token: int) -> str | bytes | None:
        """Look it up."""
        piece = self[token] = self._read(token)
        return piece

    def _read(self, token: int) -> str | bytes | None:
        if token < 0 or self._model.is_end(token):
            return None
        piece = self._model.piece(token)
        if not piece:
            special = self._model.piece(token, special=True)
            piece = special if special.decode("utf-8", "replace") in self._marks else b""
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            return piece


class Sequence:
    """Owner: Scheduler from admission to its end; its sampler is freed by `close`."""

    __slots__ = (
        "_characters", "_is_plain", "_parser", "_stops", "_vocabulary", "choice", "finish_reason", "is_held",
        "is_paused", "job", "last_token", "limit", "n_cached", "n_generated", "n_logprobs", "n_reasoning", "prompt",
        "replayed", "sampler", "slot", "spans", "stops_after_call",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        choice: int,
        prompt: list[int],
        limit: int,
        *,
        sampler: Sampler,
        vocabulary: Vocabulary,
        parser: MessageParser | None,
    ) -> None:
        self.job = job
        self.choice = choice
        self.prompt = prompt
        """Tokens to compute before the first new one: the conversation, then what is resumed after."""
        self.spans: Items[Span] = ()
        """Pictures of the prompt."""
        self.limit = limit
        """Most new tokens."""
        self.sampler = sampler
        self.n_logprobs = job.request.top_logprobs if job.request.logprobs else -1
        self.stops_after_call = not job.request.parallel_tool_calls
        self.slot: Slot | None = None
        self.is_paused = False
        self.is_held = False
        """Its next token is still being chosen."""
        self.finish_reason = ""
        """Empty while it runs."""
        self.last_token = -1
        self.n_generated = 0
        self.n_reasoning = 0
        self.n_cached = 0
        self.replayed = job.resume if choice == 0 else ()
        self._vocabulary = vocabulary
        self._characters = Characters()
        self._stops = Stops(job.request.stop)
        self._parser = parser
        self._is_plain = False
        """A token's text is shown as it is: nothing is held back and nothing looked for."""

    def replay(self) -> None:
        """Bring the text to where an earlier provider stopped; what that showed is not shown again.

        Sets ``finish_reason`` when nothing is left to say.
        """
        for token in self.replayed:
            piece = self._vocabulary[token]
            if piece is not None:
                self._show(piece)
        if self._stops.is_stopped:  # it had said everything, but its end was lost with the provider
            self._finish("stop")
        elif self._has_called_enough():
            self._finish("tool_calls")
        elif self.limit <= 0:
            self._finish("length")

    def take(self, token: int, logits: Floats | None, model: Model) -> Piece | None:
        """Add a sampled token; return what it adds to the answer, None for an end token.

        ``logits`` is the row it was chosen from, where its probability is asked for.
        """
        if token == DEAD_END and model.end_token >= 0:  # a model without an end ends where its answer may
            self._finish("dead end")
            return None
        if token == TOO_SLOW:
            self._finish("too slow")
            return None
        self.last_token = token
        piece = self._vocabulary[token]
        if piece is None:
            self._finish("stop")
            return None
        self.n_generated += 1
        logprob = self._logprob(token, logits, model) if logits is not None and self.n_logprobs >= 0 else None
        if self._is_plain and isinstance(piece, str):
            added = Piece(self.choice, token, piece, logprob=logprob)
        else:
            text, reasoning, calls = self._show(piece)
            self.n_reasoning += bool(reasoning) or self._is_thinking()
            added = Piece(self.choice, token, text, reasoning, calls, logprob)
            if self._stops.is_stopped:
                self._finish("stop")
            elif self._has_called_enough():
                self._finish("tool_calls")
        if self.n_generated >= self.limit and not self.finish_reason:
            self._finish("length")
        return added

    def rest(self) -> Piece | None:
        """What was held back, once it has finished."""
        text, reasoning = self._characters.finish(), ""
        calls: tuple[ToolCallDelta, ...] = ()
        if self._parser is not None:
            # the limit, or the one call that was wanted: what was begun besides is no text
            parsed = self._parser.feed(text, is_end=True, is_cut=self.finish_reason != "stop")
            text, reasoning, calls = parsed.text, parsed.reasoning, parsed.calls
            if self._parser.calls.n_begun and self.finish_reason == "stop":
                self.finish_reason = "tool_calls"
        text = self._stops.feed(text) + self._stops.finish()
        if not (text or reasoning or calls):
            return None
        return Piece(self.choice, None, text, reasoning, calls)

    def close(self) -> None:
        """Free what lies in C."""
        self.sampler.close()

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason

    def _is_thinking(self) -> bool:
        return self._parser is not None and not self._parser.is_over and self._parser.is_thinking

    def _has_called_enough(self) -> bool:
        return self.stops_after_call and self._parser is not None and self._parser.calls.n_complete > 0

    def _show(self, piece: str | bytes) -> tuple[str, str, tuple[ToolCallDelta, ...]]:
        text, parser = self._characters.feed(piece), self._parser
        if parser is None or parser.is_over:
            self._is_plain = not (self._stops.is_wanted or self._characters.is_inside)
            return self._stops.feed(text), "", ()
        parsed = parser.feed(text)
        # stop strings end the answer proper: what a model thinks or calls cannot contain one
        shown = self._stops.feed(parsed.text)
        if parsed.calls and not self._stops.is_stopped:
            shown += self._stops.finish()
        return shown, parsed.reasoning, parsed.calls

    def _logprob(self, token: int, logits: Floats, model: Model) -> TokenLogprob:
        """From the raw logits, before temperature and filters; costs 1.1 ms at 128 000 tokens."""
        shift = logits.max()
        norm = float(shift) + math.log(np.exp(logits - shift).sum(dtype=np.float64))
        n_top = min(self.n_logprobs, model.n_vocab)
        best = np.argpartition(logits, -n_top)[-n_top:] if n_top else np.empty(0, np.int64)
        best = best[np.argsort(-logits[best])]
        top = tuple(TopLogprob(model.piece(int(i), special=True), float(logits[i]) - norm) for i in best)
        return TokenLogprob(model.piece(token, special=True), float(logits[token]) - norm, top)
