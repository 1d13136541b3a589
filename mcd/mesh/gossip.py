"""Gossip of signed records: GossipSub with every parameter set by us, over sixteen sharded topics.   [DISC-10]"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import base58
import trio
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service import TrioManager

from mcd.ids import ModelDigest, PeerId
from mcd.mesh.gossip_pubsub import RecordPubsub
from mcd.mesh.gossip_router import RecordRouter
from mcd.mesh.intake import Intake
from mcd.units import Seconds

N_SHARDS = 16
"""Sixteen topics let a peer of a large network carry a part of it: 10,000 peers on one topic do not fit a core."""
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
HEARTBEAT_S = 1
"""The library's default is 120 s."""
FIRST_HEARTBEAT_S = 0.1
RESET_TIMEOUT_S: Seconds = 0.3
READY_TIMEOUT_S: Seconds = 5.0
"""A publish waits this long for the service to come up again after a restart."""


def score_params() -> ScoreParams:
    """Scores with teeth (security-lab T3): the library's defaults are all zero and ban nobody.   [DISC-17]"""
    return ScoreParams(
        p2_first_message_deliveries=TopicScoreParams(weight=1.0, cap=50.0, decay=0.98),
        p4_invalid_messages=TopicScoreParams(weight=50.0, cap=1000.0, decay=0.99),
        p5_behavior_penalty_weight=10.0,
        p5_behavior_penalty_decay=0.99,
        p5_behavior_penalty_threshold=6.0,
        p7_ip_colocation_weight=20.0,
        p7_ip_colocation_threshold=4,
        gossip_threshold=-50.0,
        publish_threshold=-100.0,
        graylist_threshold=-300.0,
        accept_px_threshold=20.0,
    )


def shard_of_digest(digest: ModelDigest) -> int:
    """The shard of a model: the low four bits of its digest's first byte.   [DISC-11]"""
    return digest[0] & 0x0F


def shard_of_peer(peer_id: PeerId) -> int:
    """The shard of a peer that serves nothing: the same of the SHA-256 of its id.   [DISC-11]"""
    return hashlib.sha256(base58.b58decode(peer_id)).digest()[0] & 0x0F


def topic_of(network: str, shard: int) -> str:
    """The gossip topic of a shard.   [DISC-11]"""
    return f"/modelcloud/{network}/records/{shard:02x}"


class Gossip:
    """Publishes our record and relays others'. Owner: the mesh, which runs it under a supervisor."""

    def __init__(self, host: Any, *, network: str, intake: Intake, ip_of: Callable[[PeerId], str]) -> None:
        """Keep what a run needs.

        Args:
            host: The libp2p host, running.
            network: Our network's name, part of every topic.
            intake: Judges what comes in.
            ip_of: The IP address of a linked peer, empty when unknown.
        """
        self._host = host
        self._network = network
        self._intake = intake
        self._ip_of = ip_of
        self._topics = [topic_of(network, shard) for shard in range(N_SHARDS)]
        self._unheard: dict[str, bytes] = {}
        """Our record, by topics on which no neighbour listened when it was sent."""
        self._ready = trio.Event()
        self.pubsub: RecordPubsub | None = None
        """The running instance; None between restarts."""

    async def run(self) -> None:
        """Serve until cancelled. A fresh instance each time: the library's cannot be run twice."""
        router = RecordRouter(
            [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            gossip_window=3,
            gossip_history=5,
            heartbeat_initial_delay=FIRST_HEARTBEAT_S,
            heartbeat_interval=HEARTBEAT_S,
            do_px=False,
            score_params=score_params(),
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,  # it caps at ten messages a second and topic, silently; ours counts
            eclipse_protection_enabled=False,
            max_idontwant_messages=256,
            topics=frozenset(self._topics),
            ip_of=self._ip_of,
        )
        network = self._host.get_network()
        n_before = len(network.notifees)
        pubsub = RecordPubsub(self._host, router, topics=router.topics, intake=self._intake)
        registered = network.notifees[n_before:]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(TrioManager.run_service, pubsub)
                nursery.start_soon(TrioManager.run_service, router)
                await pubsub.wait_until_ready()
                for topic in self._topics:
                    await pubsub.subscribe(topic)
                for peer in self._host.get_connected_peers():
                    nursery.start_soon(pubsub.ensure_peer_stream, peer)
                nursery.start_soon(self._repeat_unheard, pubsub)
                self.pubsub = pubsub
                self._ready.set()
        finally:
            self.pubsub = None
            self._ready = trio.Event()
            with trio.CancelScope(shield=True), trio.move_on_after(RESET_TIMEOUT_S):
                await pubsub.leave()
            network.notifees[:] = [notifee for notifee in network.notifees if notifee not in registered]

    async def publish(self, record: bytes, digests: Sequence[ModelDigest]) -> None:
        """Send our signed record on the shards of its models, on our own shard when it has none.   [DISC-12]

        On a shard where nobody listens yet it goes out when somebody does, unless a newer one came between.
        """
        shards = {shard_of_digest(digest) for digest in digests} or {
            shard_of_peer(PeerId(self._host.get_id().to_base58()))
        }
        self._unheard = {topic_of(self._network, shard): record for shard in sorted(shards)}
        with trio.move_on_after(READY_TIMEOUT_S):
            await self._ready.wait()
        if self.pubsub is None:
            self._intake.counters.add("gossip_not_ready")
            return
        for topic in list(self._unheard):
            await self._send(self.pubsub, topic)

    async def _send(self, pubsub: RecordPubsub, topic: str) -> None:
        has_listener = _has_listener(pubsub, topic)
        await pubsub.publish(topic, self._unheard[topic])
        if has_listener:
            self._unheard.pop(topic, None)

    async def _repeat_unheard(self, pubsub: RecordPubsub) -> None:
        """Publish again what nobody heard, as soon as somebody may: a joining peer announces before it is linked."""
        while True:
            await trio.sleep(HEARTBEAT_S)
            for topic in [topic for topic in self._unheard if _has_listener(pubsub, topic)]:
                await self._send(pubsub, topic)


def _has_listener(pubsub: RecordPubsub, topic: str) -> bool:
    """Whether a neighbour gets what we publish: one that grafted us before our stream to it was open does not."""
    return any(peer in pubsub.peers for peer in pubsub.router.mesh.get(topic, ()))
