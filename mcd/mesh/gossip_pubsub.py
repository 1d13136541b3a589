"""libp2p's pubsub, reading and judging neighbours' messages our way.   [DISC-14, DISC-15, DISC-17]

What differs from the library, and why:
- messages are judged where they are read, one after the other: the library starts a task for each, so one RPC
  could start thousands, and it checks the signature before any rate;
- a neighbour one of whose streams ended is started over with, whatever the failure: the library gives up on all but
  one class, forgets what a living stream said, and leaves the old stream open;
- a subscription starts no tasks.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from mcd.ids import PeerId
from mcd.wire.signing import has_signed, is_weak

if TYPE_CHECKING:
    from mcd.mesh.intake import Intake

MAX_RPC_BYTES = 65_536
"""Largest gossip RPC read: sixteen of the largest records."""
MAX_MESSAGES_PER_RPC = 64
BROKEN_RPC_STRIKES = 5.0
"""No working implementation sends an RPC that does not parse."""
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 60.0
"""Between attempts to gossip with a connected peer; one that never speaks it costs a stream a minute."""

SIGNING_PREFIX: Final = b"libp2p-pubsub:"
ED25519_ID: Final = bytes.fromhex("002408011220")
"""How the id of an Ed25519 peer begins; its key follows."""
ED25519_ID_BYTES = 38
SEQNO_BYTES = 8


def origin_key(from_id: bytes) -> bytes | None:
    """The Ed25519 key in a peer id; None for any other kind of id: nobody in this network has one."""
    if len(from_id) != ED25519_ID_BYTES or not from_id.startswith(ED25519_ID):
        return None
    key = from_id[len(ED25519_ID) :]
    return None if is_weak(key) else key


def is_signed(message: Any) -> bool:
    """Whether the pubsub message was signed by the peer it names as its origin.   [DISC-17]"""
    key = origin_key(message.from_id)
    if key is None or len(message.seqno) != SEQNO_BYTES:
        return False
    bare = rpc_pb2.Message(from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs)
    return has_signed(key, SIGNING_PREFIX + bare.SerializeToString(), message.signature)


async def _reset(stream: Any) -> None:
    with contextlib.suppress(BaseLibp2pError):
        await stream.reset()


class RecordPubsub(Pubsub):  # type: ignore[misc]  # libp2p is untyped to us
    """Reads neighbours' RPCs and lets through what the intake accepts."""

    def __init__(self, host: Any, router: Any, *, topics: frozenset[str], intake: Intake) -> None:
        super().__init__(
            host,
            router,
            strict_signing=True,
            seen_ttl=120,
            max_subscriptions_per_rpc=2 * len(topics),
            max_subscriptions_per_peer=len(topics),
            max_inbound_rpc_size=MAX_RPC_BYTES,
            allowed_topics=topics,
        )
        self._topics = topics
        self._intake = intake
        self._inbound: dict[Any, Any] = {}
        """The newest stream that each neighbour speaks to us on."""
        self._registering: set[Any] = set()

    async def continuously_read_stream(self, stream: Any) -> None:
        """Read a neighbour's RPCs until its stream ends; one that is too long or does not parse ends it.   [DISC-14]"""
        neighbour = stream.muxed_conn.peer_id
        self._inbound[neighbour] = stream
        try:
            while self.manager.is_running:
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_RPC_BYTES))
                await self._handle(neighbour, rpc)
        except (MessageTooLarge, DecodeError):
            self._intake.counters.add("gossip_rpc_broken")
            self._intake.strike(PeerId(neighbour.to_base58()), BROKEN_RPC_STRIKES)
        except (StreamError, IOException, RawConnError):
            pass  # the stream or its connection ended
        finally:
            await _reset(stream)
            if self._inbound.get(neighbour) is stream:
                del self._inbound[neighbour]
                if self.manager.is_running:
                    self._handle_dead_peer(neighbour)

    async def _handle_new_peer_with_retry(self, peer_id: Any, timeout: float | None = None) -> None:
        """Open our stream to a peer, again and again while it is connected, whatever the failure.

        The library gives up on all but one class of failure, and then never speaks to the peer again.
        """
        del timeout
        if peer_id in self._registering:
            return
        self._registering.add(peer_id)
        pause_s = FIRST_RETRY_S
        try:
            while peer_id not in self.peers and self._peer_is_connected(peer_id):
                with contextlib.suppress(BaseLibp2pError):
                    await self._handle_new_peer(peer_id)
                if peer_id not in self.peers:
                    await trio.sleep(pause_s)
                    pause_s = min(2 * pause_s, MAX_RETRY_S)
        finally:
            self._registering.discard(peer_id)

    def _handle_dead_peer(self, peer_id: Any) -> None:
        """Start over with a neighbour one of whose streams ended, while it is connected.

        The library forgets the neighbour's subscriptions even when only our own stream to it failed; on its living
        one it will not say them again. It also leaves our old stream open.
        """
        topics = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        outbound = self.peers.get(peer_id)
        super()._handle_dead_peer(peer_id)
        if not self.manager.is_running:
            return
        if outbound is not None:
            self.manager.run_task(_reset, outbound)
        if peer_id in self._inbound:
            for topic in topics:
                self.handle_subscription(peer_id, rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic))

    def handle_subscription(self, origin_id: Any, sub_message: Any) -> None:
        """Note what a neighbour listens to.

        The library starts three tasks for each subscription, forty-eight a link, to resend and to graft at once;
        the record exchange and the next heartbeat do that for a tenth of the CPU (4 of 14 s with twenty peers).
        """
        topic = sub_message.topicid
        if not sub_message.subscribe:
            self._forget_subscription(origin_id, topic)
        elif topic in self._topics:
            self.peer_topics.setdefault(topic, set()).add(origin_id)

    async def leave(self) -> None:
        """End every gossip stream: the neighbours open new ones, to the instance that follows this one."""
        for protocol in self.router.get_protocols():
            self.host.remove_stream_handler(protocol)
        for stream in [*self._inbound.values(), *self.peers.values()]:
            await _reset(stream)

    async def _handle(self, neighbour: Any, rpc: Any) -> None:
        if self._intake.is_banned(PeerId(neighbour.to_base58())):
            return
        for message in rpc.publish[:MAX_MESSAGES_PER_RPC]:
            await self.push_msg(neighbour, message)
        if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
            for subscription in rpc.subscriptions:
                self.handle_subscription(neighbour, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, neighbour)

    async def push_msg(self, msg_forwarder: Any, msg: Any) -> None:
        """Relay our own messages and the neighbours' accepted ones.   [DISC-15]"""
        if msg_forwarder != self.my_id and not self._accepts(msg_forwarder, msg):
            return
        self._mark_msg_seen(msg)
        await self.router.publish(msg_forwarder, msg)

    def _accepts(self, neighbour: Any, message: Any) -> bool:
        """Cheapest check first; what was judged is remembered, so that copies of it cost little.   [DISC-15]"""
        peer, intake = PeerId(neighbour.to_base58()), self._intake
        if not intake.admits(peer) or not self._is_news(message):
            return False
        topic, scorer = message.topicIDs[0], self.router.scorer
        if scorer.is_graylisted(neighbour, [topic]) or not intake.may_verify():
            return False
        if not is_signed(message):
            intake.counters.add("gossip_unsigned")
            intake.strike(peer, 1.0)
            scorer.on_invalid_message(neighbour, topic)
            return False
        if not intake.admits_origin(PeerId(ID(message.from_id).to_base58()), topic):
            return False
        self._mark_msg_seen(message)
        verdict = intake.offer(message.data, peer)
        if verdict == "accept":
            scorer.on_first_delivery(neighbour, topic)
        elif verdict == "reject":
            scorer.on_invalid_message(neighbour, topic)
        return verdict == "accept"

    def _is_news(self, message: Any) -> bool:
        """On exactly one of our topics, not seen before, not our own come back."""
        if len(message.topicIDs) != 1 or message.topicIDs[0] not in self._topics:
            self._intake.counters.add("gossip_other_topic")
            return False
        return message.from_id != self.my_id.to_bytes() and not self._is_msg_seen(message)
