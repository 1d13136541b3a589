"""The answer to one request inside the worker: gathers what tokens add, seals it on time, ends it exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from mcd.engine import messages
from mcd.engine.backend import Piece
from mcd.engine.messages import CREDIT_CHUNKS, FailureCode, ToDaemon
from mcd.engine.parts import PartPolicy, n_results
from mcd.engine.seal import FlushPolicy, OpenedRequest, SealKeys
from mcd.errors import LimitError, LocalProtocolError, UserError
from mcd.units import Seconds
from mcd.wire.codec import encode_delta, encode_failure, encode_final, encode_part
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import MAX_ERROR_CHARS, Delta, Failure, Final, Part, ToolCallDelta, Usage

MAX_GATHERED_PIECES = 512
"""Pieces gathered before they become a delta even if no flush is due; far below what a frame holds."""
MAX_PIECE_CHARS = 4096
"""A longer piece (a whole tool call, a server's large chunk) is cut, so that a frame holds it in any encoding."""
MAX_RUN_BYTES = 32_768
"""Of pieces joined into one delta: half of what a frame holds."""


class Turn:
    """What all answers share of one turn of the worker's loop: the time, the way out, who needs attention."""

    __slots__ = ("changed", "now", "post", "scheduled")

    def __init__(self, post: Callable[[ToDaemon, int], None]) -> None:
        self.now: Seconds = 0.0
        self.post = post
        self.scheduled: list[Answer] = []
        """Answers whose ``due_at`` was set; the worker takes them out."""
        self.changed: list[Answer] = []
        """Answers that ended or ran out of credit, the same."""


class Answer:
    """A `backend.Sink` that seals. Owner: the worker."""

    __slots__ = (
        "_credit", "_gathered", "_has_started", "_keys", "_n_sealed_tokens", "_parts", "_policy", "_sealer", "_turn",
        "due_at", "id", "is_over", "is_paused", "n_choices", "n_sealed_results",
    )  # fmt: skip

    def __init__(self, id: int, opened: OpenedRequest, keys: SealKeys, turn: Turn) -> None:
        self.id = id
        self.due_at: Seconds | None = None
        """When gathered pieces must leave; None while there are none, or no credit."""
        self.is_over = False
        self.is_paused = False
        self.n_choices = 1
        self.n_sealed_results = 0
        """Vectors or scores in frames."""
        self._sealer = opened.sealer
        self._keys = keys
        self._turn = turn
        self._policy = FlushPolicy()
        self._parts: PartPolicy | None = None
        """Of a task; a chat has none."""
        self._credit = CREDIT_CHUNKS
        self._gathered: list[Piece] = []
        self._has_started = False
        self._n_sealed_tokens = 0

    # --- from the backend ---

    def started(self, n_prompt_tokens: int) -> None:
        """Tell the entry the response key."""
        if not self._has_started:
            self._has_started = True
            self._turn.post(messages.Started(self.id, self._sealer.response_key, n_prompt_tokens), 128)

    def piece(self, piece: Piece) -> None:
        """Gather; the first piece leaves at once, then everything at each flush."""
        if _n_chars(piece) > MAX_PIECE_CHARS:
            self._gathered.extend(_split(piece))
        else:
            self._gathered.append(piece)
        if self.due_at is None and not self.is_paused:
            if self._turn.now >= self._policy.opens_at:
                self.flush()
            else:
                self.due_at = self._policy.opens_at
                self._turn.scheduled.append(self)
        elif len(self._gathered) >= MAX_GATHERED_PIECES:
            self._to_policy()

    def part(self, part: Part) -> None:
        """Results of a task: what is there at a flush leaves together, as pieces do."""
        if self._parts is None:
            self._parts = PartPolicy()
        self._parts.put(part)
        if not self.is_paused:
            self._seal_parts(self._parts.flush(self._turn.now))
            self._set_due()

    def finished(self, finish_reasons: Sequence[str], usage: Usage) -> None:
        """Seal what is left, the end padding and the final frame."""
        self._to_policy()
        self._seal_all(self._policy.finish())
        if self._parts is not None:
            self._seal_parts(self._parts.finish())
        if not self.is_over:
            self._seal_end(tuple(finish_reasons), usage)

    def failed(self, error: UserError) -> None:
        """Seal the error: it may quote the request, so nobody but the requester reads it. Nothing is charged."""
        self.started(0)
        self._gathered.clear()
        failure = Failure(error.code, error.message[:MAX_ERROR_CHARS], (error.param or "")[:128])
        self._end(self._sealer.seal_error(encode_failure(failure)), Usage(0, 0))

    def refused(self, reason: RefuseReason) -> None:
        """Say no in clear: nothing was computed."""
        self._close()
        self._turn.post(messages.Refused(self.id, reason), 64)

    def broken(self, code: int) -> None:
        """Break off in clear, with a code."""
        self._close()
        self._turn.post(messages.Failed(self.id, code), 64)

    # --- from the worker ---

    def cancelled(self, usage: Usage) -> None:
        """Seal an end for what was sealed before; what is only gathered was not delivered.   [ENV-38]

        Reasoning comes first in an answer, so of its tokens as many were sealed as there is room for.
        """
        self.started(0)  # a reader has no key for an end before that
        n_output = self._n_sealed_tokens
        owed = msgspec.structs.replace(
            usage, n_output_tokens=n_output, n_reasoning_tokens=min(usage.n_reasoning_tokens, n_output)
        )
        has_some = n_output or self.n_sealed_results
        self._seal_end(("cancelled",) * self.n_choices, owed if has_some else Usage(0, 0))

    def flush(self) -> None:
        """Seal what is due. While the reader is out of credit it stays gathered."""
        self.due_at = None
        if self.is_over or self.is_paused:
            return
        self._to_policy()
        self._seal_all(self._policy.flush(self._turn.now))
        if self._parts is not None:
            self._seal_parts(self._parts.flush(self._turn.now))
        self._set_due()

    def add_credit(self, n_chunks: int) -> None:
        """The reader took chunks."""
        self._credit += n_chunks

    @property
    def has_credit(self) -> bool:
        """False while the reader lags too far behind."""
        return self._credit > 0

    # --- inside ---

    def _to_policy(self) -> None:
        if self._gathered:
            for delta in _join(self._gathered):
                self._seal_all(self._policy.add(delta, self._turn.now))
            self._gathered.clear()

    def _seal_all(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self._seal(partial(encode_delta, delta), len(delta.tokens))

    def _seal_parts(self, parts: list[Part]) -> None:
        for part in parts:
            self._seal(partial(encode_part, part), 0)
            self.n_sealed_results += n_results(part)

    def _seal(self, encode: Callable[[], bytes], n_tokens: int) -> None:
        if self.is_over:
            return
        try:
            frame = self._sealer.seal_data(encode())
        except (LimitError, LocalProtocolError):
            # more than one response may hold, or nothing that can be said, as a broken file's logprobs: this request
            # is broken off, unpaid, and everybody else's goes on
            self.broken(FailureCode.INTERNAL)
            return
        self._chunk(frame, n_tokens)

    def _set_due(self) -> None:
        self.due_at = self._policy.due_at or (self._parts.due_at if self._parts is not None else None)
        if self.due_at is not None:
            self._turn.scheduled.append(self)

    def _close(self) -> None:
        self.is_over = True
        self._turn.changed.append(self)

    def _chunk(self, frame: bytes, n_tokens: int) -> None:
        self._credit -= 1
        self._n_sealed_tokens += n_tokens
        if self._credit == 0:
            self._turn.changed.append(self)
        self._turn.post(messages.Chunk(self.id, frame, n_tokens), len(frame) + 16)

    def _seal_end(self, finish_reasons: tuple[str, ...], usage: Usage) -> None:
        final = encode_final(Final(finish_reasons, usage, self._sealer.output_digest()))
        self._end(self._sealer.seal_final(final), usage)

    def _end(self, frame: bytes, usage: Usage) -> None:
        self._close()
        receipt = self._keys.sign_receipt(self._sealer, usage)
        self._turn.post(
            messages.Finished(self.id, frame, receipt, usage.n_prompt_tokens, usage.n_output_tokens),
            len(frame) + len(receipt) + 32,
        )


def _n_chars(piece: Piece) -> int:
    n_chars = len(piece.text) + len(piece.reasoning)
    if piece.tool_calls:
        n_chars += sum(len(call.arguments) + len(call.name) + len(call.id) for call in piece.tool_calls)
    return n_chars


def _cut(text: str) -> list[str]:
    return [text[at : at + MAX_PIECE_CHARS] for at in range(0, len(text), MAX_PIECE_CHARS)] or [""]


def _split(piece: Piece) -> list[Piece]:
    """The same in pieces a frame holds; the first carries the token."""
    parts = [Piece(piece.choice, None, "", part) for part in _cut(piece.reasoning) if part]
    parts += [Piece(piece.choice, None, part) for part in _cut(piece.text) if part]
    for call in piece.tool_calls:
        first, *rest = _cut(call.arguments)
        parts.append(Piece(piece.choice, None, "", "", (ToolCallDelta(call.index, call.id, call.name, first),)))
        parts += [Piece(piece.choice, None, "", "", (ToolCallDelta(call.index, arguments=part),)) for part in rest]
    parts[0].token, parts[0].logprob = piece.token, piece.logprob
    return parts


def _join(pieces: list[Piece]) -> list[Delta]:
    """Make one delta of each run of pieces that keeps the order reasoning, text, tool calls within a choice."""
    plain = _plain(pieces)
    if plain is not None:
        return [plain]
    runs: dict[int, tuple[list[Piece], int, int]] = {}
    deltas: list[Delta] = []
    for piece in pieces:
        first, last = _ranks(piece)
        size_bytes = _n_bytes(piece)
        run, reached, run_bytes = runs.get(piece.choice, ([], 0, 0))
        if run and (first < reached or run_bytes + size_bytes > MAX_RUN_BYTES):
            deltas.append(_delta(run))
            run, reached, run_bytes = [], 0, 0
        run.append(piece)
        runs[piece.choice] = (run, max(reached, last), run_bytes + size_bytes)
    deltas.extend(_delta(run) for run, _, _ in runs.values())
    return deltas


def _plain(pieces: list[Piece]) -> Delta | None:
    """The delta of pieces of one choice that hold nothing but text, as nearly all do; None for others."""
    choice = pieces[0].choice
    for piece in pieces:
        if piece.choice != choice or piece.reasoning or piece.tool_calls or piece.logprob is not None:
            return None
    text = "".join([piece.text for piece in pieces])
    tokens = tuple([piece.token for piece in pieces if piece.token is not None])
    return Delta(choice, text, tokens) if 4 * len(text) + 5 * len(tokens) <= MAX_RUN_BYTES else None


def _n_bytes(piece: Piece) -> int:
    """At most this many bytes of a frame."""
    size_bytes = 4 * _n_chars(piece) + 5
    if piece.logprob is not None:
        size_bytes += 24 + len(piece.logprob.token) + sum(24 + len(top.token) for top in piece.logprob.top)
    return size_bytes


def _ranks(piece: Piece) -> tuple[int, int]:
    """Where a piece begins and ends in the order reasoning 0, text 1, tool calls 2; an empty one fits anywhere."""
    first = 0 if piece.reasoning else 1 if piece.text else 2
    last = 2 if piece.tool_calls else 1 if piece.text else 0
    return first, last


def _delta(run: list[Piece]) -> Delta:
    return Delta(
        run[0].choice,
        "".join([piece.text for piece in run]),
        tuple([piece.token for piece in run if piece.token is not None]),
        "".join([piece.reasoning for piece in run]),
        _joined([call for piece in run for call in piece.tool_calls]),
        tuple([piece.logprob for piece in run if piece.logprob is not None]),
    )


def _joined(calls: list[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """With the fragments of a call that follow one another as one: a token brings a few characters."""
    joined: list[ToolCallDelta] = []
    for call in calls:
        last = joined[-1] if joined else None
        if last is not None and last.index == call.index and not call.id:
            joined[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + call.arguments)
        else:
            joined.append(call)
    return tuple(joined)
