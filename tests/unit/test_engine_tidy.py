"""What finished requests leave is overwritten in time, and not while it is of use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mcd.engine.kv import KvMemory
from mcd.engine.slots import ANYWHERE, MAX_IDLE_CACHE_S
from mcd.engine.tidy import SCRUB_AFTER_S, WIPE_AFTER_S, Tidy

PROMPT = list(range(100))


class Room:
    """A KV memory on a llama.cpp that only writes down what it is asked, and its Tidy."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        lib = SimpleNamespace(
            llama_get_memory=lambda context: None,
            llama_memory_seq_rm=lambda memory, sequence, first, last: self.calls.append(f"clear {sequence}") or True,
            llama_memory_clear=lambda memory, data: self.calls.append("wipe" if data else "clear"),
            llama_memory_seq_pos_max=lambda memory, sequence: -1,
        )
        batch = SimpleNamespace(
            scratch=2,
            scrub=lambda context, sequence: self.calls.append(f"scrub {sequence}"),
            clear_scratch=lambda context: self.calls.append("scratch"),
        )
        self.kv = KvMemory(lib, None, 2, 1000, cuts=ANYWHERE, checkpoint_bytes=0)
        self.tidy = Tidy(SimpleNamespace(handle=None), batch, self.kv)

    def serve(self, key: str, now: float, *, is_kept: bool) -> None:
        slot = self.kv.admit(PROMPT, 10, key, now, may_be_reused=is_kept)
        assert slot is not None
        slot.tokens = list(PROMPT)
        self.kv.release(slot, now)
        if not is_kept:
            self.kv.forget(key)
        self.tidy.ended(now)

    def run(self, now: float, *, is_idle: bool = True) -> list[str]:
        self.calls.clear()
        self.tidy.run(now, is_idle=is_idle)
        return list(self.calls)


@pytest.fixture
def room() -> Room:
    return Room()


def test_nothing_is_due_before_the_first_request(room: Room) -> None:
    assert room.tidy.due_at(is_idle=True) is None
    assert room.run(1e6) == []


def test_buffers_are_scrubbed_once_soon_after_requests_even_while_others_run(room: Room) -> None:
    room.serve("one", 10.0, is_kept=False)
    room.serve("two", 10.0 + SCRUB_AFTER_S / 2, is_kept=False)
    assert room.tidy.due_at(is_idle=False) == 10.0 + SCRUB_AFTER_S
    assert room.run(10.0 + SCRUB_AFTER_S / 2, is_idle=False) == []
    assert room.run(10.0 + SCRUB_AFTER_S, is_idle=False) == ["scrub 2"]
    assert room.run(20.0, is_idle=False) == []


def test_idle_caches_are_forgotten_after_ten_minutes_the_rest_wiped_then(room: Room) -> None:
    room.serve("mine", 10.0, is_kept=True)
    room.run(11.0)
    assert room.tidy.due_at(is_idle=True) == 10.0 + MAX_IDLE_CACHE_S
    assert room.run(10.0 + MAX_IDLE_CACHE_S - 1) == []
    assert room.run(10.0 + MAX_IDLE_CACHE_S) == ["clear 0", "wipe", "scratch"]
    assert room.tidy.due_at(is_idle=True) is None


def test_each_cache_is_forgotten_at_its_own_time(room: Room) -> None:
    room.serve("mine", 10.0, is_kept=True)
    room.run(11.0)
    room.serve("yours", 20.0, is_kept=True)
    assert room.run(10.0 + MAX_IDLE_CACHE_S, is_idle=False) == ["scrub 2", "clear 0"]
    assert room.run(19.0 + MAX_IDLE_CACHE_S, is_idle=False) == []
    assert room.run(20.0 + MAX_IDLE_CACHE_S, is_idle=False) == ["clear 1"]


def test_memory_is_wiped_in_a_pause_once_nothing_in_it_is_of_use(room: Room) -> None:
    room.serve("nobody", 10.0, is_kept=False)
    room.run(11.0)
    assert room.tidy.due_at(is_idle=False) is None
    assert room.tidy.due_at(is_idle=True) == 10.0 + WIPE_AFTER_S
    assert room.run(10.0 + WIPE_AFTER_S, is_idle=False) == []
    assert room.run(10.0 + WIPE_AFTER_S) == ["wipe", "scratch"]
    assert room.run(10.0 + 2 * WIPE_AFTER_S) == []


def test_a_salt_less_request_leaves_no_cache(room: Room) -> None:
    room.serve("nobody", 10.0, is_kept=False)
    assert room.kv.is_unused
    room.serve("mine", 11.0, is_kept=True)
    assert not room.kv.is_unused
    assert [slot.tokens for slot in room.kv.slots if slot.tokens] == [PROMPT]
