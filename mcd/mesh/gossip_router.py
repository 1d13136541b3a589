"""GossipSub with the parts a stranger can abuse, or that do not work, replaced.   [DISC-16]

What differs from the library, and why:
- of a control message only our topics and a bounded number of ids are looked at: the library keeps a back-off for
  every topic a peer names, for ever, and answers one IWANT with as many copies as it repeats an id;
- a peer gets its own GRAFTs, PRUNEs and IHAVEs only, in one message a heartbeat, and the mesh is left alone
  while it is large enough: the library mixes up the peers' messages and swaps members every second;
- neighbours in back-off are told what we have, as the specification says: the library tells them nothing;
- addresses of private networks do not count as colocated: a home or a test bench is one address;
- what the library puts away for features we do not use is thrown away, or it would grow for ever;
- IDONTWANT is understood but not sent, for it costs about as much as the small records it would save.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

from mcd.ids import PeerId
from mcd.mesh.gossip_gate import subnet_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_IDS_PER_CONTROL = 256
"""Message ids looked at in one control message; an honest window of three heartbeats holds about 100."""
MAX_CONTROLS = 16
"""Entries of one kind looked at in one control message: one for each shard."""
MAX_BACK_OFF_S = 3600


class _Forgetful(dict[Any, list[Any]]):
    """A table of lists that keeps none of them."""

    def __missing__(self, key: Any) -> list[Any]:
        return []


class RecordRouter(GossipSub):  # type: ignore[misc]  # libp2p is untyped to us
    """GossipSub that looks at a bounded part of each control message."""

    def __init__(self, *args: Any, topics: frozenset[str], ip_of: Callable[[PeerId], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.topics = topics
        self.ip_of = ip_of
        self._wanted: dict[Any, list[bytes]] = {}
        # Two tables of the library that only grow when the features that would empty them are off.
        self._pending_messages = _Forgetful()
        self.recent_message_deliveries = _Forgetful()

    async def handle_rpc(self, rpc: Any, sender_peer_id: Any) -> None:
        """Act on the part of a control message that concerns us.   [DISC-16]"""
        bounded = rpc_pb2.RPC()
        bounded.control.CopyFrom(self._bounded(rpc.control))
        await super().handle_rpc(bounded, sender_peer_id)
        wanted = dict.fromkeys(self._wanted.pop(sender_peer_id, ()))
        if wanted:
            await super().emit_iwant(list(wanted)[:MAX_IDS_PER_CONTROL], sender_peer_id)

    async def emit_iwant(self, msg_ids: Sequence[bytes], to_peer: Any) -> None:
        """Gather what one control message makes us want: one IWANT a shard would look like a flood to the neighbour."""
        self._wanted.setdefault(to_peer, []).extend(msg_ids)

    def mesh_heartbeat(self) -> tuple[Any, Any]:
        """Maintain the mesh, and put out whoever has lost more credit than it earned."""
        grafts, prunes = super().mesh_heartbeat()
        for topic, members in self.mesh.items():
            for peer in [peer for peer in members if self.scorer.score(peer, [topic]) < 0]:
                members.discard(peer)
                prunes[peer].append(topic)
        return grafts, prunes

    def gossip_heartbeat(self) -> dict[Any, dict[str, list[bytes]]]:
        """Tell some neighbours outside the mesh of each topic what we have, those in back-off too.

        The library leaves those out; a hub that pruned most of its neighbours then hears of nothing for a minute.
        """
        gossip: dict[Any, dict[str, list[bytes]]] = {}
        for topic, members in self.mesh.items():
            ids = self.mcache.window(topic)[-MAX_IDS_PER_CONTROL:]
            if not ids:
                continue
            listeners = self.pubsub.peer_topics.get(topic, set()) - members
            able = [p for p in listeners if p in self.pubsub.peers and self.scorer.allow_gossip(p, [topic])]
            n_told = min(len(able), max(self.degree, len(able) // 4))
            for peer in random.sample(able, n_told):
                gossip.setdefault(peer, {})[topic] = ids
        return gossip

    async def _emit_control_msgs(self, grafts: Any, prunes: Any, gossip: Any) -> None:
        """Send each peer its own GRAFTs, PRUNEs and IHAVEs in one message, and keep to the back-off we ask for.

        The library sends each peer those of all peers before it in the list as well, so that members of the mesh
        are pruned at random, and grafts again at once whom it has just pruned.
        """
        for peer in {*grafts, *prunes, *gossip}:
            control = rpc_pb2.ControlMessage()
            for topic in grafts.get(peer, ()):
                control.graft.add(topicID=topic)
            for topic in prunes.get(peer, ()):
                control.prune.add(topicID=topic, backoff=self.prune_back_off)
                self._add_back_off(peer, topic, is_unsubscribe=False)
            for topic, ids in gossip.get(peer, {}).items():
                control.ihave.add(topicID=topic, messageIDs=ids)
            await self.emit_control_message(control, peer)

    async def _maintain_mesh_quality(self, topic: str) -> None:
        """Leave the mesh as it is: swapping members each second for 0.1 of score puts them all into back-off."""

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: Any) -> int:
        """Graft nobody beyond the degree: what it adds this second is pruned the next."""
        return 0

    def _bounded(self, control: Any) -> Any:
        kept = rpc_pb2.ControlMessage()
        for ihave in control.ihave[:MAX_CONTROLS]:
            if ihave.topicID in self.topics:
                kept.ihave.add(topicID=ihave.topicID, messageIDs=ihave.messageIDs[:MAX_IDS_PER_CONTROL])
        wanted = dict.fromkeys(
            id_ for iwant in control.iwant[:MAX_CONTROLS] for id_ in iwant.messageIDs[:MAX_IDS_PER_CONTROL]
        )
        if wanted:
            kept.iwant.add(messageIDs=list(wanted)[:MAX_IDS_PER_CONTROL])
        for graft in control.graft[:MAX_CONTROLS]:
            if graft.topicID in self.topics:
                kept.graft.add(topicID=graft.topicID)
        for prune in control.prune[:MAX_CONTROLS]:
            if prune.topicID in self.topics:
                kept.prune.add(topicID=prune.topicID, backoff=min(prune.backoff, MAX_BACK_OFF_S))
        for unwanted in control.idontwant[:MAX_CONTROLS]:
            kept.idontwant.add(messageIDs=unwanted.messageIDs[:MAX_IDS_PER_CONTROL])
        return kept

    async def _emit_idontwant_for_message(self, msg_id: bytes, topic_ids: Any) -> None:
        """Send none: a record is about as small as the message that would keep it away."""

    def _track_peer_ip(self, peer_id: Any) -> None:
        """Count peers of one public address; the library looks before the address is there."""
        ip = self.ip_of(PeerId(peer_id.to_base58()))
        if subnet_of(ip) is not None:
            self.scorer.add_peer_ip(peer_id, ip)
