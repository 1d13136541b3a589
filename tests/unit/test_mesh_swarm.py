"""What the swarm waits for, in virtual time; no network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

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


@pytest.mark.parametrize("news", ["connected", "disconnected", "closed_stream", "opened_stream"])
async def test_nobody_who_is_told_is_waited_for_for_ever(news: str) -> None:
    limits = Limits()
    own_id = ID.from_pubkey(create_new_key_pair(bytes(32)).public_key)
    swarm = MeshSwarm(own_id, BoundedPeerStore(), {}, TcpTransport(AddressGate(limits), {}), limits)
    slow, stuck = Listener(NOTIFY_S / 2), Listener(float("inf"))
    swarm.notifees[:] = [stuck, slow]
    link = Thing(is_closed=False, muxed_conn=Thing(peer_id=own_id), _resource_released=True)
    with trio.CancelScope(shield=True):  # as libp2p does where it cannot register a link
        await getattr(swarm, f"notify_{news}")(link)
    assert trio.current_time() == NOTIFY_S
    assert (slow.n_heard, stuck.n_heard) == (1, 0)
