"""Continuous batching: every step decodes one token for each running sequence and prefills others beside them."""

from __future__ import annotations

import time
from collections.abc import Callable

from mcd.engine.batch import ROW_STEP, WIDE_STEP, Batch, n_padding
from mcd.engine.candidates import Floats
from mcd.engine.choosing import Choosing
from mcd.engine.kv import KvMemory
from mcd.engine.measure import Tuned
from mcd.engine.model import N_BATCH, Context, Model
from mcd.engine.pace import Pace
from mcd.engine.sampler import Deferred, row_of_logits
from mcd.engine.sequence import Sequence
from mcd.engine.slots import in_turn, share_prefill
from mcd.engine.spans import next_span, position
from mcd.engine.tidy import Tidy
from mcd.engine.vision import Vision
from mcd.units import Seconds

MAX_PREFILL_ROWS = 512
"""Prompt tokens in one step: bounds how long a cancel waits."""
BUSY_PREFILL_ROWS = 256
"""The same while others decode: bounds the gap in their streams."""
MIN_PREFILL_ROWS = 16
STEP_GOAL_S = 0.25
"""On a slow machine prefill chunks shrink until a step takes about this long."""


class Scheduler:
    """Owner of all sequences, the batch and the KV memory."""

    def __init__(
        self,
        model: Model,
        context: Context,
        on_end: Callable[[Sequence], None],
        retune: Callable[[], None],
        checkpoint_bytes: int,
        vision: Vision | None = None,
    ) -> None:
        """Begin idle; ``on_end`` is told of each sequence that finished or broke, ``retune`` when steps grew slow."""
        self._vision = vision
        self._model = model
        self._context = context
        self._on_end = on_end
        self._retune = retune
        self._pace = Pace()
        self._has_slowed = False
        self._batch = Batch(model.lib, N_BATCH, context.n_slots + 1)
        self.kv = KvMemory(
            model.lib,
            context.handle,
            context.n_slots,
            context.n_cells,
            cuts=model.cuts,
            checkpoint_bytes=checkpoint_bytes,
        )
        self._tidy = Tidy(context, self._batch, self.kv, vision)
        self._waiting: list[Sequence] = []
        self._is_full = False
        """The last step found room for nobody who waits, and nothing has changed since."""
        self._running: list[Sequence] = []
        self._choosing = Choosing()
        self._max_prefill_rows = MAX_PREFILL_ROWS
        self._pays_padding = False
        self.has_computed = False
        """The last step had something to compute."""

    def tune(self, found: Tuned) -> None:
        """Set the prefill chunk and the padding from what was measured."""
        n_rows = int(found.prefill_tokens_per_s * STEP_GOAL_S) // WIDE_STEP * WIDE_STEP
        self._max_prefill_rows = max(MIN_PREFILL_ROWS, min(MAX_PREFILL_ROWS, n_rows))
        self._pays_padding = found.pays_padding

    def describe(self) -> str:
        """What `tune` chose."""
        padding = f", batches padded to {ROW_STEP} rows" if self._pays_padding else ""
        place = "in the graph" if self._context.samples_in_graph else "on the processor"
        return f"{self._max_prefill_rows} rows of prefill a step{padding}, tokens chosen {place}"

    @property
    def n_running(self) -> int:
        """Sequences in slots."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Sequences without one."""
        return len(self._waiting)

    def wait_s(self, now: Seconds) -> Seconds | None:
        """Seconds until a step has something to do; None for not before a request."""
        if self._waiting and not self._is_full:
            return 0.0
        if any(not (s.is_paused or s.is_held) or self._is_prefilling(s) for s in self._running):
            return 0.0
        due_at = self._tidy.due_at(is_idle=not self._running)
        return None if due_at is None else max(0.0, due_at - now)

    def wakers(self) -> tuple[int, int]:
        """Each readable when a step has a token that was chosen beside it."""
        return self._choosing.wakers()

    def close(self) -> None:
        """Compute no more; what threads choose is awaited."""
        self._choosing.close()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)
        self._is_full = False

    def remove(self, job_id: int, now: Seconds) -> None:
        """Drop every sequence of a job; its slots are free at once."""
        self._is_full = False
        for sequence in [s for s in self._waiting if s.job.id == job_id]:
            self._waiting.remove(sequence)
            sequence.close()
        for sequence in [s for s in self._running if s.job.id == job_id]:
            self._leave(sequence, now)

    def pause(self, job_id: int, *, is_paused: bool) -> None:
        """Hold back a job's decoding; its prefill goes on."""
        for sequence in (*self._running, *self._waiting):
            if sequence.job.id == job_id:
                sequence.is_paused = is_paused

    def step(self, now: Seconds) -> None:
        """Admit, build a batch, compute it, sample its outputs."""
        self._tidy.run(now, is_idle=not self._running and not self._waiting)
        if self._has_slowed:
            self._has_slowed = False
            self._retune()  # computes on the scratch sequence
            self._batch.clear_scratch(self._context.handle)
            self._pace.tuned(now)
        for sequence, token, row_chosen_from in self._choosing.take():
            self._go_on(sequence, token, row_chosen_from, now)
        self._admit(now)
        has_looked = self._look(now)
        outputs, prefilled = self._fill()
        self.has_computed = self._batch.n_rows > 0
        self._is_full = not (self.has_computed or has_looked)
        if not self.has_computed:
            return
        if not self._decode(None if has_looked else now):
            self._break_all(now)
            return
        self._batch.clear()
        for sequence in prefilled:
            if sequence.slot is not None:
                self.kv.computed(sequence.slot, now)
        context = self._context.handle
        # all are chosen before any is told: to choose sweeps the vocabulary through the caches that telling lives in
        for sequence, row, chosen in [(s, row, s.sampler.sample(context, row)) for s, row in outputs]:
            has_use = sequence.n_logprobs >= 0 and not isinstance(chosen, Deferred)
            logits = row_of_logits(self._model.lib, context, row, self._model.n_vocab) if has_use else None
            self._go_on(sequence, chosen, logits, now)

    # --- one step ---

    def _go_on(self, sequence: Sequence, chosen: int | Deferred | None, logits: Floats | None, now: Seconds) -> None:
        if sequence.slot is None:
            return  # another choice ended their request in this same step
        if chosen is None:
            self._break(sequence, now)
        elif isinstance(chosen, Deferred):
            self._choosing.add(sequence, chosen)
        else:
            self._take(sequence, chosen, logits, now)

    def _take(self, sequence: Sequence, token: int, logits: Floats | None, now: Seconds) -> None:
        """Add a token to its answer, and end what ends by it."""
        piece = sequence.take(token, logits, self._model)
        if piece is not None:
            sequence.job.sink.piece(piece)
        if sequence.finish_reason:
            rest = sequence.rest()
            if rest is not None:
                sequence.job.sink.piece(rest)
            self._leave(sequence, now)
            self._on_end(sequence)

    def _admit(self, now: Seconds) -> None:
        if not self._waiting or self.n_running == len(self.kv.slots):
            return
        turns = in_turn([s.job for s in self._waiting], [s.job for s in self._running])
        for sequence in [self._waiting[index] for index in turns]:
            key = cache_key(sequence)
            if self.kv.should_wait(sequence.prompt, key):
                continue
            may_be_reused = bool(sequence.job.cache_salt) or sequence.job.request.n > 1
            slot = self.kv.admit(
                sequence.prompt, sequence.limit, key, now, may_be_reused=may_be_reused, spans=sequence.spans
            )
            if slot is None:
                return  # nobody overtakes: a large request must not starve behind small ones
            self._waiting.remove(sequence)
            sequence.slot = slot
            sequence.n_cached = len(slot.tokens)
            if self._context.samples_in_graph and sequence.n_logprobs < 0:
                sequence.sampler.attach(self._context.handle, slot.index)
            self._running.append(sequence)

    def _look(self, now: Seconds) -> bool:
        """Compute one picture, of whom came first among those that have come to one; False when none has.

        Encoding cannot be divided: whoever streams waits for it. Prompts and tokens go on in the same step.
        """
        if self._vision is None:
            return False
        for sequence in self._running:
            slot = sequence.slot
            if slot is None or not self._is_prefilling(sequence):
                continue
            span = next_span(sequence.spans, len(slot.tokens))
            if span is None or span.start != len(slot.tokens):
                continue
            at = position(sequence.spans, span.start)
            if self._vision.compute(self._context, span, at, slot.index):
                slot.tokens.extend(sequence.prompt[span.start : span.end])
                self.kv.computed(slot, now)
            else:
                self._break(sequence, now)
            return True
        return False

    def _break(self, sequence: Sequence, now: Seconds) -> None:
        """End one sequence whose memory is unsure."""
        slot = sequence.slot
        sequence.finish_reason = "broken"
        self._leave(sequence, now)
        if slot is not None:
            self.kv.clear(slot)
        self._on_end(sequence)

    def _fill(self) -> tuple[list[tuple[Sequence, int]], list[Sequence]]:
        """Decode rows first, then prefill under its budget.

        Returns (sequence, output row) in row order, and the sequences whose prompt is not computed yet.
        """
        batch = self._batch
        batch.clear()
        outputs: list[tuple[Sequence, int]] = []
        prefilling: list[Sequence] = []
        for sequence in self._running:
            slot = sequence.slot
            assert slot is not None
            at = len(slot.tokens)
            if at < len(sequence.prompt):
                prefilling.append(sequence)
            elif not (sequence.is_paused or sequence.is_held):
                if sequence.spans:
                    at = position(sequence.spans, at)
                outputs.append((sequence, batch.add_one(sequence.last_token, at, slot.index)))
                slot.tokens.append(sequence.last_token)
        budget = self._max_prefill_rows
        if outputs:
            budget = min(budget, BUSY_PREFILL_ROWS)
            budget += -(budget + len(outputs)) % WIDE_STEP
        for index, n_rows in share_prefill([self._left(s) for s in prefilling], budget) if prefilling else ():
            self._prefill(prefilling[index], n_rows, outputs)
        if self._pays_padding and len(outputs) > 1:  # what one stream computes does not depend on a measurement
            batch.pad(self._context.handle, n_padding(batch.n_rows))
        return outputs, prefilling

    def _prefill(self, sequence: Sequence, n_rows: int, outputs: list[tuple[Sequence, int]]) -> None:
        slot = sequence.slot
        assert slot is not None
        done = len(slot.tokens)
        chunk = sequence.prompt[done : done + n_rows]
        is_last = done + len(chunk) == len(sequence.prompt)
        row = self._batch.add(chunk, position(sequence.spans, done), slot.index, wants_output=is_last)
        slot.tokens.extend(chunk)
        if is_last:
            slot.planned = ()
            outputs.append((sequence, row))

    def _left(self, sequence: Sequence) -> int:
        """Tokens of its prompt to compute, up to the next picture or place where a checkpoint is wanted."""
        slot = sequence.slot
        assert slot is not None
        done = len(slot.tokens)
        end = slot.marks[0] if slot.marks else len(sequence.prompt)
        span = next_span(sequence.spans, done) if sequence.spans else None
        return (end if span is None else min(end, span.start)) - done

    def _is_prefilling(self, sequence: Sequence) -> bool:
        return sequence.slot is not None and len(sequence.slot.tokens) < len(sequence.prompt)

    def _decode(self, began_at: Seconds | None) -> bool:
        """Compute the batch; what a step with a picture took says nothing of its pace."""
        status = self._batch.decode(self._context.handle)
        while status == 1 and self.kv.evict_idle():
            # reservations make this impossible unless llama.cpp pads more than we count
            status = self._batch.decode(self._context.handle)
        if began_at is not None:
            self._has_slowed |= self._pace.has_slowed(self._batch.n_rows, time.monotonic() - began_at, began_at)
        return status == 0

    def _break_all(self, now: Seconds) -> None:
        """A failed decode leaves the memory unknown: end everything that ran, keep those who wait."""
        for sequence in list(self._running):
            sequence.finish_reason = "broken"
            self._leave(sequence, now)
            self._on_end(sequence)
        self.kv.clear_all()
        self._batch.clear_scratch(self._context.handle)

    def _leave(self, sequence: Sequence, now: Seconds) -> None:
        self._is_full = False
        self._running.remove(sequence)
        if sequence.slot is not None:
            self.kv.release(sequence.slot, now)
            sequence.slot = None
        sequence.close()
        job = sequence.job
        if not job.cache_salt and not any(s.job is job for s in (*self._running, *self._waiting)):
            self.kv.forget(cache_key(sequence))
        self._tidy.ended(now)


def cache_key(sequence: Sequence) -> str:
    """Whose caches a sequence may use: those of its requester's salt, else only its own request's."""
    salt = sequence.job.cache_salt
    return f"salt {salt}" if salt else f"request {sequence.job.id}"
