"""When our own record is said: at every change, again and again, and no more often than others carry it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from mcd.ids import ModelDigest
from mcd.mesh.gossip_gate import Gate
from mcd.provider.announce import ANNOUNCE_EVERY_S, LOOK_EVERY_S, REPEAT_AFTER_S
from mcd.wire.messages import Record
from mcd.wire.records import open_record
from tests.fakes.sealing_engine import Play
from tests.unit.test_entry_and_provider import EPOCH_MS, Node, nodes

pytestmark = pytest.mark.autojump


class Said:
    """What a peer publishes from now on, and what its neighbours' gate says to that."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        self.records: list[Record] = []
        self.dropped: list[str] = []
        self._publish = node.mesh.publish
        self._gate = Gate()
        self._peer_id = node.peer_id
        monkeypatch.setattr(node.mesh, "publish", self.publish)

    async def publish(self, record: bytes, digests: Sequence[ModelDigest]) -> None:
        now_s = trio.current_time()
        self.times.append(now_s)
        self.records.append(open_record(record, now_ms=EPOCH_MS + int(1000 * now_s), network="test").record)
        reason = self._gate.admit_origin(self._peer_id, "00", now_s)
        if reason is not None:
            self.dropped.append(reason)
        await self._publish(record, digests)


@pytest.mark.spec("DISC-13")
async def test_a_record_is_said_on_change_and_every_30_s(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(ada=Play()) as (_, providers):
        await trio.sleep(100)
        said = Said(providers["ada"], monkeypatch)
        await trio.sleep(10 * ANNOUNCE_EVERY_S)
        assert 9 <= len(said.times) <= 10
        await trio.sleep(1)
        changed_at, n_before = trio.current_time(), len(said.times)
        providers["ada"].engines[0].play.n_ctx = 8192
        await trio.sleep(ANNOUNCE_EVERY_S - 2)
        times = said.times[n_before:]
        assert 0 <= times[0] - changed_at <= LOOK_EVERY_S
        assert [round(at - times[0]) for at in times[1 : 1 + len(REPEAT_AFTER_S)]] == [*REPEAT_AFTER_S]
        assert all(record.models[0].n_ctx == 8192 for record in said.records[n_before:])
        assert said.dropped == []


@pytest.mark.spec("DISC-13")
async def test_an_engine_that_comes_and_goes_is_not_said_more_often_than_others_carry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two records a second used up what neighbours carry, and how it stood in the end was dropped with the rest."""
    async with nodes(ada=Play()) as (_, providers):
        await trio.sleep(100)
        ada = providers["ada"]
        said = Said(ada, monkeypatch)
        for state in ("restarting", "ready") * 60:
            ada.engines[0].state = state  # type: ignore[assignment]  # a literal each
            await trio.sleep(2 * LOOK_EVERY_S)
        ada.engines[0].play.n_ctx = 8192
        ended_at = trio.current_time()
        await trio.sleep(7)
        await ada.announcer.withdraw()
        assert said.dropped == []
        assert len(said.times) > 20
        told_at = next(at for at, record in zip(said.times, said.records, strict=True) if _n_ctx(record) == 8192)
        assert told_at - ended_at <= 5 + LOOK_EVERY_S
        assert said.records[-1].expires_ms <= said.records[-1].issued_ms + 1, "the goodbye is carried, too"


def _n_ctx(record: Record) -> int:
    return record.models[0].n_ctx if record.models else 0
