"""The scripted backend: plays answers from a file, on time, for tests of everything around an engine."""

from __future__ import annotations

import heapq
import os
import signal
from collections import deque
from collections.abc import Sequence

from mcd.api.request import ChatRequest
from mcd.engine import script
from mcd.engine.backend import MAX_WAITING, MAX_WAITING_BYTES, Facts, Job, Piece, Task, not_done
from mcd.engine.messages import FailureCode
from mcd.engine.script import Rule, Script
from mcd.engine.text import TextStream
from mcd.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import ToolCallDelta, Usage

MAX_BURST_TOKENS = 32
"""Tokens of one job per step when it has no pace or is late, so that the others get their turn."""
CALL_PIECE_CHARS = 16
DEATH_DELAY_S = 0.2
"""Between the last token and the death of the process: time for the tokens to be flushed and sent."""


class ScriptedBackend:
    """Owner of all running performances; see script.Rule for what one can do."""

    sealing = 2

    def __init__(self, play: Script, n_slots: int = 0, n_ctx: int = 0) -> None:
        self._script = play
        self._n_slots = n_slots or play.n_slots
        self._n_ctx = min(n_ctx or play.n_ctx, play.n_ctx)
        self._running: dict[int, _Performance] = {}
        self._waiting: deque[_Performance] = deque()
        self._waiting_bytes = 0
        self._due: list[tuple[float, int]] = []

    def facts(self) -> Facts:
        """As the script claims."""
        return Facts(
            n_ctx=self._n_ctx,
            n_slots=self._n_slots,
            capabilities=self._script.capabilities,
            prefill_tokens_per_s=self._script.prefill_tokens_per_s,
            output_tokens_per_s=self._script.output_tokens_per_s,
            device="scripted",
        )

    def load(self) -> tuple[int, int]:
        """(running, waiting)."""
        return len(self._running), len(self._waiting)

    def submit(self, job: Job) -> None:
        """Choose the rule; wait for a slot when there is none."""
        rule = script.choose(self._script, last_user_text(job.request))
        if rule is None:
            job.sink.failed(
                InvalidRequestError("no rule of the script matches the last user message", param="messages")
            )
            return
        if rule.refuse is not None:
            job.sink.refused(RefuseReason[rule.refuse])
            return
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + job.size_bytes > MAX_WAITING_BYTES:
            job.sink.refused(RefuseReason.BUSY)
            return
        show = _Performance(job, rule)
        fault = show.check(self._n_ctx)
        if fault is not None:
            job.sink.failed(fault)
            return
        job.sink.started(show.n_prompt_tokens)
        self._waiting.append(show)
        self._waiting_bytes += job.size_bytes

    def submit_task(self, task: Task) -> None:
        """Refuse: only chats are answered here.

        Raises:
            UnsupportedError: Always.
        """
        raise not_done(task.request, self.facts().capabilities)

    def step(self, now: float) -> None:
        """Start those who wait, play every token that is due."""
        self._admit(now)
        while self._due and self._due[0][0] <= now:
            _, job_id = heapq.heappop(self._due)
            show = self._running.get(job_id)
            if show is None or show.is_paused:
                continue
            next_at = show.play(now)
            if next_at is None:
                del self._running[job_id]
            else:
                heapq.heappush(self._due, (max(next_at, now + 1e-6), job_id))
        self._admit(now)

    def wait_s(self, now: float) -> float | None:
        """Until the next token is due."""
        if self._waiting and len(self._running) < self._n_slots:
            return 0.0
        return max(0.0, self._due[0][0] - now) if self._due else None

    def wakers(self) -> Sequence[int]:
        """None: only time wakes it."""
        return ()

    def cancel(self, job_id: int, n_results: int = 0) -> Usage:
        """Drop it; its place in the heap is skipped when it comes up."""
        running = self._running.pop(job_id, None)
        if running is not None:
            return running.usage()
        for show in self._waiting:
            if show.job.id == job_id:
                self._waiting.remove(show)
                self._waiting_bytes -= show.job.size_bytes
                break
        return Usage(0, 0)

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """A paused performance is late afterwards, and catches up."""
        show = self._running.get(job_id)
        if show is None or show.is_paused == is_paused:
            return
        show.is_paused = is_paused
        if not is_paused:
            heapq.heappush(self._due, (show.next_at, job_id))

    def close(self) -> None:
        """Nothing to free."""

    def _admit(self, now: float) -> None:
        while self._waiting and len(self._running) < self._n_slots:
            show = self._waiting.popleft()
            self._waiting_bytes -= show.job.size_bytes
            show.begin(now)
            self._running[show.job.id] = show
            heapq.heappush(self._due, (show.next_at, show.job.id))


class _Performance:
    """One job being played. Owner: ScriptedBackend."""

    def __init__(self, job: Job, rule: Rule) -> None:
        self.job = job
        self.rule = rule
        self.is_paused = False
        self.next_at = 0.0
        self.n_prompt_tokens = sum(len(script.pieces(m.content or "")) for m in job.request.messages)
        answer = _answer(rule, last_user_text(job.request))
        self._n_reasoning = len(script.pieces(rule.reasoning))
        self._tokens = script.pieces(rule.reasoning) + answer
        self._calls = _call_deltas(rule) if not answer_is_forced_text(job.request) else []
        self._n_tokens = len(self._tokens) + len(self._calls)
        limits = [limit for limit in (job.request.max_tokens,) if limit is not None]
        if job.max_output_tokens:
            limits.append(job.max_output_tokens)
        self._limit = min([self._n_tokens, *limits])
        self._at = 0
        self._begun_at = 0.0
        self._is_dying = False
        self._text = TextStream(job.request.stop)

    def check(self, n_ctx: int) -> InvalidRequestError | ContextLengthError | UnsupportedError | None:
        """The fault that keeps this request from being played, if any."""
        if self.n_prompt_tokens + (self.job.request.max_tokens or 1) > n_ctx:
            return ContextLengthError(
                f"the prompt has {self.n_prompt_tokens} tokens and asks for {self.job.request.max_tokens or 1} more;"
                f" the context holds {n_ctx}",
                param="messages",
            )
        if self.job.request.n != 1:
            return UnsupportedError("the scripted engine answers with one choice", param="n")
        if tuple(self._id(index) for index in range(min(len(self.job.resume), self._n_tokens))) != self.job.resume:
            return InvalidRequestError("the tokens to resume after are not this answer's", param="resume")
        return None

    def begin(self, now: float) -> None:
        """Take the stage; tokens delivered by an earlier provider are replayed silently."""
        for index in range(len(self.job.resume)):
            self._feed(index)
        self._at = len(self.job.resume)
        self._begun_at = now + self.rule.delay_first_s
        self.next_at = self._due_at(self._at)

    def play(self, now: float) -> float | None:
        """Play what is due; return when the next token is, or None at the end."""
        for _ in range(MAX_BURST_TOKENS):
            if self._dies(now):
                return self.next_at
            if self.rule.break_at_token == self._at:
                self.job.sink.broken(FailureCode.INTERNAL)
                return None
            if self._at >= self._limit or self._text.is_stopped:
                self._finish()
                return None
            self._emit(self._at)
            self._at += 1
            self.next_at = self._due_at(self._at)
            if self.next_at > now:
                break
        return self.next_at

    def _due_at(self, index: int) -> float:
        at = self._begun_at
        if self.rule.tokens_per_s is not None:
            at += (index - len(self.job.resume)) / self.rule.tokens_per_s
        if index >= self.rule.stall_at_token >= len(self.job.resume):
            at += self.rule.stall_s
        return at

    def _dies(self, now: float) -> bool:
        if self.rule.die_at_token is None or self._at != self.rule.die_at_token:
            return False
        if self._is_dying:
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_dying = True
        self.next_at = now + DEATH_DELAY_S
        return True

    def _emit(self, index: int) -> None:
        token = self._id(index)
        if index >= len(self._tokens):
            self.job.sink.piece(Piece(0, token, "", tool_calls=(self._calls[index - len(self._tokens)],)))
        elif index < self._n_reasoning:
            self.job.sink.piece(Piece(0, token, "", reasoning=self._tokens[index]))
        else:
            self.job.sink.piece(Piece(0, token, self._feed(index)))

    def _feed(self, index: int) -> str:
        if not self._n_reasoning <= index < len(self._tokens):
            return ""
        return self._text.feed(self._tokens[index])

    def _id(self, index: int) -> int:
        if index < len(self._tokens):
            return script.token_id(self._tokens[index])
        call = self._calls[index - len(self._tokens)]
        return script.token_id(f"{call.index} {call.id} {call.name} {call.arguments}")

    def _finish(self) -> None:
        rest = self._text.finish()
        if rest:
            self.job.sink.piece(Piece(0, None, rest))
        if self._at < self._n_tokens and not self._text.is_stopped:
            reason = "length"
        elif self.rule.finish_reason is not None:
            reason = self.rule.finish_reason
        else:
            reason = "tool_calls" if self._calls else "stop"
        self.job.sink.finished((reason,), self.usage())

    def usage(self) -> Usage:
        """What was played so far."""
        done = len(self.job.resume)
        n_reasoning = min(self._at, self._n_reasoning) - min(done, self._n_reasoning)
        return Usage(self.n_prompt_tokens, self._at - done, 0, n_reasoning)


def last_user_text(request: ChatRequest) -> str:
    """The content of the last user message; empty when there is none."""
    return next((m.content or "" for m in reversed(request.messages) if m.role == "user"), "")


def answer_is_forced_text(request: ChatRequest) -> bool:
    """True when the client forbids tool calls."""
    return request.tool_choice == "none"


def _answer(rule: Rule, last_user: str) -> list[str]:
    if rule.deltas is not None:
        return list(rule.deltas) * rule.repeat
    text = last_user if rule.echo else rule.text or ""
    return script.pieces(text * rule.repeat)


def _call_deltas(rule: Rule) -> list[ToolCallDelta]:
    deltas: list[ToolCallDelta] = []
    for index, call in enumerate(rule.tool_calls):
        deltas.append(ToolCallDelta(index, call.id or f"call_{index}", call.name))
        deltas.extend(
            ToolCallDelta(index, arguments=call.arguments[at : at + CALL_PIECE_CHARS])
            for at in range(0, len(call.arguments), CALL_PIECE_CHARS)
        )
    return deltas
