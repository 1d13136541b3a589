"""The llama.cpp backend: chat requests to sequences for the scheduler, and their ends back to the sinks."""

from __future__ import annotations

import platform
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial

from mcd.api.request import ChatRequest, CompletionRequest
from mcd.api.tasks import DetokenizeRequest, TokenizeRequest
from mcd.engine import crash, measure, sampler
from mcd.engine.active import Active
from mcd.engine.aside import Outcome
from mcd.engine.backend import MAX_WAITING, MAX_WAITING_BYTES, Facts, Job, Task, n_pictures, not_done
from mcd.engine.binding import Bindings
from mcd.engine.choosing import MAX_CHOICE_S
from mcd.engine.compiler import Compiled, Dialect
from mcd.engine.compiling import Compiling
from mcd.engine.fit import CHECKPOINT_SHARE
from mcd.engine.gbnf.constraint import param_of
from mcd.engine.lexicon import Lexicon
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Context, Model
from mcd.engine.parsers import families
from mcd.engine.parsers.message import MessageParser
from mcd.engine.parsers.syntax import Thinking
from mcd.engine.prompts import MAX_PICTURES, Prompt, Prompts, Written
from mcd.engine.sampler import Sampler, is_light
from mcd.engine.scheduler import Scheduler
from mcd.engine.sequence import Sequence, Vocabulary
from mcd.errors import ContextLengthError, InvalidRequestError, UnsupportedError, UserError
from mcd.units import Seconds
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import Usage

_UNFOLLOWED = {
    "dead end": "the answer cannot go on: no token of this model fits what must come next",
    "too slow": f"finding one token that the schema allows takes over {MAX_CHOICE_S:g} s; give it fewer alternatives",
}
"""Why an answer ends that cannot keep to what binds it."""


class LlamaBackend:
    """One GGUF behind the worker. Owner of model, context and scheduler."""

    sealing = 0

    def __init__(self, model: Model, options: EngineOptions, prompts: Prompts, compiling: Compiling) -> None:
        """Allocate and measure. Takes over the model, and the processes behind ``prompts`` and ``compiling``.

        Raises:
            StartError: For a reason that stays.
        """
        self._model = model
        self._thread_choices = measure.thread_choices(options.n_threads)
        budget_bytes = measure.kv_budget_bytes()
        self._context = Context(self._model, options, self._thread_choices[0], budget_bytes)
        self._trials = measure.Trials(self._model, self._context)
        threads, found = self._trials.choose_threads(self._thread_choices), self._trials.speeds()
        if not options.n_slots:
            self._context.n_slots = measure.slots_for(found.output_tokens_per_s, self._context.n_slots)
        self._prompts = prompts
        template = prompts.template
        self._family = families.family_of(template.dialect if template else "")
        may_think = families.may_think(self._family, template.source if template else "")
        compiling.load(Dialect(template.dialect if template else "", may_think))
        self._bindings = Bindings(compiling)
        self._vocabulary = Vocabulary(self._model, families.marks(self._family))
        self._plain = Vocabulary(self._model)
        """For completions: nobody reads their marks."""
        self._scheduler = Scheduler(
            self._model,
            self._context,
            self._ended,
            self._retune,
            measure.checkpoint_budget_bytes(options.checkpoint_bytes or budget_bytes // CHECKPOINT_SHARE),
            prompts.vision,
        )
        self._lexicon = Lexicon(model)
        self._active: dict[int, Active] = {}
        self._waiting_bytes = 0
        self._n_pictures = 0
        self._now: Seconds = 0.0
        self._scheduler.tune(found)
        self._facts = Facts(
            n_ctx=self._context.n_ctx,
            n_slots=self._context.n_slots,
            capabilities=self._capabilities(),
            prefill_tokens_per_s=found.prefill_tokens_per_s,
            output_tokens_per_s=found.output_tokens_per_s,
            device=options.device or f"CPU {threads.decode} thread{'s' * (threads.decode > 1)} {platform.machine()}",
            notes=(prompts.note,) if prompts.note else (),
        )
        self._facts.tuning = (
            f"tuning: holds, {threads.why}; {self._context.n_slots} slots, {self._scheduler.describe()}",
        )
        if prompts.vision is not None:
            seen = f"pictures: holds, one takes {prompts.vision.encode_s:.1f} s, and other answers wait for it"
            self._facts.tuning = (*self._facts.tuning, seen)

    def facts(self) -> Facts:
        """What was measured at the start."""
        return self._facts

    def load(self) -> tuple[int, int]:
        """(running, waiting) sequences."""
        n_open = self._prompts.n_open + self._bindings.n_open + self._lexicon.n_open
        return self._scheduler.n_running, self._scheduler.n_waiting + n_open

    def submit(self, job: Job) -> None:
        """Have the template write the prompt; `step` goes on when it has.

        Raises:
            UserError: The request cannot be served as written.
        """
        if self._has_room(job):
            self._write(job, job.request)

    def submit_task(self, task: Task) -> None:
        """Tokenise or detokenise, beside the decoding.

        Raises:
            UserError: The model does not do it, or the request cannot be served as written.
        """
        request = task.request
        if not isinstance(request, TokenizeRequest | DetokenizeRequest):
            raise not_done(request, self._facts.capabilities)
        if not self._has_room(task):
            return
        if isinstance(request, TokenizeRequest) and request.chat is not None:
            self._write(task, request.chat)
        else:
            self._lexicon.add(task, request)

    def _has_room(self, asked: Job | Task) -> bool:
        """Whether one more may wait; refuses it if not."""
        n_bytes = self._waiting_bytes + self._lexicon.n_bytes + asked.size_bytes
        has_many = isinstance(asked, Job) and self._n_pictures + n_pictures(asked.request) > MAX_PICTURES
        if has_many or self.load()[1] >= MAX_WAITING or n_bytes > MAX_WAITING_BYTES:
            asked.sink.refused(RefuseReason.BUSY)
            return False
        return True

    def _write(self, asked: Job | Task, request: ChatRequest) -> None:
        self._prompts.submit(asked, request, with_tools=_offers_tools(request))
        self._take_in(asked, 1)

    def _take_in(self, asked: Job | Task, sign: int) -> None:
        """Count what a request holds in memory, until its end."""
        self._waiting_bytes += sign * asked.size_bytes
        self._n_pictures += sign * (n_pictures(asked.request) if isinstance(asked, Job) else 0)

    def _begin(self, job: Job, written: Written, compiled: Compiled | None = None) -> None:
        """Tokenise, check the size, make a sequence of each choice.

        Raises:
            UserError: The request cannot be served as written.
        """
        prompt = self._prompts.tokenize(written)
        active = Active(job, prompt)
        try:
            limit = self._limit(job, prompt)
            thinking = families.thinking_after(self._family, prompt.text)
            for choice in range(job.request.n):
                active.sequences.append(self._sequence(job, choice, prompt, limit, thinking, compiled))
            is_quick = compiled is None or (is_light(compiled) and not job.resume)
            if is_quick:
                active.open()
        except UserError:
            active.close()
            raise
        self._active[job.id] = active
        if is_quick:
            self._go_on(active)
        else:
            self._bindings.open(active)

    def _go_on(self, active: Active) -> None:
        """Queue what is ready."""
        first, job = active.sequences[0], active.job
        first.replay()
        job.sink.started(len(active.prompt.tokens))
        if first.finish_reason:
            self._end_at_once(active)
            return
        for sequence in active.sequences:
            self._scheduler.add(sequence)

    def step(self, now: Seconds) -> None:
        """Take up the prompts that are written; one decode."""
        self._now = now
        # while answers run, these processes are looked at only if they owe something: each look is a system call
        if self._prompts.n_open or not self._scheduler.has_computed:
            for asked, written in self._prompts.take():
                self._written(asked, written)
        if self._bindings.n_open or not self._scheduler.has_computed:
            self._bind(now)
        self._lexicon.step(now)
        self._scheduler.step(now)

    def _written(self, asked: Job | Task, written: Written | UserError) -> None:
        if isinstance(written, UserError):
            self._fail(asked, written)
            return
        if isinstance(asked, Task):
            self._take_in(asked, -1)
            self._lexicon.add_prompt(asked, lambda: self._prompts.tokenize(written).tokens)
            return
        if param_of(asked.request) is None:
            self._guarded(asked, partial(self._begin, asked, written))
        else:
            thinking = families.thinking_after(self._family, written.text or "")
            self._bindings.submit(asked, written, thinking, self._now)

    def _bind(self, now: Seconds) -> None:
        """Take up what is compiled, and then what is ready to begin."""
        for job, written, compiled in self._bindings.take(now):
            if isinstance(compiled, UserError):
                self._fail(job, compiled)
            else:
                self._guarded(job, partial(self._begin, job, written, compiled))
        for job_id, outcome in self._bindings.take_opened():
            active = self._active.get(job_id)
            if active is not None:
                self._guarded(active.job, partial(self._opened, active, outcome))

    def _opened(self, active: Active, outcome: Outcome[bool]) -> None:
        try:
            outcome.take()
        except UserError:
            del self._active[active.job.id]
            active.close()
            raise
        self._go_on(active)

    def _guarded(self, job: Job, call: Callable[[], None]) -> None:
        """Go on with a request; what goes wrong is its own end and nobody else's."""
        try:
            call()
        except UserError as error:
            self._fail(job, error)
        except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
            crash.report(type(error), error, error.__traceback__)
            self._active.setdefault(job.id, Active(job, Prompt("", [])))
            self.cancel(job.id)
            job.sink.broken(FailureCode.INTERNAL)

    def _fail(self, asked: Job | Task, error: UserError) -> None:
        self._take_in(asked, -1)
        asked.sink.failed(error)

    def wait_s(self, now: Seconds) -> float | None:
        """0 while there is work; later for what must be overwritten or forgotten in time."""
        wait_s = self._scheduler.wait_s(now)
        if wait_s == 0:
            return wait_s
        waits_s = [wait_s]
        waits_s += [max(0.0, at - now) for at in (self._bindings.due_at, self._lexicon.due_at) if at is not None]
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def wakers(self) -> Items[int]:
        """The processes that write prompts, and what threads do; decoding is done in `step`."""
        return (*self._prompts.wakers(), *self._bindings.wakers(), self._lexicon.waker(), *self._scheduler.wakers())

    def cancel(self, job_id: int, n_results: int = 0) -> Usage:
        """Free the job's slots."""
        self._lexicon.cancel(job_id)
        asked = self._prompts.cancel(job_id) or self._bindings.cancel(job_id)
        if asked is not None:
            self._take_in(asked, -1)
        active = self._active.pop(job_id, None)
        if active is None:
            return Usage(0, 0)
        self._take_in(active.job, -1)
        self._scheduler.remove(job_id, self._now)
        active.close()
        return active.usage()

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """Hold back or go on."""
        self._scheduler.pause(job_id, is_paused=is_paused)

    def close(self) -> None:
        """Free the model; end the processes that write prompts."""
        self._prompts.close()
        self._bindings.close()
        self._lexicon.close()
        self._scheduler.close()
        self._context.close()
        self._model.close()

    def _retune(self) -> None:
        """Steps have become slow: perhaps our threads are waiting for cores that others use."""
        if len(self._thread_choices) > 1:
            self._trials.choose_threads(self._thread_choices)

    # --- a request ---

    def _limit(self, job: Job, prompt: Prompt) -> int:
        """Most tokens a choice may have in all, those resumed after included."""
        n_ctx = self._context.n_ctx
        room = n_ctx - len(prompt.tokens)
        wanted = job.request.max_tokens
        if len(job.resume) >= room or (wanted is not None and wanted > room):
            seen = f", {prompt.n_picture_tokens} of them for pictures," if prompt.n_picture_tokens else ""
            asked = f" and asks for {wanted} more" if wanted is not None else ""
            raise ContextLengthError(
                f"the prompt has {len(prompt.tokens)} tokens{seen}{asked}; the context of this model holds {n_ctx}",
                param="prompt" if isinstance(job.request, CompletionRequest) else "messages",
            )
        limit = wanted if wanted is not None else room
        if job.max_output_tokens:
            limit = min(limit, job.max_output_tokens // job.request.n)  # what earlier providers delivered counts too
        return limit

    def _sequence(
        self,
        job: Job,
        choice: int,
        prompt: Prompt,
        limit: int,
        thinking: Thinking,
        compiled: Compiled | None,
    ) -> Sequence:
        request = job.request
        if job.resume and request.n != 1:
            raise UnsupportedError("an answer with several choices cannot be resumed", param="n")
        if any(token >= self._model.n_vocab for token in job.resume):
            raise InvalidRequestError("the tokens to resume after are not of this model", param="resume")
        is_raw = isinstance(request, CompletionRequest)
        sequence = Sequence(
            job,
            choice,
            [*prompt.tokens, *job.resume],
            limit - len(job.resume),
            sampler=Sampler(self._model, sampler.parameters(request, self._model, choice), compiled),
            vocabulary=self._plain if is_raw else self._vocabulary,
            parser=None if is_raw else self._parser(request, choice, prompt, thinking),
        )
        sequence.spans = prompt.spans
        return sequence

    def _parser(self, request: ChatRequest, choice: int, prompt: Prompt, thinking: Thinking) -> MessageParser:
        return MessageParser(
            self._family,
            request.tools if _offers_tools(request) else (),
            is_thinking=thinking == "open",
            id_seed=array("i", (max(token, -1) for token in prompt.tokens)).tobytes() + bytes([choice]),
        )

    def _end_at_once(self, active: Active) -> None:
        for sequence in active.sequences:
            sequence.finish_reason = sequence.finish_reason or "length"
            rest = sequence.rest()
            if rest is not None:
                active.job.sink.piece(rest)
            sequence.close()
            self._ended(sequence)

    def _ended(self, sequence: Sequence) -> None:
        active = self._active.get(sequence.job.id)
        if active is None:
            return
        if sequence.finish_reason == "broken":
            self.cancel(sequence.job.id)
            active.job.sink.broken(FailureCode.COMPUTE)
            return
        if sequence.finish_reason in _UNFOLLOWED:
            self.cancel(sequence.job.id)
            if any(each.n_generated for each in active.sequences):  # too late for an error of the request's
                active.job.sink.broken(FailureCode.COMPUTE)
            else:
                request = active.job.request
                active.job.sink.failed(UnsupportedError(_UNFOLLOWED[sequence.finish_reason], param=param_of(request)))
            return
        active.n_ended += 1
        if active.n_ended == len(active.sequences):
            del self._active[sequence.job.id]
            self._take_in(active.job, -1)
            active.prompt.close()
            active.job.sink.finished([s.finish_reason for s in active.sequences], active.usage())

    def _capabilities(self) -> tuple[str, ...]:
        if self._prompts.template is None:
            return ("completions", "tokenize")
        sees = ("vision",) if self._prompts.vision is not None else ()
        # a template that shows no tools has them described
        return ("chat", "completions", "json-schema", "tools", "tokenize", *sees)


def _offers_tools(request: ChatRequest) -> bool:
    return bool(request.tools) and request.tool_choice != "none"
