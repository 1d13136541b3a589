"""The KV memory of all slots: carries out `slots.place`, and knows which llama.cpp calls may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcd.engine.checkpoints import Checkpoints
from mcd.engine.slots import MAX_IDLE_CACHE_S, Cuts, Placement, Slot, is_live, marks_of, must_hold, place
from mcd.engine.spans import Span, last_position, position
from mcd.units import Seconds


class KvMemory:
    """Owner of the slots and of what llama.cpp holds for them."""

    def __init__(
        self, lib: Any, context: Any, n_slots: int, n_cells: int, *, cuts: Cuts, checkpoint_bytes: int
    ) -> None:
        self._lib = lib
        self._memory = lib.llama_get_memory(context)
        self._cuts = cuts
        self.n_cells = n_cells
        self.slots = [Slot(index) for index in range(n_slots)]
        self._checkpoints = Checkpoints(lib, context, self.slots, checkpoint_bytes)
        self.is_clean = True
        """Nothing but zeros lies in the cells."""
        self._look_at: Seconds = 0.0
        """No cache is to be forgotten before."""

    def should_wait(self, prompt: list[int], cache_key: str) -> bool:
        """Another prefill under way will leave most of this prompt in the memory."""
        return must_hold(self.slots, prompt, cache_key, self._cuts)

    def admit(
        self,
        prompt: list[int],
        n_new: int,
        cache_key: str,
        now: Seconds,
        *,
        may_be_reused: bool,
        spans: Sequence[Span] = (),
    ) -> Slot | None:
        """Take a slot and cells for a prompt and its answer; ``slot.tokens`` is what is already computed."""
        if self._cuts.window:
            for slot in self.slots:
                slot.first_kept = max(0, self._lib.llama_memory_seq_pos_min(self._memory, slot.index))
        found = place(self.slots, prompt, cache_key, len(prompt) + n_new, self.n_cells, cuts=self._cuts)
        if found is None:
            return None
        slot = found.slot
        slot.spans = spans  # what is reused begins like the prompt, so its pictures are the prompt's
        slot.tokens = prompt[: self._reuse(found, now)]
        for victim in found.evict:
            self.clear(victim)
        slot.is_busy = True
        slot.planned = prompt
        slot.reserved = len(prompt) + n_new
        slot.cache_key = cache_key
        slot.last_used = now
        slot.marks = marks_of(self.slots, slot, prompt) if may_be_reused and not self._cuts.anywhere else []
        self.is_clean = False
        return slot

    def computed(self, slot: Slot, now: Seconds) -> None:
        """A step has computed all of ``slot.tokens``: keep a checkpoint if one is wanted here."""
        n_done = len(slot.tokens)
        if slot.marks and slot.marks[0] <= n_done:
            if slot.marks[0] == n_done:
                self._checkpoints.take(slot, now)
            slot.marks = [n for n in slot.marks if n > n_done]

    def release(self, slot: Slot, now: Seconds) -> None:
        """The request is over; its tokens stay as a prefix cache."""
        slot.is_busy = False
        slot.planned = ()
        slot.marks = []
        slot.reserved = 0
        slot.last_used = now

    def clear(self, slot: Slot) -> None:
        """Forget what a slot holds."""
        self._lib.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
        self._checkpoints.drop(slot)
        slot.tokens = []

    def clear_all(self) -> None:
        """Forget everything and overwrite it; every slot must be idle."""
        self._lib.llama_memory_clear(self._memory, True)
        for slot in self.slots:
            self._checkpoints.drop(slot)
            slot.tokens = []
        self.is_clean = True

    def forget(self, cache_key: str) -> None:
        """Nobody will ask for the caches of this key again."""
        for slot in self._caches():
            if slot.cache_key == cache_key:
                self.clear(slot)

    def expire(self, now: Seconds) -> None:
        """Forget caches that waited too long; asked in every step."""
        if now < self._look_at:
            return
        for slot in self._caches():
            if now >= slot.last_used + MAX_IDLE_CACHE_S:
                self.clear(slot)
        self._look_at = self.expires_at or now + MAX_IDLE_CACHE_S

    @property
    def expires_at(self) -> Seconds | None:
        """When the next cache is to be forgotten; None without any."""
        return min((slot.last_used + MAX_IDLE_CACHE_S for slot in self._caches()), default=None)

    @property
    def is_unused(self) -> bool:
        """No slot holds anything."""
        return not any(slot.is_busy or slot.tokens for slot in self.slots)

    def evict_idle(self) -> bool:
        """Clear the idle cache used longest ago; False when there is none."""
        idle = self._caches()
        if not idle:
            return False
        self.clear(min(idle, key=lambda slot: slot.last_used))
        return True

    def _caches(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.is_busy and slot.tokens]

    def _reuse(self, found: Placement, now: Seconds) -> int:
        """Bring the slot's memory to the tokens it may reuse; how many they are."""
        slot, source, n_reused = found.slot, found.source, found.n_reused
        if source is None or n_reused == 0:
            self.clear(slot)
            return 0
        is_there = self._cut(slot, n_reused, now) if source is slot else self._copy(source, slot, n_reused, now)
        if is_there and self._lib.llama_memory_seq_pos_max(self._memory, slot.index) == last_position(
            slot.spans, n_reused
        ):
            self._checkpoints.inherit(source, n_reused, slot)
            return n_reused
        self.clear(slot)
        return 0

    def _cut(self, slot: Slot, n_tokens: int, now: Seconds) -> bool:
        """False when it cannot be done; then all is computed again."""
        if n_tokens == len(slot.tokens):
            return True
        if not is_live(slot, n_tokens, self._cuts, is_copy=False) and not self._checkpoints.restore(
            slot, n_tokens, slot, now
        ):
            return False
        return self._shorten(slot, n_tokens)

    def _copy(self, source: Slot, slot: Slot, n_tokens: int, now: Seconds) -> bool:
        self.clear(slot)
        self._lib.llama_memory_seq_cp(self._memory, source.index, slot.index, 0, position(slot.spans, n_tokens))
        if not is_live(source, n_tokens, self._cuts, is_copy=True):
            return self._checkpoints.restore(source, n_tokens, slot, now) and self._shorten(slot, n_tokens)
        if self._cuts.window:
            # a window's cells go back to use once their sequence has passed them, but only those that are not shared
            return self._checkpoints.copy_end(source, slot, now) and self._shorten(slot, n_tokens)
        return True

    def _shorten(self, slot: Slot, n_tokens: int) -> bool:
        return bool(self._lib.llama_memory_seq_rm(self._memory, slot.index, position(slot.spans, n_tokens), -1))
