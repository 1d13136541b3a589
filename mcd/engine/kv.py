"""The KV memory of all slots: carries out `slots.place`, and knows which llama.cpp calls may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcd.engine.slots import Placement, Slot, must_hold, place


class KvMemory:
    """Owner of the slots and of what llama.cpp holds for them."""

    def __init__(self, lib: Any, memory: Any, n_slots: int, n_cells: int, *, can_cut: bool) -> None:
        self._lib = lib
        self._memory = memory
        self._can_cut = can_cut
        self.n_cells = n_cells
        self.slots = [Slot(index) for index in range(n_slots)]

    def should_wait(self, prompt: list[int], cache_key: str) -> bool:
        """Another prefill under way will leave most of this prompt in the memory."""
        return self._can_cut and must_hold(self.slots, prompt, cache_key)

    def admit(self, prompt: list[int], n_new: int, cache_key: str, now: float) -> Slot | None:
        """Take a slot and cells for a prompt and its answer; ``slot.tokens`` is what is already computed."""
        found = place(self.slots, prompt, cache_key, len(prompt) + n_new, self.n_cells, can_cut=self._can_cut)
        if found is None:
            return None
        slot = found.slot
        slot.tokens = self._reuse(found, prompt)
        for victim in found.evict:
            self.clear(victim)
        slot.is_busy = True
        slot.planned = prompt
        slot.reserved = len(prompt) + n_new
        slot.cache_key = cache_key
        slot.last_used = now
        return slot

    def release(self, slot: Slot, now: float) -> None:
        """The request is over; its tokens stay as a prefix cache."""
        slot.is_busy = False
        slot.planned = ()
        slot.reserved = 0
        slot.last_used = now

    def clear(self, slot: Slot) -> None:
        """Forget what a slot holds."""
        self._lib.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
        slot.tokens = []

    def clear_all(self) -> None:
        """Forget everything and overwrite it; every slot must be idle."""
        self._lib.llama_memory_clear(self._memory, True)
        for slot in self.slots:
            slot.tokens = []

    def evict_idle(self) -> bool:
        """Clear the idle cache used longest ago; False when there is none."""
        idle: Sequence[Slot] = [slot for slot in self.slots if not slot.is_busy and slot.tokens]
        if not idle:
            return False
        self.clear(min(idle, key=lambda slot: slot.last_used))
        return True

    def _reuse(self, found: Placement, prompt: list[int]) -> list[int]:
        slot, source, n_reused = found.slot, found.source, found.n_reused
        if source is None or n_reused == 0:
            self.clear(slot)
            return []
        if source is slot:
            # sliding-window and recurrent memories may refuse to be cut; then all is computed again
            is_whole = n_reused == len(slot.tokens)
            if not is_whole and not self._lib.llama_memory_seq_rm(self._memory, slot.index, n_reused, -1):
                self.clear(slot)
                return []
            return prompt[:n_reused]
        self.clear(slot)
        self._lib.llama_memory_seq_cp(self._memory, source.index, slot.index, 0, n_reused)
        return prompt[:n_reused]
