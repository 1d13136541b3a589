"""Requests that wait at a provider: whose turn it is, what they hear, how they end. Real seals, virtual time."""

from __future__ import annotations

import msgspec
import pytest
import trio

from mcd.exchange.states import LINGER_TIMEOUT_S
from mcd.ports import Stream
from mcd.provider.admission import MAX_HELD_S, Ask
from mcd.wire.codec import decode_exchange
from mcd.wire.framing import FrameReader
from mcd.wire.messages import (
    MAX_FRAME_BYTES,
    Abort,
    AbortCode,
    Accepted,
    Cancel,
    Finished,
    Refused,
    RefuseReason,
    Started,
)
from mcd.wire.messages import Waiting as WaitingMessage
from tests.fakes import memory_mesh
from tests.fakes.sealing_engine import Play
from tests.unit.test_entry_and_provider import Node, nodes, text, words
from tests.unit.test_hostile_peers import heard, open_to, said, sealed_request

pytestmark = pytest.mark.autojump
ANSWER_S = 2.0
LONG = Play(n_tokens=100, token_s=ANSWER_S / 100, n_slots=2)


async def ask(entry: Node, provider: Node, started_at: list[float]) -> None:
    """One whole exchange; notes when it was started."""
    stream = await open_to(entry, provider, said(await sealed_request(entry, provider)))
    reader = FrameReader(MAX_FRAME_BYTES)
    while data := await stream.receive():
        reader.feed(data)
        while (body := reader.next_frame()) is not None:
            if isinstance(decode_exchange(body), Started):
                started_at.append(trio.current_time())


@pytest.mark.spec("EX-33", "EX-34")
@pytest.mark.parametrize("n_slots", [1, 2, 3])
async def test_one_end_is_all_that_a_second_entry_waits_behind_a_flood(n_slots: int) -> None:
    play = Play(n_tokens=100, token_s=ANSWER_S / 100, n_slots=n_slots)
    async with nodes(ada=play, mallory=Play()) as (entry, providers):
        ada, mallory = providers["ada"], providers["mallory"]
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask, mallory, ada, [])
            await trio.sleep(0.5)
            assert ada.engines[0].n_running == n_slots
            assert ada.provider.statuses()[0].n_waiting == 2 * n_slots - 1  # whom MAX_QUEUE_S lets in
            began_s, started_at = trio.current_time(), []
            await ask(entry, ada, started_at)
            assert started_at[0] - began_s <= ANSWER_S
            nursery.cancel_scope.cancel()
        assert ada.engines[0].n_most == n_slots


@pytest.mark.spec("EX-35")
async def test_a_slot_is_spared_for_the_second_entry_but_not_from_the_operators() -> None:
    async with nodes(ada=Play(n_tokens=10_000), mallory=Play()) as (_, providers):
        ada, mallory = providers["ada"], providers["mallory"]
        for _ in range(8):
            await open_to(mallory, ada, said(await sealed_request(mallory, ada)))
        await trio.sleep(0.5)
        assert ada.engines[0].n_running == 3
        await open_to(ada, ada, said(await sealed_request(ada, ada)))
        await trio.sleep(0.5)
        assert ada.engines[0].n_running == 4
    async with nodes(ada=Play(n_tokens=10_000)) as (_, providers):
        ada = providers["ada"]
        for _ in range(8):
            await open_to(ada, ada, said(await sealed_request(ada, ada)))
        await trio.sleep(0.5)
        assert ada.engines[0].n_running == 4


@pytest.mark.spec("EX-20", "EX-36")
async def test_each_is_told_its_own_place_and_wait_and_then_less() -> None:
    async with nodes(ada=Play(n_tokens=500, token_s=0.01, n_slots=1), eve=Play()) as (entry, providers):
        ada, eve = providers["ada"], providers["eve"]
        for _ in range(2):
            await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1)
        stream = await open_to(eve, ada, said(await sealed_request(eve, ada)))
        messages = await heard(stream)
        accepted, *waits = [m for m in messages if isinstance(m, Accepted | WaitingMessage)]
        assert accepted == Accepted(1, pytest.approx(5470, abs=50)), "before the other's second: one answer of 5 s"
        assert [wait.position for wait in waits if wait.queue_ms] == [1]
        assert isinstance(messages[-1], Finished)


@pytest.mark.spec("EX-37")
async def test_who_has_waited_for_too_long_is_sent_on_before_its_seal_runs_out() -> None:
    async with nodes(ada=Play(n_tokens=100_000, n_slots=1)) as (entry, providers):
        ada = providers["ada"]
        await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1)
        began = trio.current_time()
        messages = await heard(await open_to(entry, ada, said(await sealed_request(entry, ada))))
        refused = messages[-1]
        assert isinstance(refused, Refused)
        assert refused.reason == RefuseReason.BUSY
        assert refused.retry_after_ms >= MAX_HELD_S * 1000, "the one that runs has run for so long already"
        assert trio.current_time() - began == pytest.approx(MAX_HELD_S, abs=LINGER_TIMEOUT_S + 1)
        assert ada.engines[0].n_running == 1


@pytest.mark.spec("EX-27")
async def test_a_cancel_in_line_closes_the_stream_and_the_next_moves_up() -> None:
    async with nodes(ada=LONG) as (entry, providers):
        ada = providers["ada"]
        running: list[Stream] = [
            await open_to(entry, ada, said(await sealed_request(entry, ada))) for _ in range(LONG.n_slots)
        ]
        gone = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        last = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(0.5)
        await gone.send(said(Cancel()))
        messages = await heard(gone)
        assert not [message for message in messages if isinstance(message, Abort | Started)]
        assert ada.provider.served.outcomes["cancelled"] == 1
        assert ada.provider.statuses()[0].n_waiting == 1
        await running[0].reset()
        await trio.sleep(0.1)
        assert ada.provider.statuses()[0].n_waiting == 0
        assert isinstance((await heard(last))[-1], Finished)


@pytest.mark.spec("EX-34")
async def test_a_slow_reader_holds_no_slot_that_its_answer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(ada=Play(n_tokens=100, n_slots=1)) as (entry, providers):
        ada = providers["ada"]
        whole = said(*await heard(await open_to(entry, ada, said(await sealed_request(entry, ada)))))
        monkeypatch.setattr(memory_mesh, "WINDOW_BYTES", len(whole) - 10)
        slow = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(LINGER_TIMEOUT_S)
        assert ada.engines[0].n_running == 1, "its end is on its way"
        monkeypatch.setattr(memory_mesh, "WINDOW_BYTES", 2 * len(whole))
        quick = await heard(await open_to(entry, ada, said(await sealed_request(entry, ada))))
        assert quick[0] == Accepted(0, 0)
        assert isinstance(quick[-1], Finished)
        assert isinstance((await heard(slow))[-1], Finished)


@pytest.mark.spec("EX-32", "EX-34")
async def test_who_waits_for_a_model_to_load_waits_for_a_slot_as_well() -> None:
    async with nodes(ada=Play(load_s=30.0, n_slots=2)) as (entry, providers):
        ada = providers["ada"]
        began: list[float] = []
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, entry, ada, began)
        assert len(began) == 4
        assert ada.engines[0].n_most == 2


async def test_a_refusal_of_the_engine_lets_the_next_begin() -> None:
    async with nodes(ada=Play(n_slots=1, start_s=1.0, key_is_unknown_once=True)) as (entry, providers):
        ada = providers["ada"]
        request = await sealed_request(entry, ada)
        first = await open_to(entry, ada, said(request))
        second = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        assert (await heard(first))[-1] == Refused(RefuseReason.KEY_UNKNOWN, 0)
        assert isinstance((await heard(second))[-1], Refused | Finished)
        assert text(await entry.ask()) == words(5)


@pytest.mark.spec("EX-36")
async def test_what_the_engine_cannot_open_says_nothing_of_how_long_answers_take() -> None:
    async with nodes(ada=LONG, mallory=Play()) as (entry, providers):
        ada, mallory = providers["ada"], providers["mallory"]
        admission = ada.provider._desks[0].admission
        await ask(entry, ada, [])
        request = await sealed_request(mallory, ada)
        noise = msgspec.structs.replace(request, sealed=bytes(len(request.sealed)))
        for _ in range(20):
            last = (await heard(await open_to(mallory, ada, said(noise))))[-1]
            assert last == Abort(AbortCode.ENVELOPE)
        assert ada.provider.served.outcomes["envelope"] == 20
        status = ada.engines[0].status()
        assert admission.service_s(status, Ask(1000, 100)) == pytest.approx(ANSWER_S, rel=0.1)
