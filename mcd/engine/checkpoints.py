"""Copies of what a memory that cannot be cut held at some token: a recurrent state, or a sliding window's cells.

llama.cpp writes them (`llama_state_seq_get_data_ext` with PARTIAL_ONLY) and reads back only bytes that lie here: its
reader trusts what it is given, so nothing from outside ever gets there. A copy belongs to the prefix of a slot's tokens
and may be shared by slots that begin alike. Bounded in number a slot and in bytes; the one used longest ago goes first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd.engine.slots import Slot

MAX_CHECKPOINTS = 16
"""A slot's; with one each 2048 tokens they cover the newest 32k of a long conversation."""
PARTIAL_ONLY = 1
"""LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: without the cells of full attention, which can be cut."""


class _State:
    __slots__ = ("data", "used_at")

    def __init__(self, data: npt.NDArray[np.uint8], used_at: float) -> None:
        self.data = data
        self.used_at = used_at


class Checkpoints:
    """Owner of the copies; keeps each slot's list of their places."""

    def __init__(self, lib: Any, context: Any, slots: Sequence[Slot], max_bytes: int) -> None:
        self._lib = lib
        self._context = context
        self._slots = slots
        self._max_bytes = max_bytes
        self._states: list[dict[int, _State]] = [{} for _ in slots]

    @property
    def size_bytes(self) -> int:
        """Of all copies; one that several slots share counts once."""
        return sum({id(s): s.data.nbytes for states in self._states for s in states.values()}.values())

    def take(self, slot: Slot, now: float) -> bool:
        """Keep what the memory holds at the end of the slot's tokens; False when there is no room for it."""
        state = self._read(slot, now)
        if state is None:
            return False
        states = self._states[slot.index]
        states[len(slot.tokens)] = state
        while len(states) > MAX_CHECKPOINTS:
            del states[min(states, key=lambda n: (states[n].used_at, n))]
        self._tell(slot)
        self._make_room()
        return len(slot.tokens) in states

    def restore(self, source: Slot, n_tokens: int, slot: Slot, now: float) -> bool:
        """Bring a slot's memory to the source's checkpoint at ``n_tokens``; False leaves the slot without memory."""
        state = self._states[source.index].get(n_tokens)
        if state is None:
            return False
        state.used_at = now
        return self._write(state, slot)

    def copy_end(self, source: Slot, slot: Slot, now: float) -> bool:
        """Give a slot cells of its own with what the source's end looks at."""
        state = self._read(source, now)
        return state is not None and self._write(state, slot)

    def inherit(self, source: Slot, n_tokens: int, slot: Slot) -> None:
        """The slot begins like the source: its checkpoints up to there are the slot's too."""
        found = {n: state for n, state in self._states[source.index].items() if n <= n_tokens}
        self._states[slot.index] = found
        self._tell(slot)

    def drop(self, slot: Slot) -> None:
        """Forget a slot's."""
        self._states[slot.index] = {}
        self._tell(slot)

    def _read(self, slot: Slot, now: float) -> _State | None:
        size = int(self._lib.llama_state_seq_get_size_ext(self._context, slot.index, PARTIAL_ONLY))
        if not 0 < size <= self._max_bytes:
            return None
        try:
            data = np.empty(size, np.uint8)
        except MemoryError:  # our limit on allocations; a checkpoint less is a prefill more
            return None
        n_read = self._lib.llama_state_seq_get_data_ext(self._context, _bytes(data), size, slot.index, PARTIAL_ONLY)
        return _State(data, now) if n_read == size else None

    def _write(self, state: _State, slot: Slot) -> bool:
        size = state.data.nbytes
        n_set = self._lib.llama_state_seq_set_data_ext(
            self._context, _bytes(state.data), size, slot.index, PARTIAL_ONLY
        )
        return bool(n_set == size)

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes:
            oldest = min(
                ((state.used_at, n, index) for index, states in enumerate(self._states) for n, state in states.items())
            )
            del self._states[oldest[2]][oldest[1]]
            self._tell(self._slots[oldest[2]])

    def _tell(self, slot: Slot) -> None:
        slot.checkpoints = sorted(self._states[slot.index])


def _bytes(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
