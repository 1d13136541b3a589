"""Requests whose answers are bound: their schemas are compiled elsewhere, large ones set to work beside the loop."""

from __future__ import annotations

from collections.abc import Sequence as Items

from mcd.engine.active import Active
from mcd.engine.aside import Aside, Outcome
from mcd.engine.backend import Job
from mcd.engine.compiler import Compiled
from mcd.engine.compiling import Compiling
from mcd.engine.parsers.syntax import Thinking
from mcd.engine.prompts import Written
from mcd.errors import UserError
from mcd.units import Seconds


class Bindings:
    """Owner: LlamaBackend; itself owner of the schema process."""

    def __init__(self, compiling: Compiling) -> None:
        """Take over the process."""
        self._compiling = compiling
        self._jobs: dict[int, tuple[Job, Written]] = {}
        self._opening: Aside[bool] = Aside()
        self._lent: dict[int, Active] = {}

    @property
    def n_open(self) -> int:
        """Requests that cannot begin yet."""
        return len(self._jobs) + len(self._lent)

    @property
    def due_at(self) -> Seconds | None:
        """When `take` will have something to forget."""
        return self._compiling.kept.expires_at

    def submit(self, job: Job, written: Written, thinking: Thinking, now: Seconds) -> None:
        """Have what binds an answer compiled; `take` will have it."""
        self._jobs[job.id] = job, written
        self._compiling.submit(job.id, job.request, thinking, job.cache_salt, now)

    def take(self, now: Seconds) -> list[tuple[Job, Written, Compiled | UserError]]:
        """Requests whose constraints are compiled, or cannot be."""
        self._compiling.kept.expire(now)
        return [(*self._jobs.pop(job_id), made) for job_id, made in self._compiling.take(now)]

    def open(self, request: Active) -> None:
        """Have a request opened by a thread; `take_opened` will have it."""
        for sequence in request.sequences:
            sequence.sampler.lend()
        self._lent[request.job.id] = request

        def unless_closed() -> bool:
            return request.sequences[0].sampler.is_closed or request.open()

        self._opening.add(request.job.id, unless_closed, request.job.size_bytes)

    def take_opened(self) -> list[tuple[int, Outcome[bool]]]:
        """Requests that a thread opened, or could not; those closed meanwhile are freed now."""
        done: list[tuple[int, Outcome[bool]]] = []
        while (opened := self._opening.take()) is not None:
            regained = [sequence.sampler.regain() for sequence in self._lent.pop(opened[0]).sequences]
            if all(regained):
                done.append(opened)
        return done

    def cancel(self, job_id: int) -> Job | None:
        """Forget a request that is being compiled; None when it was not."""
        job, _ = self._jobs.pop(job_id, (None, None))
        if job is not None:
            self._compiling.cancel(job_id)
        return job

    def wakers(self) -> Items[int]:
        """Readable when `take` or `take_opened` has something."""
        return (self._compiling.fileno(), self._opening.fileno())

    def close(self) -> None:
        """End the process, await the thread, free what was lent."""
        self._compiling.close()
        self._opening.close()
        for request in self._lent.values():
            for sequence in request.sequences:
                sequence.sampler.regain()
                sequence.close()
        self._lent.clear()
