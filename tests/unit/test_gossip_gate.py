"""Rates, strikes and bans: what a neighbour may bring before it is refused."""

from __future__ import annotations

import pytest

from mcd.ids import PeerId
from mcd.mesh import gossip_gate as gate_module
from mcd.mesh.gossip_gate import (
    BAN_PEER_S,
    BAN_SUBNET_S,
    DROPS_PER_STRIKE,
    MAX_TRACKED,
    NEIGHBOUR_BURST,
    NEIGHBOUR_MESSAGES_PER_S,
    STRIKE_FADES_S,
    STRIKES_TO_BAN,
    VERIFIES_PER_S,
    Bucket,
    Gate,
    subnet_of,
)
from mcd.wire.discovery import ORIGIN_BURST, ORIGIN_INTERVAL_S

ANN, BOB = PeerId("ann"), PeerId("bob")


def test_a_bucket_refills_at_its_rate_and_holds_no_more_than_its_burst() -> None:
    bucket = Bucket(2.0, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(11.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_is_not_filled_by_a_clock_that_goes_back() -> None:
    bucket = Bucket(1.0, 1)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert not bucket.take(5.5)


@pytest.mark.spec("DISC-21")
def test_a_neighbour_has_its_rate_and_another_has_its_own() -> None:
    gate = Gate()
    reasons = [gate.admit_neighbour(ANN, 0.0) for _ in range(NEIGHBOUR_BURST + 5)]
    assert reasons == [None] * NEIGHBOUR_BURST + ["neighbour_rate"] * 5
    assert gate.admit_neighbour(BOB, 0.0) is None
    later = [gate.admit_neighbour(ANN, 1.0) for _ in range(NEIGHBOUR_MESSAGES_PER_S + 1)]
    assert later == [None] * NEIGHBOUR_MESSAGES_PER_S + ["neighbour_rate"]


@pytest.mark.spec("DISC-21")
def test_all_neighbours_share_one_budget_of_signature_checks() -> None:
    gate = Gate()
    assert sum(gate.may_verify(0.0) for _ in range(2 * VERIFIES_PER_S)) == VERIFIES_PER_S
    assert gate.may_verify(1.0)


@pytest.mark.spec("DISC-21", "DISC-22")
def test_who_was_silent_for_long_saved_up_no_more_than_a_burst() -> None:
    gate, long_s = Gate(), 1e6
    for now in (0.0, long_s):
        assert sum(gate.admit_neighbour(ANN, now) is None for _ in range(2 * NEIGHBOUR_BURST)) == NEIGHBOUR_BURST
        assert sum(gate.may_verify(now) for _ in range(2 * VERIFIES_PER_S)) == VERIFIES_PER_S
        assert sum(gate.admit_origin(ANN, "00", now) is None for _ in range(2 * ORIGIN_BURST)) == ORIGIN_BURST


@pytest.mark.spec("DISC-22")
def test_an_origin_has_its_rate_on_each_shard() -> None:
    gate = Gate()
    assert sum(gate.admit_origin(ANN, "00", 0.0) is None for _ in range(20)) == ORIGIN_BURST
    assert gate.admit_origin(ANN, "00", 0.0) == "origin_rate"
    assert gate.admit_origin(ANN, "01", 0.0) is None
    assert gate.admit_origin(ANN, "00", ORIGIN_INTERVAL_S) is None


@pytest.mark.spec("DISC-23")
def test_enough_strikes_ban_and_only_once() -> None:
    gate = Gate()
    bans = [gate.strike(ANN, 1.0, 0.0) for _ in range(STRIKES_TO_BAN + 3)]
    assert bans == [False] * (STRIKES_TO_BAN - 1) + [True] + [False] * 3
    assert gate.is_banned(ANN, 0.0)
    assert not gate.is_banned(BOB, 0.0)


@pytest.mark.spec("DISC-23")
def test_strikes_fade() -> None:
    gate = Gate()
    for n in range(3 * STRIKES_TO_BAN):
        assert not gate.strike(ANN, 1.0, n * STRIKE_FADES_S)


@pytest.mark.spec("DISC-23")
def test_a_flood_is_banned_and_a_burst_is_not() -> None:
    gate = Gate()
    for _ in range(DROPS_PER_STRIKE * STRIKES_TO_BAN - 1):
        assert not gate.count_drop(ANN, 0.0)
    assert gate.count_drop(ANN, 0.0)


@pytest.mark.spec("DISC-24")
def test_a_ban_lasts_a_day() -> None:
    gate = Gate()
    gate.ban(ANN, 0.0)
    assert gate.admit_neighbour(ANN, BAN_PEER_S - 1) == "banned"
    assert gate.admit_origin(ANN, "00", BAN_PEER_S - 1) == "banned"
    assert gate.admit_neighbour(ANN, BAN_PEER_S) is None


@pytest.mark.spec("DISC-24")
def test_three_banned_peers_of_a_public_subnet_close_it_for_an_hour() -> None:
    gate = Gate()
    gate.ban(PeerId("1"), 0.0, "8.8.8.1")
    gate.ban(PeerId("2"), 0.0, "8.8.8.2")
    assert not gate.is_banned(BOB, 0.0, "8.8.8.9")
    gate.ban(PeerId("3"), 0.0, "8.8.8.3")
    assert gate.is_banned(BOB, 0.0, "8.8.8.9")
    assert not gate.is_banned(BOB, 0.0, "8.8.9.9")
    assert not gate.is_banned(BOB, BAN_SUBNET_S, "8.8.8.9")
    gate.ban(PeerId("4"), BAN_SUBNET_S, "8.8.8.4")
    assert not gate.is_banned(BOB, BAN_SUBNET_S, "8.8.8.9"), "it takes three again"


@pytest.mark.spec("DISC-24")
@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.1.7", "::1", "fe80::1", "", "nonsense"])
def test_private_addresses_are_never_banned_together(address: str) -> None:
    gate = Gate()
    for n in range(5):
        gate.ban(PeerId(str(n)), 0.0, address)
    assert not gate.is_banned(BOB, 0.0, address)


@pytest.mark.spec("DISC-24")
def test_a_peer_whose_ban_is_over_counts_no_more_against_its_subnet() -> None:
    gate = Gate()
    for n in range(5):
        gate.ban(PeerId(str(n)), n * BAN_PEER_S, f"8.8.8.{n}")
        assert not gate.is_banned(BOB, n * BAN_PEER_S, "8.8.8.9")


@pytest.mark.spec("DISC-24")
def test_subnets() -> None:
    assert subnet_of("8.8.8.8") == "8.8.8.0/24"
    assert subnet_of("2001:4860:4860:1::8888") == "2001:4860:4860::/48"


def test_the_longest_unused_is_forgotten_first() -> None:
    """Or a flood of new ids would clear the account of the neighbour that brings it."""
    kept: gate_module.Recent[str, int] = gate_module.Recent(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.touch("a", lambda: 0) == 1
    kept.put("c", 3)
    assert list(kept) == ["a", "c"]


def test_memory_is_bounded_whoever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_TRACKED", 50)
    assert MAX_TRACKED > 50
    gate = Gate()
    for n in range(500):
        peer = PeerId(str(n))
        gate.admit_neighbour(peer, 0.0)
        gate.admit_origin(peer, "00", 0.0)
        gate.strike(peer, 1.0, 0.0)
        gate.ban(peer, 0.0, f"8.{n // 250}.{n % 250}.1")
    sizes = [len(getattr(gate, name)) for name in vars(gate) if name != "_verifies"]
    assert max(sizes) <= 50
    assert gate.is_banned(PeerId("499"), 0.0)
