"""Whom we dial and when: bootstrap peers for ever, suggested ones while there is room; virtual time, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from mcd.errors import ConfigError, StreamBrokenError
from mcd.ids import PeerId
from mcd.mesh.bootstrap import (
    MAX_KEPT_LINKS,
    MAX_RETRY_S,
    MAX_SUGGESTED,
    MAX_SUGGESTED_TRIES,
    SUGGESTED_BURST,
    SUGGESTED_DIALS_PER_S,
    YIELD_S,
    Dialer,
    may_be_a_peers,
    peer_of,
)
from mcd.mesh.counters import Counters

OWN = PeerId("m")
BOOT = PeerId("12D3KooWEZk94J7NNts1xCuFxzjPCTDs8vckvnG987v9kxaQX4Vb")
ADDRESS = f"/ip4/1.2.3.4/tcp/1/p2p/{BOOT}"


class World:
    """A network in which the peers of ``alive`` answer."""

    def __init__(self, bootstrap: Sequence[str] = ()) -> None:
        self.alive: set[PeerId] = set()
        self.dials: list[tuple[float, PeerId]] = []
        self.dialer = Dialer(self.connect, own_id=OWN, bootstrap=bootstrap, counters=Counters())

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        assert addresses
        self.dials.append((trio.current_time(), peer))
        await trio.sleep(0.01)
        if peer not in self.alive:
            raise StreamBrokenError("nobody there")
        self.dialer.link_up(peer)

    def times(self, peer: PeerId) -> list[float]:
        return [at for at, dialled in self.dials if dialled == peer]


@asynccontextmanager
async def dialling(world: World) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dialer.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.spec("DISC-70")
@pytest.mark.autojump
async def test_a_bootstrap_peer_is_dialled_for_ever_ever_less_often() -> None:
    world = World((ADDRESS,))
    async with dialling(world):
        await trio.sleep(1000)
        times = world.times(BOOT)
        pauses = [b - a for a, b in pairwise(times)]
        for pause, nominal in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=False):
            assert 0.75 * nominal <= pause <= 1.25 * nominal + 0.02
        assert len(times) >= 15
        world.alive.add(BOOT)
        await trio.sleep(2 * MAX_RETRY_S)
        n_dials = len(world.dials)
        await trio.sleep(1000)
        assert len(world.dials) == n_dials


@pytest.mark.autojump
async def test_a_bootstrap_address_where_nobody_answers_is_told_once_until_somebody_does() -> None:
    """Who mistyped an address saw a peer without links, and a doctor that said to use --bootstrap."""
    world = World((ADDRESS,))
    told: list[str] = []
    world.dialer.on_unreached = told.append
    assert world.dialer.unreached() == []
    async with dialling(world):
        await trio.sleep(100)
        assert told == world.dialer.unreached() == [ADDRESS]
        world.alive.add(BOOT)
        await trio.sleep(2 * MAX_RETRY_S)
        assert world.dialer.unreached() == []
        world.alive.clear()
        world.dialer.link_down(BOOT)
        await trio.sleep(100)
        assert world.dialer.unreached() == [ADDRESS]
        assert told == [ADDRESS, ADDRESS]


@pytest.mark.autojump
async def test_a_suggested_peer_that_does_not_answer_is_nobodys_concern() -> None:
    world = World()
    world.dialer.on_unreached = lambda _: pytest.fail("told")
    async with dialling(world):
        world.dialer.suggest(BOOT, [ADDRESS])
        await trio.sleep(100)
        assert world.dialer.unreached() == []


@pytest.mark.spec("DISC-70", "DISC-71")
@pytest.mark.autojump
async def test_a_lost_bootstrap_peer_is_dialled_at_once_and_then_again() -> None:
    world = World((ADDRESS,))
    world.alive.add(BOOT)
    async with dialling(world):
        await trio.sleep(100)
        world.alive.clear()
        world.dialer.link_down(BOOT)
        await trio.sleep(10)
        redials = [at - 100 for at in world.times(BOOT) if at >= 100]
        assert redials[0] < 1
        assert len(redials) >= 3


@pytest.mark.autojump
async def test_a_suggested_peer_is_dialled_a_few_times_and_dropped() -> None:
    world = World()
    async with dialling(world):
        world.dialer.suggest(PeerId("z"), ["/a"])
        await trio.sleep(1000)
        assert len(world.dials) == MAX_SUGGESTED_TRIES
        world.dialer.suggest(PeerId("z"), ["/a"])
        await trio.sleep(1000)
        assert len(world.dials) == 2 * MAX_SUGGESTED_TRIES


@pytest.mark.spec("DISC-71")
@pytest.mark.autojump
async def test_a_lost_suggested_peer_is_dialled_once_within_a_second() -> None:
    world = World()
    peer = PeerId("z")
    world.alive.add(peer)
    async with dialling(world):
        world.dialer.suggest(peer, ["/a"])
        await trio.sleep(50)
        world.alive.clear()
        world.dialer.link_down(peer)
        await trio.sleep(1000)
        assert len(world.times(peer)) == 2
        assert world.times(peer)[1] - 50 < 1


@pytest.mark.spec("DISC-70", "DISC-71")
@pytest.mark.autojump
async def test_a_peer_that_takes_a_link_and_drops_it_is_not_dialled_twice_a_second_for_ever() -> None:
    """One that is full, or has banned us, was: a handshake each, on either side."""
    world, suggested = World((ADDRESS,)), PeerId("z")
    world.alive.update({BOOT, suggested})
    told: list[str] = []
    world.dialer.on_unreached = told.append

    async def drop(after_s: float) -> None:
        while True:
            await trio.sleep(after_s)
            for peer in list(world.dialer._linked):
                world.dialer.link_down(peer)

    async with dialling(world), trio.open_nursery() as nursery:
        world.dialer.suggest(suggested, ["/a"])
        nursery.start_soon(drop, 0.05)
        await trio.sleep(1000)
        times = world.times(BOOT)
        assert times[1] - times[0] < 1, "once at once"
        assert len(times) < 30
        assert len(world.times(suggested)) == 2
        assert told == [], "somebody answers there"
        nursery.cancel_scope.cancel()
    async with dialling(world), trio.open_nursery() as nursery:
        nursery.start_soon(drop, 15.0)
        await trio.sleep(1000)
        assert len(world.times(BOOT)) - len(times) > 50, "links that last a while are worth a dial"
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_of_two_that_hear_of_each_other_the_greater_id_waits() -> None:
    world = World()
    world.alive.add(PeerId("z"))
    async with dialling(world):
        world.dialer.suggest(PeerId("z"), ["/a"])
        world.dialer.suggest(PeerId("a"), ["/a"])
        await trio.sleep(1)
        assert [peer for _, peer in world.dials] == ["z"]
        world.dialer.link_up(PeerId("a"))
        await trio.sleep(2 * YIELD_S)
        assert world.times(PeerId("a")) == []


@pytest.mark.autojump
async def test_links_are_kept_to_so_many_and_bootstrap_peers_beyond() -> None:
    world = World((ADDRESS,))
    peers = [PeerId(f"z{n}") for n in range(MAX_KEPT_LINKS + 20)]
    world.alive.update(peers)
    async with dialling(world):
        for peer in peers:
            world.dialer.suggest(peer, ["/a"])
        await trio.sleep(5)
        linked = [peer for _, peer in world.dials if peer in world.alive]
        assert len(linked) == MAX_KEPT_LINKS
        world.alive.add(BOOT)
        await trio.sleep(100)
        assert BOOT in world.dialer._linked
        world.dialer.link_down(linked[0])
        world.dialer.link_down(linked[1])
        await trio.sleep(100)
        assert len(world.dialer._linked) >= MAX_KEPT_LINKS


@pytest.mark.spec("DISC-24")
@pytest.mark.autojump
async def test_banned_peers_ourselves_and_the_unaddressed_are_not_dialled() -> None:
    world = World()
    world.dialer.is_banned = lambda peer: peer == "z"
    async with dialling(world):
        world.dialer.suggest(PeerId("z"), ["/a"])
        world.dialer.suggest(OWN, ["/a"])
        world.dialer.suggest(PeerId("y"), [])
        await trio.sleep(1000)
        assert world.dials == []


@pytest.mark.autojump
async def test_suggestions_are_bounded() -> None:
    world = World()
    for n in range(2 * MAX_SUGGESTED):
        world.dialer.suggest(PeerId(f"z{n}"), ["/a"])
    assert len(world.dialer._targets) == MAX_SUGGESTED


def test_the_peer_of_a_bootstrap_address() -> None:
    assert peer_of(ADDRESS) == BOOT
    for text in ("/ip4/1.2.3.4/tcp/1", f"/p2p/{BOOT}", "/ip4/1.2.3.4/tcp/1/p2p/", ADDRESS[:-1], ADDRESS + "x"):
        with pytest.raises(ConfigError):
            peer_of(text)


@pytest.mark.spec("DISC-74")
@pytest.mark.autojump
async def test_records_of_strangers_cannot_make_us_dial_without_end() -> None:
    """Anyone may sign records with a victim's address under ever new ids; every peer of the network reads them."""
    world, n_looks = World((ADDRESS,)), 0

    def look(_: PeerId) -> bool:
        nonlocal n_looks
        n_looks += 1
        return False

    world.dialer.is_banned = look
    async with dialling(world):
        world.alive.add(BOOT)
        await trio.sleep(1)
        for second in range(60):
            for index in range(100):
                world.dialer.suggest(PeerId(f"z{second}-{index}"), ("/ip4/192.0.2.1/tcp/22",))
            if second == 30:
                world.dialer.link_down(BOOT)
            await trio.sleep(1)
        strange = [at for at, dialled in world.dials if dialled != BOOT]
        assert SUGGESTED_BURST <= len(strange) <= SUGGESTED_BURST + 61 * SUGGESTED_DIALS_PER_S
        assert strange[-1] > 50, "the rest are dialled later, not never"
        assert len([at for at in world.times(BOOT) if 31 <= at <= 33]) == 1, "our own choice does not wait for them"
        assert n_looks < 60 * 20 * MAX_SUGGESTED, "each look at those who wait costs time; a few a second will do"


@pytest.mark.spec("DISC-76")
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/8.8.8.8/tcp/1", True),
        ("/ip4/192.168.1.7/tcp/1", True),
        ("/ip6/2001:db8::1/tcp/1", True),
        ("/dns4/example.org/tcp/1", True),
        ("/ip4/127.0.0.1/tcp/6379", False),
        ("/ip4/127.9.9.9/tcp/6379", False),
        ("/ip4/0.0.0.0/tcp/22", False),
        ("/ip4/169.254.169.254/tcp/80", False),
        ("/ip4/224.0.0.1/tcp/1", False),
        ("/ip6/::1/tcp/22", False),
        ("/ip6/::/tcp/22", False),
        ("/ip6/::ffff:127.0.0.1/tcp/22", False),
        ("/ip6/fe80::1/tcp/22", False),
        ("/ip6/nonsense/tcp/22", False),
    ],
)
def test_a_strangers_record_leads_to_no_service_of_our_own_machine(address: str, expected: bool) -> None:
    assert may_be_a_peers(address) is expected
