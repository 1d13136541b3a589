"""Checkpoints of memories: bounded in number and bytes, shared by slots that begin alike, the oldest use goes first."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mcd.engine.checkpoints import MAX_CHECKPOINTS, PARTIAL_ONLY, Checkpoints
from mcd.engine.kv import KvMemory
from mcd.engine.slots import Cuts, Slot

SIZE = 100
PROMPT = list(range(200))


class Memory:
    """llama.cpp's three calls: a sequence's state is its number, repeated."""

    def __init__(self) -> None:
        self.restored: list[tuple[int, int]] = []
        self.size = SIZE
        lib = SimpleNamespace()
        lib.llama_state_seq_get_size_ext = lambda context, sequence, flags: self.size
        lib.llama_state_seq_get_data_ext = self._get
        lib.llama_state_seq_set_data_ext = self._set
        self.lib = lib

    def _get(self, context: object, data: object, size: int, sequence: int, flags: int) -> int:
        assert flags == PARTIAL_ONLY
        ctypes.memset(data, sequence, size)
        return size

    def _set(self, context: object, data: ctypes.Array[ctypes.c_uint8], size: int, sequence: int, flags: int) -> int:
        assert flags == PARTIAL_ONLY
        self.restored.append((data[0], sequence))
        return size


@pytest.fixture
def memory() -> Memory:
    return Memory()


def grow(slot: Slot, n_tokens: int) -> Slot:
    slot.tokens = list(range(n_tokens))
    return slot


def test_a_checkpoint_is_restored_into_any_slot(memory: Memory) -> None:
    first, second = grow(Slot(0), 50), Slot(1)
    kept = Checkpoints(memory.lib, None, (first, second), 10 * SIZE)
    assert kept.take(first, 1.0)
    assert first.checkpoints == [50]
    assert not kept.restore(first, 49, second, 2.0)
    assert kept.restore(first, 50, second, 2.0)
    assert memory.restored == [(0, 1)]


def test_shared_checkpoints_count_once_and_end_with_their_last_slot(memory: Memory) -> None:
    first, second = Slot(0), Slot(1)
    kept = Checkpoints(memory.lib, None, (first, second), 10 * SIZE)
    for n_tokens in (10, 20, 30):
        kept.take(grow(first, n_tokens), 1.0)
    kept.inherit(first, 20, second)
    assert second.checkpoints == [10, 20]
    assert kept.size_bytes == 3 * SIZE
    kept.drop(first)
    assert kept.size_bytes == 2 * SIZE
    kept.drop(second)
    assert kept.size_bytes == 0


def test_bytes_are_bounded_and_the_oldest_use_goes_first(memory: Memory) -> None:
    first, second = Slot(0), Slot(1)
    kept = Checkpoints(memory.lib, None, (first, second), 3 * SIZE)
    for now, n_tokens in enumerate((10, 20, 30)):
        kept.take(grow(first, n_tokens), float(now))
    assert kept.restore(first, 10, second, 5.0)
    kept.take(grow(second, 40), 6.0)
    assert kept.size_bytes == 3 * SIZE
    assert (first.checkpoints, second.checkpoints) == ([10, 30], [40])
    memory.size = 3 * SIZE + 1
    assert not kept.take(grow(second, 50), 7.0)


def test_number_of_a_slots_is_bounded(memory: Memory) -> None:
    slot = Slot(0)
    kept = Checkpoints(memory.lib, None, (slot,), 1000 * SIZE)
    for n_tokens in range(1, MAX_CHECKPOINTS + 6):
        kept.take(grow(slot, n_tokens), float(n_tokens))
    assert slot.checkpoints == list(range(6, MAX_CHECKPOINTS + 6))


def kv_memory(memory: Memory, cuts: Cuts) -> KvMemory:
    """Two slots in which the prompt below was computed as far as one asks."""
    memory.lib.llama_get_memory = lambda context: None
    memory.lib.llama_memory_seq_rm = lambda *where: True
    memory.lib.llama_memory_clear = lambda held, data: None
    memory.lib.llama_memory_seq_cp = lambda *where: None
    memory.lib.llama_memory_seq_pos_min = lambda held, sequence: 0
    memory.lib.llama_memory_seq_pos_max = lambda held, sequence: len(PROMPT) - 1
    return KvMemory(memory.lib, None, 2, 1000, cuts=cuts, checkpoint_bytes=10 * SIZE)


def computed(kv: KvMemory, prompt: list[int], now: float) -> Slot:
    slot = kv.admit(prompt, 10, "mine", now, may_be_reused=True)
    assert slot is not None
    for n_done in (*slot.marks, len(prompt)):
        slot.tokens = prompt[:n_done]
        kv.computed(slot, now)
    return slot


@pytest.mark.parametrize("forget", [lambda kv: kv.forget("mine"), KvMemory.clear_all])
@pytest.mark.parametrize("cuts", [Cuts(window=64), Cuts(is_recurrent=True)])
def test_who_is_forgotten_leaves_no_checkpoint(memory: Memory, cuts: Cuts, forget: Callable[[KvMemory], None]) -> None:
    """It is made of his prompt, and the next one's tokens would be continued from it."""
    kv = kv_memory(memory, cuts)
    slot = computed(kv, PROMPT, 1.0)
    kv.release(slot, 2.0)
    assert slot.checkpoints
    forget(kv)
    assert (slot.checkpoints, kv._checkpoints.size_bytes) == ([], 0)


def test_who_continues_a_window_that_is_in_use_gets_cells_of_his_own(memory: Memory) -> None:
    """Shared ones never go back to use: each copy would hold a window's worth for as long as it lasts."""
    kv = kv_memory(memory, Cuts(window=64))
    first = computed(kv, PROMPT, 1.0)
    memory.restored.clear()
    second = kv.admit([*PROMPT, 7, 7], 10, "mine", 2.0, may_be_reused=True)
    assert second is not None
    assert second.tokens == PROMPT
    assert memory.restored == [(first.index, second.index)]
