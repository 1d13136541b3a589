"""The backend of models that generate nothing: embeddings and rerank, batched over all requests.

A step computes as many texts as fit its budget, one from each request in turn, so that a request of two thousand texts
delays a short one by a step. Nothing is kept of a text once it is computed.
"""

from __future__ import annotations

import math
import platform
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mcd.api.tasks import DetokenizeRequest, EmbeddingsRequest, RerankRequest, TokenizeRequest
from mcd.engine import crash, measure
from mcd.engine.aside import Aside, Outcome
from mcd.engine.backend import MAX_WAITING, MAX_WAITING_BYTES, Facts, Job, Task, not_done
from mcd.engine.encoder import Encoder, Item, Vector
from mcd.engine.lexicon import Lexicon
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Model
from mcd.engine.pairs import pair_tokens
from mcd.engine.parts import MAX_RESULT_BYTES
from mcd.engine.roles import Role
from mcd.engine.tidy import SCRUB_AFTER_S, WIPE_AFTER_S
from mcd.errors import ContextLengthError, InvalidRequestError, UserError
from mcd.units import Seconds
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import MAX_RESULTS_PER_FRAME, Scores, Usage, Vectors

DEFAULT_SLOTS = 8
"""Requests whose texts share the steps."""
MAX_TASK_TOKENS = 1_048_576
"""Of all texts of a request: what a machine that computes 300 a second does in the hour an exchange may take. A query
counts with each document, so that a small request could ask for a thousand times its size."""


class EmbedBackend:
    """One GGUF behind the worker. Owner of model, encoder and lexicon."""

    sealing = 0

    def __init__(self, model: Model, role: Role, options: EngineOptions) -> None:
        """Allocate and measure.

        Raises:
            StartError: For a reason that stays.
        """
        n_threads = measure.compute_threads(options.n_threads)
        self._model = model
        self._role = role
        self._encoder = Encoder(model, role, options, n_threads, measure.kv_budget_bytes())
        self._lexicon = Lexicon(model)
        self._texts: Aside[list[list[int]]] = Aside()
        self._asked: dict[int, Task] = {}
        """Tasks whose texts are being tokenised."""
        self._running: dict[int, _Running] = {}
        self._turn: deque[_Running] = deque()
        """Those with texts left to compute, next one first."""
        self._waiting_bytes = 0
        self._scrub_at: Seconds | None = None
        self._wipe_at: Seconds | None = None
        """When what the last texts left is overwritten, unless others come before."""
        speed = self._encoder.measure()
        self._facts = Facts(
            n_ctx=self._encoder.n_ctx,
            n_slots=options.n_slots or DEFAULT_SLOTS,
            capabilities=(role.does, "tokenize"),
            prefill_tokens_per_s=speed,
            output_tokens_per_s=0.0,
            device=options.device or f"CPU {n_threads} thread{'s' * (n_threads > 1)} {platform.machine()}",
        )

    def facts(self) -> Facts:
        """What was measured at the start."""
        return self._facts

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        n_open = len(self._running) + len(self._asked) + self._lexicon.n_open
        n_running = min(n_open, self._facts.n_slots)
        return n_running, n_open - n_running

    def submit(self, job: Job) -> None:
        """Refuse: it generates nothing.

        Raises:
            UnsupportedError: Always.
        """
        raise not_done(job.request, self._facts.capabilities)

    def submit_task(self, task: Task) -> None:
        """Tokenise its texts in a thread; `step` goes on from there.

        Raises:
            UserError: The model does not do it, or the request cannot be served as written.
        """
        n_bytes = self._waiting_bytes + self._lexicon.n_bytes
        if sum(self.load()) >= MAX_WAITING or n_bytes + task.size_bytes > MAX_WAITING_BYTES:
            task.sink.refused(RefuseReason.BUSY)
            return
        match task.request:
            case TokenizeRequest() | DetokenizeRequest() as request:
                self._lexicon.add(task, request)
                return
            case EmbeddingsRequest() as request if self._role.does == "embeddings":
                call = self._input_tokens(request)
            case RerankRequest() as request if self._role.does == "rerank":
                call = self._pair_tokens(request)
            case _:
                raise not_done(task.request, self._facts.capabilities)
        self._asked[task.id] = task
        self._waiting_bytes += task.size_bytes
        self._texts.add(task.id, call, task.size_bytes)

    def step(self, now: Seconds) -> None:
        """Take what was tokenised, then compute one batch."""
        self._lexicon.step(now)
        while (done := self._texts.take()) is not None:
            task = self._asked.pop(done[0], None)
            if task is not None:
                self._tokenised(task, done[1])
        self._fill()
        if not self._encoder.has_work():
            self._tidy(now)
            return
        self._scrub_at, self._wipe_at = now + SCRUB_AFTER_S, now + WIPE_AFTER_S
        for item, vector in self._encoder.compute():
            self._computed(item, vector)

    def _tidy(self, now: Seconds) -> None:
        if self._scrub_at is not None and now >= self._scrub_at:
            self._encoder.scrub()
            self._scrub_at = None
        if self._wipe_at is not None and now >= self._wipe_at:
            self._encoder.wipe()
            self._wipe_at = None

    def wait_s(self, now: Seconds) -> float | None:
        """0 while there are texts to compute; later for what must be overwritten in time."""
        if self._encoder.has_work() or any(not running.is_paused for running in self._turn):
            return 0.0
        due_at = self._wipe_at if self._scrub_at is None else self._scrub_at
        due = [at for at in (due_at, self._lexicon.due_at) if at is not None]
        return max(0.0, min(due) - now) if due else None

    def wakers(self) -> Sequence[int]:
        """Readable when something was tokenised."""
        return (self._texts.fileno(), self._lexicon.waker())

    def cancel(self, job_id: int, n_results: int = 0) -> Usage:
        """Forget a task; what a step computes for it now is dropped."""
        self._lexicon.cancel(job_id)
        asked = self._asked.pop(job_id, None)
        if asked is not None:
            self._texts.cancel(job_id)
            self._forget(asked)
        running = self._running.get(job_id)
        if running is None:
            return Usage(0, 0)
        self._leave(running)
        return Usage(sum(map(len, running.texts[:n_results])), 0)

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """Begin no more texts of a task, or go on."""
        running = self._running.get(job_id)
        if running is not None:
            running.is_paused = is_paused

    def close(self) -> None:
        """Free the model."""
        self._texts.close()
        self._lexicon.close()
        self._encoder.close()
        self._model.close()

    # --- a task ---

    def _input_tokens(self, request: EmbeddingsRequest) -> Callable[[], list[list[int]]]:
        n_dims = self._role.n_numbers
        if request.dimensions is not None and request.dimensions > n_dims:
            raise InvalidRequestError(f"dimensions must be at most {n_dims} for this model", param="dimensions")
        most = MAX_RESULT_BYTES // (4 * (request.dimensions or n_dims))
        if len(request.inputs) > most:
            raise InvalidRequestError(f"input may hold at most {most} texts for this model: one answer", param="input")
        for index, value in enumerate(request.inputs):
            if not isinstance(value, str) and max(value) >= self._model.n_vocab:
                raise InvalidRequestError(f"input[{index}] holds token ids not of this model", param=f"input[{index}]")

        n_ctx = self._encoder.n_ctx

        def tokens(value: str | tuple[int, ...]) -> list[int]:
            if isinstance(value, str):
                return self._model.tokenize(value.encode("utf-8", "replace"), add_special=True, parse_special=False)
            return list(value)

        return lambda: judged("input", map(tokens, request.inputs), n_ctx)

    def _pair_tokens(self, request: RerankRequest) -> Callable[[], list[list[int]]]:
        pairs = pair_tokens(self._model, request.query, request.documents)
        return lambda: judged("documents", pairs, self._encoder.n_ctx)

    def _tokenised(self, task: Task, outcome: Outcome[list[list[int]]]) -> None:
        try:
            self._start(task, outcome.take())
        except UserError as error:
            self._forget(task)
            task.sink.failed(error)
        except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
            crash.report(type(error), error, error.__traceback__)
            self._forget(task)
            task.sink.broken(FailureCode.INTERNAL)

    def _start(self, task: Task, texts: list[list[int]]) -> None:
        running = self._running[task.id] = _Running(task, texts)
        self._turn.append(running)
        task.sink.started(running.n_tokens)

    def _fill(self) -> None:
        """Begin texts, one of each task in turn, as long as they fit the step."""
        n_passed = 0
        while self._turn and n_passed < len(self._turn):
            running = self._turn[0]
            if running.is_paused or not self._encoder.add(running.next_item()):
                self._turn.rotate(-1)
                n_passed += 1
                continue
            n_passed = 0
            running.n_begun += 1
            self._turn.popleft()
            if running.n_begun < len(running.texts):
                self._turn.append(running)

    def _computed(self, item: Item, vector: Vector | None) -> None:
        running = self._running.get(item.task_id)
        if running is None:
            return
        if vector is None or not np.isfinite(vector).all():
            self._leave(running)
            running.task.sink.broken(FailureCode.COMPUTE)
            return
        running.done[item.index] = vector
        self._emit(running)
        if running.n_sent == len(running.texts):
            self._leave(running)
            running.task.sink.finished(("stop",), Usage(running.n_tokens, 0))

    def _emit(self, running: _Running) -> None:
        """Hand over the results that are next in order."""
        ready: list[Vector] = []
        while len(ready) < MAX_RESULTS_PER_FRAME and (vector := running.done.pop(running.n_sent, None)) is not None:
            ready.append(vector)
            running.n_sent += 1
        if not ready:
            return
        request = running.task.request
        if isinstance(request, EmbeddingsRequest):
            running.task.sink.part(Vectors(tuple(_scaled(vector, request.dimensions) for vector in ready)))
        else:
            running.task.sink.part(Scores(tuple(self._score(vector) for vector in ready)))

    def _score(self, vector: Vector) -> float:
        """0 to 1: of a head with one output its logistic, of one with two the probability it gives."""
        value = float(vector[0])
        if self._role.n_numbers > 1:
            return min(1.0, max(0.0, value))
        return 1 / (1 + math.exp(-value)) if value > -700 else 0.0

    def _leave(self, running: _Running) -> None:
        del self._running[running.task.id]
        self._turn = deque(other for other in self._turn if other is not running)
        self._encoder.drop(running.task.id)
        self._forget(running.task)

    def _forget(self, task: Task) -> None:
        self._waiting_bytes -= task.size_bytes


class _Running:
    """A task whose texts are being computed. Owner: EmbedBackend."""

    def __init__(self, task: Task, texts: list[list[int]]) -> None:
        self.task = task
        self.texts = texts
        self.n_tokens = sum(map(len, texts))
        self.n_begun = 0
        self.n_sent = 0
        self.done: dict[int, Vector] = {}
        """Computed before an earlier one of the same task."""
        self.is_paused = False

    def next_item(self) -> Item:
        return Item(self.task.id, self.n_begun, self.texts[self.n_begun])


def judged(name: str, texts: Iterable[list[int]], n_ctx: int) -> list[list[int]]:
    """All texts, each judged before the next is made.

    Raises:
        UserError: They cannot be computed as written.
    """
    kept: list[list[int]] = []
    n_tokens = 0
    for index, tokens in enumerate(texts):
        where = f"{name}[{index}]"
        if len(tokens) > n_ctx:
            raise ContextLengthError(f"{where} has {len(tokens)} tokens; this model takes at most {n_ctx}", param=where)
        if not tokens:
            raise InvalidRequestError(f"{where} is empty for this model", param=where)
        n_tokens += len(tokens)
        if n_tokens > MAX_TASK_TOKENS:
            raise InvalidRequestError(
                f"{name} has more than {MAX_TASK_TOKENS} tokens in all; send several requests", param=name
            )
        kept.append(tokens)
    return kept


def _scaled(vector: Vector, dimensions: int | None) -> bytes:
    """The vector, or its beginning, at length 1; one of zeros stays."""
    cut = vector[:dimensions].astype(np.float64)
    length = math.sqrt(float(cut @ cut))
    return bytes((cut / (length or 1.0)).astype("<f4").tobytes())
