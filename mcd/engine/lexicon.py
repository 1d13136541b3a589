"""Tokenize and detokenize with the model's own vocabulary, beside whatever else the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mcd.api.tasks import DetokenizeRequest, TokenizeRequest
from mcd.engine import crash
from mcd.engine.aside import Aside
from mcd.engine.backend import Task
from mcd.engine.messages import FailureCode
from mcd.engine.model import Model
from mcd.engine.parts import split_text, split_tokens
from mcd.engine.seal import FLUSH_INTERVAL_S
from mcd.errors import InvalidRequestError, UserError
from mcd.units import Seconds
from mcd.wire.payload import Part, Usage

MAX_PARTS_AT_ONCE = 32
"""Of one answer, sealed together: 131,072 tokens take about 20 ms, for which everybody's next token waits."""


class Lexicon:
    """Tasks that need the vocabulary alone. Owner: a llama.cpp backend."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tasks: dict[int, Task] = {}
        self._aside: Aside[list[Part]] = Aside()
        self._leaving: deque[tuple[Task, deque[Part]]] = deque()
        """Answers of many parts, on their way out."""
        self._next_at: Seconds = 0.0

    @property
    def n_open(self) -> int:
        """Tasks not answered yet."""
        return len(self._tasks)

    @property
    def n_bytes(self) -> int:
        """Plaintext of those tasks."""
        return sum(task.size_bytes for task in self._tasks.values())

    def add(self, task: Task, request: TokenizeRequest | DetokenizeRequest) -> None:
        """Take a task with its request.

        Raises:
            UserError: It cannot be served as written.
        """
        self._add(task, self._tokenize(request) if isinstance(request, TokenizeRequest) else self._detokenize(request))

    def add_prompt(self, task: Task, tokenize: Callable[[], list[int]]) -> None:
        """Take the task of a conversation whose prompt is written."""
        self._add(task, lambda: split_tokens(tokenize(), "messages"))

    @property
    def due_at(self) -> Seconds | None:
        """When `step` has more to hand on; None while nothing is on its way out."""
        return self._next_at if self._leaving else None

    def step(self, now: Seconds) -> None:
        """Answer what is done, long answers bit by bit."""
        if self._leaving and now >= self._next_at:
            self._hand_on(*self._leaving.popleft(), now)
        while (done := self._aside.take()) is not None:
            task = self._tasks.get(done[0])
            if task is None:
                continue
            try:
                parts = deque(done[1].take())
            except UserError as error:
                del self._tasks[task.id]
                task.sink.failed(error)
                continue
            except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
                crash.report(type(error), error, error.__traceback__)
                del self._tasks[task.id]
                task.sink.broken(FailureCode.INTERNAL)
                continue
            task.sink.started(0)
            self._hand_on(task, parts, now)

    def _hand_on(self, task: Task, parts: deque[Part], now: Seconds) -> None:
        for _ in range(min(MAX_PARTS_AT_ONCE, len(parts))):
            task.sink.part(parts.popleft())
        if parts:
            self._leaving.append((task, parts))
            self._next_at = now + FLUSH_INTERVAL_S  # what is handed on before a flush is sealed at it, all at once
            return
        del self._tasks[task.id]
        task.sink.finished(("stop",), Usage(0, 0))

    def cancel(self, task_id: int) -> None:
        """Forget a task."""
        if self._tasks.pop(task_id, None) is not None:
            self._aside.cancel(task_id)
            self._leaving = deque(entry for entry in self._leaving if entry[0].id != task_id)

    def waker(self) -> int:
        """Readable when `step` has something to do."""
        return self._aside.fileno()

    def close(self) -> None:
        """Take no more."""
        self._aside.close()

    def _add(self, task: Task, call: Callable[[], list[Part]]) -> None:
        self._tasks[task.id] = task
        self._aside.add(task.id, call, task.size_bytes)

    def _tokenize(self, request: TokenizeRequest) -> Callable[[], list[Part]]:
        if request.text is None:
            raise InvalidRequestError("this model answers no chats; send content instead", param="messages")
        data = request.text.encode("utf-8", "replace")
        special, parse = request.add_special, request.parse_special
        return lambda: split_tokens(self._model.tokenize(data, add_special=special, parse_special=parse), "content")

    def _detokenize(self, request: DetokenizeRequest) -> Callable[[], list[Part]]:
        if any(token >= self._model.n_vocab for token in request.tokens):
            raise InvalidRequestError("tokens holds ids that are not of this model", param="tokens")
        return lambda: split_text(self._model.detokenize(request.tokens).decode("utf-8", "replace"))
