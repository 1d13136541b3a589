"""What the swarm waits for, in virtual time; no network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.pubsub.pubsub_notifee import PubsubNotifee

from mcd.mesh.limits import AddressGate, Limits
from mcd.mesh.patches import BoundedPeerStore
from mcd.mesh.swarm import NOTIFY_S, MeshSwarm
from mcd.mesh.tcp import TcpTransport

pytestmark = pytest.mark.autojump


class Thing(SimpleNamespace):
    """A link or a stream, as far as it is looked at."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # by identity


class Listener:
    """A service told of links, which takes so long to hear of one."""

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s
        self.n_heard = 0

    async def connected(self, *_: Any) -> None:
        await trio.sleep(self._takes_s)
        self.n_heard += 1

    disconnected = closed_stream = opened_stream = connected


def new_swarm() -> MeshSwarm:
    limits = Limits()
    key_pair = create_new_key_pair(bytes(32))
    own_id = ID.from_pubkey(key_pair.public_key)
    peerstore = BoundedPeerStore()
    peerstore.add_key_pair(own_id, key_pair)
    return MeshSwarm(own_id, peerstore, {}, TcpTransport(AddressGate(limits), {}), limits)


@pytest.mark.parametrize("news", ["connected", "disconnected"])
async def test_nobody_who_is_told_is_waited_for_for_ever(news: str) -> None:
    swarm = new_swarm()
    slow, stuck = Listener(NOTIFY_S / 2), Listener(float("inf"))
    swarm.notifees[:] = [stuck, slow]
    link = Thing(is_closed=False, muxed_conn=Thing(peer_id=swarm.self_id))
    with trio.CancelScope(shield=True):  # as libp2p does where it cannot register a link
        await getattr(swarm, f"notify_{news}")(link)
    assert trio.current_time() == NOTIFY_S
    assert (slow.n_heard, stuck.n_heard) == (1, 0)


@pytest.mark.parametrize("news", ["opened_stream", "closed_stream"])
async def test_nobody_is_told_of_streams_and_nobody_would_listen(news: str) -> None:
    swarm = new_swarm()
    BasicHost(swarm)
    swarm.register_notifee(PubsubNotifee(*trio.open_memory_channel[ID](0)))
    assert len(swarm.notifees) >= 2
    for notifee in swarm.notifees:
        await getattr(notifee, news)(None, None)  # nothing of either is looked at
    swarm.notifees[:] = [Listener(0)]
    await getattr(swarm, f"notify_{news}")(Thing())
    assert swarm.notifees[0].n_heard == 0
