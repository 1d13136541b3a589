"""What is changed inside libp2p 0.8.1 from outside, each with its reason. A test fails when one is needed no more.

Most of what needed a patch is replaced by composition instead (yamux, tcp, swarm, guard). What is left touches
module globals and is idempotent. `mcd.mesh.dht` sets the private Kademlia id itself.
"""

from __future__ import annotations

import logging
from typing import Any

from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub import gossipsub, pubsub

MAX_PEER_ADDRESSES = 16
"""Of one peer in the peerstore; libp2p takes a thousand from one identify message."""
MAX_PEER_PROTOCOLS = 128


def apply() -> None:
    """Apply every patch. Idempotent."""
    drop_signed_records()
    silence()


def drop_signed_records() -> None:
    """Neither attach nor verify a signed peer record in every pubsub message.

    Reason: libp2p 0.8.1 does both for each RPC, control messages too: 18 of 22 ms of CPU per gossiped message.
    The field is optional; js-libp2p neither sends nor reads it.
    """
    for module in (pubsub, gossipsub):
        module.maybe_consume_signed_record = _consume_nothing
        module.env_to_send_in_RPC = _nothing_to_send


def silence() -> None:
    """Keep libp2p from writing to stderr, where its lines could carry what a peer sent.

    Reason: it logs peers' bytes at error level, and calls ``logging.warning`` on the root logger, which installs
    a stderr handler when there is none. What operators need is in our own log and counters.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    for name in ("libp2p", "multiaddr", "noise"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class BoundedPeerStore(PeerStore):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """A peerstore whose entries have a size; the number of entries is bounded by libp2p already."""

    def add_addrs(self, peer_id: Any, addrs: Any, ttl: int = 0) -> None:
        """Remember at most MAX_PEER_ADDRESSES of a peer, the first known first."""
        known = self.peer_data_map[peer_id].get_addrs() if peer_id in self.peer_data_map else []
        new = [address for address in addrs if address not in known]
        super().add_addrs(peer_id, new[: MAX_PEER_ADDRESSES - len(known)], ttl)

    def add_protocols(self, peer_id: Any, protocols: Any) -> None:
        """Remember at most MAX_PEER_PROTOCOLS of a peer."""
        self.set_protocols(peer_id, [*self.get_protocols(peer_id), *protocols])

    def set_protocols(self, peer_id: Any, protocols: Any) -> None:
        """As above."""
        super().set_protocols(peer_id, list(dict.fromkeys(protocols))[:MAX_PEER_PROTOCOLS])

    def get_protocols(self, peer_id: Any) -> list[str]:
        """What a peer speaks; nothing when it is unknown."""
        known: list[str] = self.peer_data_map[peer_id].get_protocols() if peer_id in self.peer_data_map else []
        return known


def _consume_nothing(*_: object, **__: object) -> bool:
    return True


def _nothing_to_send(*_: object, **__: object) -> tuple[bytes, bool]:
    return b"", True
