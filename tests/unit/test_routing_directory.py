"""The directory: what counts as news, what leaves when, and what a flood cannot do."""

from __future__ import annotations

import pytest

from mcd.ids import ModelAlias, ModelDigest, PeerId
from mcd.routing import directory as directory_module
from mcd.routing.directory import RECORD_BURST, RECORD_REFILL_MS, Directory
from mcd.wire.messages import ModelOffer, Record
from mcd.wire.records import SignedRecord

NOW = 1_800_000_000_000
LIFETIME_MS = 120_000
OWN = PeerId("own")
DIGEST = ModelDigest(b"d" * 32)
OTHER = ModelDigest(b"e" * 32)


def model(alias: str = "nano", digest: bytes = DIGEST) -> ModelOffer:
    return ModelOffer(alias, digest, 4096, 2, ("chat",), 0, 0, 1000, 50, b"k" * 32, b"i" * 8)


def signed(
    peer: str = "a",
    seq: int = 1,
    *,
    issued_ms: int = NOW,
    lifetime_ms: int = LIFETIME_MS,
    models: tuple[ModelOffer, ...] = (model(),),
    network: str = "main",
    name: str = "",
) -> SignedRecord:
    record = Record(1, network, seq, issued_ms, issued_ms + lifetime_ms, name, "", (), models)
    return SignedRecord(PeerId(peer), b"p" * 32, record, repr((peer, seq, issued_ms, name)).encode())


def goodbye(peer: str = "a", seq: int = 2, issued_ms: int = NOW) -> SignedRecord:
    return signed(peer, seq, issued_ms=issued_ms, lifetime_ms=0, models=())


def offered(known: Directory, now_ms: int = NOW, alias: str = "nano") -> list[str]:
    return [offer.peer_id for offer in known.snapshot(now_ms).by_alias.get(ModelAlias(alias), ())]


@pytest.fixture
def known() -> Directory:
    return Directory(OWN, "main")


def test_a_record_is_offered_under_alias_and_digest(known: Directory) -> None:
    assert known.judge(signed("b"), NOW) == "accept"
    assert known.judge(signed("a"), NOW) == "accept"
    snapshot = known.snapshot(NOW)
    assert [offer.peer_id for offer in snapshot.by_alias[ModelAlias("nano")]] == ["a", "b"]
    assert [offer.model.digest for offer in snapshot.by_digest[DIGEST]] == [DIGEST, DIGEST]
    assert known.counters["accepted"] == 2


@pytest.mark.spec("REC-06")
def test_older_and_equal_numbers_are_replays(known: Directory) -> None:
    known.judge(signed(seq=5), NOW)
    assert known.judge(signed(seq=4), NOW) == "ignore"
    assert known.judge(signed(seq=5), NOW) == "ignore"
    assert known.counters["replay"] == 2
    assert known.counters["equivocation"] == 0


def test_two_records_of_one_number_are_equivocation_and_the_first_stays(known: Directory) -> None:
    known.judge(signed(seq=5, name="first"), NOW)
    assert known.judge(signed(seq=5, name="second"), NOW) == "ignore"
    assert known.counters["equivocation"] == 1
    assert known.newest_first(NOW, 2) == [signed(seq=5, name="first")]


def test_a_newer_record_replaces_what_was_offered(known: Directory) -> None:
    known.judge(signed(seq=1), NOW)
    before = known.snapshot(NOW)
    known.judge(signed(seq=2, models=(model("other", OTHER),)), NOW)
    assert offered(known) == []
    assert offered(known, alias="other") == ["a"]
    assert set(known.snapshot(NOW).by_digest) == {OTHER}
    assert set(before.by_digest) == {DIGEST}, "a snapshot holds still"


def test_a_goodbye_removes_at_once_and_blocks_older_numbers(known: Directory) -> None:
    known.judge(signed(seq=1), NOW)
    assert known.judge(goodbye(seq=3), NOW) == "accept"
    assert offered(known) == []
    assert known.peers(NOW) == ()
    assert known.judge(signed(seq=2), NOW + 1) == "ignore"
    assert known.counters["replay"] == 1
    assert known.judge(signed(seq=4, issued_ms=NOW + 10), NOW + 10) == "accept"
    assert offered(known, NOW + 10) == ["a"]


def test_a_goodbye_is_remembered_as_long_as_a_replay_could_live(known: Directory) -> None:
    known.judge(signed(seq=1), NOW)
    known.judge(goodbye(seq=2, issued_ms=NOW + 1000), NOW + 1000)
    for now_ms in range(NOW + 1000, NOW + LIFETIME_MS, 10_000):
        known.snapshot(now_ms)
        assert known.judge(signed(seq=1), now_ms) == "ignore"
    known.snapshot(NOW + 1000 + LIFETIME_MS)
    assert len(known) == 0


@pytest.mark.parametrize("skew_ms", [-50_000, 0, 50_000])
def test_a_record_expires_by_our_clock_whatever_the_publisher_thinks(known: Directory, skew_ms: int) -> None:
    known.judge(signed(issued_ms=NOW + skew_ms), NOW)
    ends_ms = NOW + LIFETIME_MS + min(0, skew_ms)
    assert offered(known, ends_ms - 1) == ["a"]
    assert offered(known, ends_ms) == []
    assert known.peers(ends_ms) == ()


def test_a_record_that_comes_late_is_not_taken(known: Directory) -> None:
    assert known.judge(signed(issued_ms=NOW - LIFETIME_MS), NOW) == "ignore"
    assert known.counters["late"] == 1


def test_own_and_foreign_records_are_ignored(known: Directory) -> None:
    assert known.judge(signed("own"), NOW) == "ignore"
    assert known.judge(signed(network="other"), NOW) == "ignore"
    assert (known.counters["own"], known.counters["network"]) == (1, 1)
    assert len(known) == 0


def test_our_own_engines_are_offered_too(known: Directory) -> None:
    known.set_own(signed("own"))
    known.judge(signed("a"), NOW)
    offers = known.snapshot(NOW).by_alias[ModelAlias("nano")]
    assert [(offer.peer_id, offer.is_own) for offer in offers] == [("a", False), ("own", True)]
    assert [peer.peer_id for peer in known.peers(NOW)] == ["a"]
    known.set_own(None)
    assert offered(known) == ["a"]


def test_the_dead_are_not_offered_until_they_show_life(known: Directory) -> None:
    known.judge(signed("a", 1), NOW)
    known.mark_dead(PeerId("a"))
    assert offered(known) == []
    assert known.judge(signed("a", 1), NOW) == "ignore"
    assert offered(known) == []
    known.mark_alive(PeerId("a"), NOW)
    assert offered(known) == ["a"]
    known.mark_dead(PeerId("a"))
    known.judge(signed("a", 2), NOW)
    assert offered(known) == ["a"]


def test_a_suspect_is_offered_as_one(known: Directory) -> None:
    known.judge(signed("a"), NOW)
    known.mark_suspect(PeerId("a"))
    assert known.snapshot(NOW).by_alias[ModelAlias("nano")][0].is_suspect
    assert known.peers(NOW)[0].is_suspect
    known.mark_alive(PeerId("a"), NOW + 7)
    assert not known.snapshot(NOW).by_alias[ModelAlias("nano")][0].is_suspect
    assert known.peers(NOW)[0].heard_ms == NOW + 7


def test_marks_on_strangers_do_nothing(known: Directory) -> None:
    known.mark_alive(PeerId("x"), NOW)
    known.mark_suspect(PeerId("x"))
    known.mark_dead(PeerId("x"))
    assert len(known) == 0
    assert known.newest_first(NOW, 1) == []


def test_one_peer_cannot_flood(known: Directory) -> None:
    verdicts = [known.judge(signed(seq=seq), NOW) for seq in range(1, 100)]
    assert verdicts.count("accept") == RECORD_BURST
    assert known.counters["too_fast"] == 99 - RECORD_BURST
    assert known.judge(signed(seq=100), NOW + RECORD_REFILL_MS) == "accept"
    assert known.judge(goodbye(seq=101), NOW + RECORD_REFILL_MS) == "accept", "leaving is never too fast"
    assert known.judge(goodbye(seq=102), NOW + RECORD_REFILL_MS) == "ignore", "but only once"


def test_a_crowd_evicts_those_that_expire_first_but_no_linked_peer(
    known: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_PEERS", 3)
    known.judge(signed("linked", lifetime_ms=50_000), NOW)
    known.mark_alive(PeerId("linked"), NOW)
    known.judge(signed("long", lifetime_ms=100_000), NOW)
    known.judge(signed("short", lifetime_ms=60_000), NOW)
    assert known.judge(signed("new", lifetime_ms=90_000), NOW) == "accept"
    assert offered(known) == ["linked", "long", "new"]
    assert known.counters["evicted"] == 1
    assert offered(known, NOW + 50_000) == ["long", "new"], "the linked peer still expires"
    for peer in ("long", "new"):
        known.mark_alive(PeerId(peer), NOW)
    known.judge(signed("linked", 2, lifetime_ms=50_000), NOW + 1)
    known.mark_alive(PeerId("linked"), NOW + 1)
    assert known.judge(signed("newer"), NOW + 1) == "ignore"
    assert known.counters["full"] == 1


def test_the_heap_of_expiries_does_not_grow_without_bound(known: Directory) -> None:
    now_ms = NOW
    for seq in range(1, 500):
        now_ms += 40_000
        known.judge(signed(seq=seq, issued_ms=now_ms), now_ms)
        known.snapshot(now_ms)
    assert len(known._expiries) < 12
    assert len(known) == 1


def test_a_snapshot_is_the_same_object_while_nothing_changes(known: Directory) -> None:
    known.judge(signed("a"), NOW)
    assert known.snapshot(NOW) is known.snapshot(NOW + 1)


@pytest.mark.spec("DISC-30")
def test_who_was_heard_of_last_is_told_first(known: Directory) -> None:
    """They were told by id: of many peers always those with the lowest, which anyone can make."""
    for n, peer in enumerate(("a", "c", "b", "e", "d")):
        known.judge(signed(peer, issued_ms=NOW - n), NOW + n)
    known.mark_dead(PeerId("e"))
    known.judge(goodbye("d"), NOW + 9)
    assert [told.peer_id for told in known.newest_first(NOW + 9, 2)] == ["b", "c"]
    assert [told.peer_id for told in known.newest_first(NOW + 9, 9)] == ["b", "c", "a"]
    known.mark_alive(PeerId("a"), NOW + 10)
    assert [told.peer_id for told in known.newest_first(NOW + 10, 1)] == ["a"]
