"""The address gate: who gets in, who makes room, what is given back; and what counts as one address."""

from __future__ import annotations

import pytest

from mcd.mesh.bootstrap import MAX_KEPT_LINKS
from mcd.mesh.limits import AddressGate, Admission, Limits, network_of
from mcd.rate import Rate


def gate(**limits: int) -> AddressGate:
    return AddressGate(Limits(**limits))  # type: ignore[arg-type]


class Door:
    """Counts arrivals and evictions at a gate."""

    def __init__(self, **limits: int) -> None:
        self.gate = gate(**limits)
        self.evicted: list[int] = []
        self.n_arrived = 0

    def arrive(self, address: str) -> Admission | None:
        number, self.n_arrived = self.n_arrived, self.n_arrived + 1
        return self.gate.admit(address, lambda: self.evicted.append(number))


def test_the_oldest_half_open_of_an_address_makes_room_for_its_newest() -> None:
    door = Door(max_half_open_per_address=2)
    for _ in range(4):
        assert door.arrive("10.0.0.1") is not None
    assert door.evicted == [0, 1]
    assert door.gate.n_half_open == 2
    assert door.gate.n_evicted == 2


def test_one_address_does_not_push_out_another() -> None:
    door = Door(max_half_open_per_address=2)
    door.arrive("10.0.0.9")
    for _ in range(10):
        door.arrive("10.0.0.1")
    assert 0 not in door.evicted


def test_when_all_places_are_taken_the_address_that_holds_most_pays() -> None:
    door = Door(max_half_open=4)
    door.arrive("10.0.0.9")
    for _ in range(3):
        door.arrive("10.0.0.1")
    door.arrive("10.0.0.2")
    assert door.evicted == [1]
    assert door.gate.n_half_open == 4


def test_inbound_links_leave_room_for_those_we_dial() -> None:
    assert Limits().max_links - Limits().max_inbound_links >= MAX_KEPT_LINKS


@pytest.mark.spec("DISC-75")
def test_many_addresses_together_do_not_take_the_places_of_our_own_links() -> None:
    door = Door(max_inbound_links=3)
    waiting = door.arrive("10.0.0.9")
    assert waiting is not None
    held = [door.arrive(f"10.0.0.{n}") for n in range(3)]
    for admission in held:
        assert admission is not None
        assert admission.establish()
    assert door.arrive("10.0.1.1") is None
    assert not waiting.establish(), "its handshake began while there was room"
    assert held[0] is not None
    held[0].release()
    held[0].release()
    again = door.arrive("10.0.1.1")
    assert again is not None
    assert again.establish()
    assert door.arrive("10.0.1.2") is None


def test_established_links_are_capped_and_given_back() -> None:
    door = Door(max_per_address=2)
    first, second, third = (door.arrive("10.0.0.1") for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.establish()
    assert second.establish()
    assert not third.establish(), "its handshake was in vain"
    assert door.arrive("10.0.0.1") is None, "and no new one is begun"
    assert door.arrive("10.0.0.2") is not None
    assert door.gate.n_refused == 2
    first.release()
    first.release()
    again = door.arrive("10.0.0.1")
    assert again is not None
    assert again.establish()


def test_an_evicted_connection_cannot_establish_itself_any_more() -> None:
    door = Door(max_half_open_per_address=1)
    first = door.arrive("10.0.0.1")
    door.arrive("10.0.0.1")
    assert first is not None
    assert not first.establish()
    first.release()
    assert door.gate.n_half_open == 1


def test_nothing_is_remembered_of_those_who_left() -> None:
    door = Door()
    for index in range(1000):
        admission = door.arrive(f"10.0.{index // 250}.{index % 250}")
        assert admission is not None
        if index % 2:
            admission.establish()
        admission.release()
    assert door.gate.n_half_open == 0
    assert not door.gate._half_open
    assert not door.gate._established


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", "127.0.0.1"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_handshakes_come_in_a_burst_and_then_at_a_rate() -> None:
    rate = Rate(per_s=10, burst=5)
    assert [rate.take("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert rate.take("b", 0.0), "addresses have buckets of their own"
    assert not rate.take("a", 0.05)
    assert rate.take("a", 0.11)
    assert sum(rate.take("a", 10.0) for _ in range(20)) == 5, "a bucket holds no more than a burst"


def test_buckets_that_are_full_again_are_forgotten() -> None:
    rate = Rate(per_s=10, burst=5)
    for index in range(10_000):
        rate.take(f"address {index}", index / 1000)
    assert len(rate._buckets) <= 102, "one token comes back in 0.1 s, and a thousand addresses come a second"
