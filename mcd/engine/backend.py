"""What the worker asks of whatever computes: take jobs, step, cancel; answers go into each job's sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from mcd.api.request import ChatRequest
from mcd.api.tasks import CAPABILITIES, AnyRequest, TaskRequest
from mcd.errors import McdError, UnsupportedError, UserError
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import Part, TokenLogprob, ToolCallDelta, Usage

MAX_WAITING = 1024
"""Jobs waiting for a slot; the provider's admission keeps it far lower, this bounds memory should it not."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Plaintext of all waiting jobs; eight of the largest requests."""


class Piece(msgspec.Struct, eq=False, gc=False):
    """What one output token added to one choice. Repr shows no text."""

    choice: int
    token: int | None
    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprob: TokenLogprob | None = None

    def __repr__(self) -> str:
        """Show the choice alone."""
        return f"<Piece of {self.choice}>"


class Sink(Protocol):
    """Where a job's answer goes. Every job ends with exactly one of finished, failed, refused or broken."""

    def started(self, n_prompt_tokens: int) -> None:
        """The prompt is tokenised; comes before the first piece."""
        ...

    def piece(self, piece: Piece) -> None:
        """One more output token, or text that was held back (token None)."""
        ...

    def part(self, part: Part) -> None:
        """The next results of a task, in order."""
        ...

    def finished(self, finish_reasons: Sequence[str], usage: Usage) -> None:
        """The answer is complete."""
        ...

    def failed(self, error: UserError) -> None:
        """The request cannot be served as written; said to the requester, sealed."""
        ...

    def refused(self, reason: RefuseReason) -> None:
        """No room; nothing was computed."""
        ...

    def broken(self, code: int) -> None:
        """The engine's own fault; ``code`` is a messages.FailureCode."""
        ...


class Job(msgspec.Struct, eq=False):
    """One request as a backend sees it: parsed, checked, with the place for its answer. Repr shows no text."""

    id: int
    request: ChatRequest
    sink: Sink
    resume: tuple[int, ...] = ()
    cache_salt: str = ""
    max_output_tokens: int = 0
    """Of the whole answer: all choices, and what earlier providers delivered; 0 is no bound."""
    asker: int = 0
    max_slots: int = 0
    """As in `ports.EngineRequest`."""
    size_bytes: int = 0
    asked_ms: int = 0
    """What the prompt may tell of the time."""

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"<Job {self.id}>"


class Task(msgspec.Struct, eq=False):
    """A request that generates nothing, parsed and checked, with the place for its answer. Repr shows no text."""

    id: int
    request: TaskRequest
    sink: Sink
    size_bytes: int = 0
    asked_ms: int = 0

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"<Task {self.id}>"


def blind() -> UnsupportedError:
    """The error of a picture for a model without a projector."""
    return UnsupportedError("this model cannot see pictures; choose one with the capability vision", param="messages")


def n_pictures(request: ChatRequest) -> int:
    """Pictures of a request."""
    return sum(len(message.images) for message in request.messages)


def not_done(request: AnyRequest, capabilities: Sequence[str]) -> UnsupportedError:
    """What to say of a request that the model does not do.   [ENV-34]"""
    does = ", ".join(capabilities) or "nothing that can be asked for"
    return UnsupportedError(f"this model does {does}; it does not do {CAPABILITIES[type(request)]}", param="kind")


class Facts:
    """What a loaded backend says about itself."""

    __slots__ = (
        "capabilities", "device", "n_ctx", "n_slots", "notes", "output_tokens_per_s", "prefill_tokens_per_s", "tuning",
    )  # fmt: skip

    def __init__(
        self,
        *,
        n_ctx: int,
        n_slots: int,
        capabilities: tuple[str, ...],
        prefill_tokens_per_s: float,
        output_tokens_per_s: float,
        device: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.n_ctx = n_ctx
        self.n_slots = n_slots
        self.capabilities = capabilities
        self.prefill_tokens_per_s = prefill_tokens_per_s
        self.output_tokens_per_s = output_tokens_per_s
        self.device = device
        self.notes = notes
        self.tuning: tuple[str, ...] = ()
        """What was chosen by measuring, and why; a line of `mcd doctor` each."""


class Backend(Protocol):
    """Computes answers. Single-threaded: every call comes from the worker's loop."""

    sealing: int
    """Where the envelope opens, seen from the weights: 0 same process, 1 beside another server, 2 scripted."""

    def facts(self) -> Facts:
        """What it can do; fixed after loading."""
        ...

    def load(self) -> tuple[int, int]:
        """(running, waiting) jobs now."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job: calls ``sink.started``, or ends it at once with failed or refused."""
        ...

    def submit_task(self, task: Task) -> None:
        """Take a task; as `submit`.

        Raises:
            UserError: The model does not do it, or the request cannot be served as written.
        """
        ...

    def step(self, now: float) -> None:
        """Do a little work and feed the sinks; never blocks longer than one decode."""
        ...

    def wait_s(self, now: float) -> float | None:
        """Seconds until ``step`` has something to do; 0 for now, None for not before a submit."""
        ...

    def wakers(self) -> Sequence[int]:
        """File descriptors that become readable when ``step`` has something to do."""
        ...

    def cancel(self, job_id: int, n_results: int = 0) -> Usage:
        """Forget a job at once; its sink is not called again.

        Returns what it has used, of a task what its first ``n_results`` results have; nothing if there is none.
        """
        ...

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """Hold back or go on with one job; the others are not affected."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class StartError(McdError):
    """A backend cannot start, for a reason that stays; ``failure`` is a messages.FailureCode."""

    code = "engine_start_failed"

    def __init__(self, failure: int) -> None:
        super().__init__(f"the engine cannot start: code {failure}")
        self.failure = failure
