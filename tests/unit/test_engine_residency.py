"""Who is loaded at the start, what each may take, and who makes room: pure decisions over many machines."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine import messages, worker
from mcd.engine.faults import Starts
from mcd.engine.link import WorkerLink
from mcd.engine.messages import EngineOptions, FailureCode, Load, Rotated
from mcd.engine.residency import Resident, make_room, shares, start_plan
from mcd.engine.seal import SealKeys
from mcd.wire.keyconfig import certify
from mcd.wire.signing import SigningKey

sizes = st.integers(0, 100)
residents = st.lists(
    st.tuples(sizes, st.booleans(), st.floats(0, 100)), max_size=8
).map(lambda rows: [Resident(index, *row) for index, row in enumerate(rows)])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(sizes, max_size=8), st.integers(0, 300))
def test_the_start_never_takes_more_than_there_is(leasts: list[int], room: int) -> None:
    chosen = start_plan(leasts, room)
    parts = shares([leasts[index] for index in chosen], room)
    assert sum(parts) <= room
    assert all(part >= leasts[index] for part, index in zip(parts, chosen, strict=True))
    if sum(leasts) <= room:
        assert chosen == tuple(range(len(leasts)))
    if leasts and leasts[0] <= room:
        assert chosen[0] == 0  # the operator's first model is never the one left out


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, residents)
def test_room_is_made_by_the_longest_unused_and_never_by_the_busy(
    least: int, room: int, loaded: list[Resident]
) -> None:
    victims = make_room(least, room, loaded)
    idle = [resident for resident in loaded if not resident.must_stay]
    if victims is None:
        assert room + sum(resident.n_bytes for resident in idle) < least
        return
    assert room + sum(loaded[index].n_bytes for index in victims) >= least
    assert not any(loaded[index].must_stay for index in victims)
    spared = [resident.used_at for resident in idle if resident.index not in victims]
    assert all(loaded[index].used_at <= at for index in victims for at in spared)
    if room >= least:
        assert victims == ()


def test_want_of_memory_is_tried_once_more_and_a_crash_twice() -> None:
    starts = Starts()
    assert not starts.ended(FailureCode.OUT_OF_MEMORY, "", is_loading=True).is_final
    assert starts.n_load_failures == 1
    assert starts.ended(FailureCode.OUT_OF_MEMORY, "", is_loading=True).is_final
    crashes = Starts()
    assert not crashes.ended(None, "SIGABRT", is_loading=True).is_final
    assert crashes.n_load_failures == 1
    final = crashes.ended(None, "SIGABRT", is_loading=True)
    assert final.is_final
    assert "SIGABRT" in final.why
    proven = Starts()
    proven.succeeded()
    assert not any(proven.ended(None, "SIGKILL", is_loading=False).is_final for _ in range(5))
    assert not any(proven.ended(FailureCode.OUT_OF_MEMORY, "", is_loading=True).is_final for _ in range(3))
    assert proven.ended(FailureCode.MODEL_INVALID, "", is_loading=True).is_final
    assert not Starts().ended(FailureCode.UPSTREAM, "", is_loading=True).is_final


def test_a_sleeping_worker_keeps_its_keys_young() -> None:
    ours, theirs = socket.socketpair()
    key = SigningKey(bytes(32))
    keys = SealKeys(key.public_key, bytes(32))
    now_ms = int(time.time() * 1000)
    keys.install_certificate(certify(keys.engine_public_key, now_ms, key))
    keys.rotate(now_ms)
    first = keys.key_id
    keys.rotates_at_ms = now_ms
    woken: list[Any] = []
    thread = threading.Thread(target=lambda: woken.append(worker._sleep(WorkerLink(theirs.fileno()), keys)))
    thread.start()
    ours.settimeout(10)
    buffer = messages.FrameBuffer(messages.MAX_FRAME_TO_DAEMON_BYTES)
    bodies: list[bytes] = []
    while not bodies:
        bodies = buffer.feed(ours.recv(65_536))
    (rotated,) = messages.decode_to_daemon(bodies[0])
    ours.sendall(messages.encode_to_worker(Load(EngineOptions(n_ctx=77))))
    thread.join(10)
    ours.close()
    theirs.close()
    assert isinstance(rotated, Rotated)
    assert rotated.key_id == keys.key_id != first
    assert woken == [EngineOptions(n_ctx=77)]
