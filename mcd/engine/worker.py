"""The inference process: `python -m mcd.engine.worker`. One thread, one loop; the only place of plaintext.

Started by `supervise` with nothing but a socket as its standard input. Order matters: read the Hello, confine the
process, and only then import anything that computes (threads and open files would escape the confinement).
"""

from __future__ import annotations

import heapq
import select
import sys
import time
from typing import TypeVar

from mcd.api.request import ChatRequest, CompletionRequest
from mcd.api.tasks import decode_request
from mcd.engine import crash, load, messages
from mcd.engine.answer import Answer, Turn
from mcd.engine.backend import Backend, Job, StartError, Task, blind, n_pictures, not_done
from mcd.engine.link import LinkClosedError, WorkerLink
from mcd.engine.messages import (
    Cancel,
    Certificate,
    Credit,
    Drop,
    EngineOptions,
    FailureCode,
    Hello,
    Load,
    Submit,
    ToWorker,
)
from mcd.engine.seal import OpenedRequest, SealKeys
from mcd.errors import EnvelopeError, InvalidRequestError, RefusedError, UserError
from mcd.units import Seconds
from mcd.wire.payload import MAX_ASKED_MS

MAX_SLEEP_S = 5.0
"""Longest select and longest silence: keys rotate on time, and the daemon sees that we live."""
MIN_SLEEP_S = 0.001
"""Shortest: many paced answers share a wake-up."""
SHARED_FLUSH_S: Seconds = 0.05
"""Between two flushes of any answers, so that those due within it are sealed together, and from then on always. After a
decode nothing of what seals is left in the caches: a frame alone takes three times as long as one of several."""
MAX_SHARED = 32
"""Answers in one flush; of more answers there are more flushes. A hundred frames at once hold up one another in every
process on their way, now more and now less."""

_F = TypeVar("_F", Hello, Certificate)


class Worker:
    """The loop and all requests under way. Owner: main."""

    def __init__(self, link: WorkerLink, keys: SealKeys, backend: Backend) -> None:
        self._link = link
        self._keys = keys
        self._backend = backend
        self._answers: dict[int, Answer] = {}
        self._due: list[tuple[Seconds, int]] = []
        self._flush_at: Seconds = 0.0
        """Nothing is flushed before."""
        self._load = (0, 0)
        self._told_at: Seconds = 0.0
        self._turn = Turn(link.post)

    def run(self) -> None:
        """Serve until the daemon has gone.

        Raises:
            LinkClosedError: It has.
        """
        while True:
            self._wait()
            self._turn.now = time.monotonic()
            for frame in self._link.receive():
                self._handle(frame)
            self._backend.step(self._turn.now)
            self._flush_due()
            self._settle()
            self._tell()
            self._link.flush()

    def _wait(self) -> None:
        now = time.monotonic()
        wait_s = self._backend.wait_s(now)
        if wait_s is None:
            wait_s = MAX_SLEEP_S
        if wait_s > 0 and self._due:
            wait_s = min(wait_s, self._next_flush_at() - now)
        if wait_s <= 0:
            return  # nothing to wait for: `receive` and `flush` find out by trying
        wait_s = min(max(wait_s, MIN_SLEEP_S), MAX_SLEEP_S)
        fd = self._link.fileno()
        writable = [fd] if self._link.wants_write else []
        select.select([fd, *self._backend.wakers()], writable, [], wait_s)

    def _flush_due(self) -> None:
        while self._turn.scheduled:
            answer = self._turn.scheduled.pop()
            if answer.due_at is not None:
                heapq.heappush(self._due, (answer.due_at, answer.id))
        now = self._turn.now
        if not self._due or now < self._next_flush_at():
            return
        self._flush_at = now + SHARED_FLUSH_S * min(1.0, MAX_SHARED / max(1, len(self._answers)))
        n_flushed = 0
        while self._due and self._due[0][0] <= now and n_flushed < MAX_SHARED:
            _, answer_id = heapq.heappop(self._due)
            due = self._answers.get(answer_id)
            if due is not None:
                due.flush()
                n_flushed += 1

    def _next_flush_at(self) -> Seconds:
        return max(self._due[0][0], self._flush_at)

    def _settle(self) -> None:
        """Forget answers that are over; pause the slots of readers that lag."""
        while self._turn.changed:
            answer = self._turn.changed.pop()
            if answer.is_over:
                self._drop(answer.id)
            elif not answer.has_credit and not answer.is_paused:
                answer.is_paused = True
                self._backend.pause(answer.id, is_paused=True)

    def _tell(self) -> None:
        load_now = self._backend.load()
        if load_now == self._load and self._turn.now - self._told_at < MAX_SLEEP_S:
            return
        self._load, self._told_at = load_now, self._turn.now
        self._link.post(messages.Status(*load_now))
        if self._keys.rotate_if_due(_unix_ms()):
            self._link.post(messages.Rotated(self._keys.configs(), self._keys.key_id), 4096)

    # --- frames ---

    def _handle(self, frame: ToWorker) -> None:
        match frame:
            case Submit():
                self._submit(frame)
            case Cancel():
                self._cancel(frame.id)
            case Drop():
                self._drop(frame.id)
            case Credit():
                self._credit(frame)
            case Hello() | Certificate() | Load():
                raise LinkClosedError  # only once, at the start: the daemon is broken

    def _drop(self, answer_id: int) -> None:
        if self._answers.pop(answer_id, None) is not None:
            self._backend.cancel(answer_id)

    def _cancel(self, answer_id: int) -> None:
        answer = self._answers.get(answer_id)
        if answer is not None and not answer.is_over:
            answer.cancelled(self._backend.cancel(answer_id, answer.n_sealed_results))

    def _credit(self, frame: Credit) -> None:
        answer = self._answers.get(frame.id)
        if answer is None:
            return
        answer.add_credit(frame.n_chunks)
        if answer.is_paused and answer.has_credit:
            answer.is_paused = False
            answer.flush()
            self._backend.pause(answer.id, is_paused=False)

    def _submit(self, frame: Submit) -> None:
        try:
            opened = self._keys.open(frame.header, frame.sealed, _unix_ms())
        except RefusedError as error:
            self._link.post(messages.Refused(frame.id, error.reason))
            return
        except EnvelopeError:
            self._link.post(messages.Failed(frame.id, FailureCode.ENVELOPE))
            return
        answer = Answer(frame.id, opened, self._keys, self._turn)
        self._answers[frame.id] = answer
        try:
            self._begin(frame, opened, answer)
        except UserError as error:
            answer.failed(error)
        except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
            crash.report(type(error), error, error.__traceback__)
            if not answer.is_over:
                self._backend.cancel(frame.id)
                answer.broken(FailureCode.INTERNAL)

    def _begin(self, frame: Submit, opened: OpenedRequest, answer: Answer) -> None:
        body = opened.body
        raw = bytes(body.request)
        request = decode_request(body.kind, raw)
        asked_ms = body.asked_ms or min(opened.header.issued_ms, MAX_ASKED_MS)  # never our own clock's   [ENV-48]
        if len(body.resume) != frame.resume_from:
            raise InvalidRequestError("resume_from is not the number of tokens sent along", param="resume")
        if not isinstance(request, ChatRequest):
            if body.resume:
                raise InvalidRequestError("only a chat can be resumed", param="resume")
            self._backend.submit_task(Task(frame.id, request, answer, len(raw), asked_ms))
            return
        capabilities = self._backend.facts().capabilities
        if isinstance(request, CompletionRequest) and "completions" not in capabilities:
            raise not_done(request, capabilities)
        if n_pictures(request) and "vision" not in capabilities:
            raise blind()
        job = Job(
            frame.id,
            request,
            answer,
            resume=body.resume,
            cache_salt=body.cache_salt,
            max_output_tokens=frame.max_output_tokens,
            asker=frame.asker,
            max_slots=frame.max_slots,
            size_bytes=len(raw),
            asked_ms=asked_ms,
        )
        answer.n_choices = request.n
        self._backend.submit(job)


def _unix_ms() -> int:
    return int(time.time() * 1000)


def main(fd: int) -> int:
    """Start and serve; returns the exit status."""
    link = WorkerLink(fd)
    try:
        hello = _expect(link, Hello)
        report = load.confine(hello)
        rendering, told = load.start_rendering(hello)  # before there are keys, which it must never have
        compiling, told_too = load.start_compiling(hello)
        decoding, told_of_pictures = load.start_decoding(hello)
        report = (*report, *told, *told_too, *told_of_pictures)
        keys = SealKeys(hello.peer_public_key, hello.model_digest)
        link.post(messages.CertificateWanted(keys.engine_public_key))
        keys.install_certificate(_expect(link, Certificate).certificate)
        keys.rotate(_unix_ms())
        report = (*report, load.lock_keys())  # before requests make the heap larger than may be locked
        link.post(messages.Asleep(keys.configs(), keys.key_id, report), 8192)
        options = _sleep(link, keys)
        try:
            backend = load.open_backend(hello, options, rendering, compiling, decoding)
        except StartError as error:
            link.post(messages.NotReady(error.failure))
            link.flush()
            return 1
        facts = backend.facts()
        link.post(
            messages.Ready(
                n_ctx=facts.n_ctx,
                n_slots=facts.n_slots,
                capabilities=facts.capabilities,
                prefill_tokens_per_s=facts.prefill_tokens_per_s,
                output_tokens_per_s=facts.output_tokens_per_s,
                sealing=backend.sealing,
                device=facts.device,
                notes=facts.notes,
                tuning=facts.tuning,
            ),
            1024,
        )
        link.flush()
        Worker(link, keys, backend).run()
    except LinkClosedError:
        return 0
    return 0


def _expect(link: WorkerLink, kind: type[_F]) -> _F:
    link.flush()
    while True:
        select.select([link], [], [])
        for frame in link.receive():
            if not isinstance(frame, kind):
                raise LinkClosedError
            return frame


def _sleep(link: WorkerLink, keys: SealKeys) -> EngineOptions:
    """Keep the keys young until the daemon wants the model loaded; says how."""
    while True:
        link.flush()
        wait_s = (keys.rotates_at_ms - _unix_ms()) / 1000
        select.select([link], [], [], max(0.0, wait_s))
        for frame in link.receive():
            if isinstance(frame, Load):
                return frame.options
            raise LinkClosedError
        if keys.rotate_if_due(_unix_ms()):
            link.post(messages.Rotated(keys.configs(), keys.key_id), 4096)


if __name__ == "__main__":
    sys.excepthook = crash.report
    sys.exit(main(0))
