"""Shards and topics, signatures of messages, and the part of a control message that is looked at."""

from __future__ import annotations

import hashlib
from typing import Any

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.timed_cache.last_seen_cache import LastSeenCache

from mcd.ids import ModelDigest, PeerId
from mcd.mesh.gossip import N_SHARDS, score_params, shard_of_digest, shard_of_peer, topic_of
from mcd.mesh.gossip_pubsub import ED25519_ID, SIGNING_PREFIX, is_signed
from mcd.mesh.gossip_router import MAX_BACK_OFF_S, MAX_CONTROLS, MAX_IDS_PER_CONTROL, RecordRouter

TOPIC = "/modelcloud/t/records/00"


@pytest.mark.spec("DISC-11")
def test_the_shard_of_a_model_is_the_low_nibble_of_its_first_byte() -> None:
    for first in range(256):
        assert shard_of_digest(ModelDigest(bytes([first]) + bytes(31))) == first % 16


@pytest.mark.spec("DISC-11")
def test_the_shard_of_a_peer_is_that_of_its_hashed_binary_id() -> None:
    binary = ED25519_ID + bytes(range(32))
    peer = PeerId(base58.b58encode(binary).decode())
    assert shard_of_peer(peer) == hashlib.sha256(binary).digest()[0] % 16


@pytest.mark.spec("DISC-11")
def test_topics_are_two_hex_digits_under_the_network() -> None:
    assert [topic_of("main", shard) for shard in (0, 9, 15)] == [
        "/modelcloud/main/records/00",
        "/modelcloud/main/records/09",
        "/modelcloud/main/records/0f",
    ]
    assert N_SHARDS == 16


def signed_message(**changes: Any) -> Any:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    origin = ED25519_ID + key.public_key().public_bytes_raw()
    fields = {"from_id": origin, "data": b"record", "seqno": bytes(8), "topicIDs": [TOPIC], **changes}
    bare = rpc_pb2.Message(**fields)
    bare.signature = key.sign(SIGNING_PREFIX + bare.SerializeToString())
    return bare


@pytest.mark.spec("DISC-10", "DISC-17")
def test_a_message_signed_by_its_origin_passes() -> None:
    assert is_signed(signed_message())


@pytest.mark.spec("DISC-17")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", b"other"),
        ("seqno", bytes(7) + b"\1"),
        ("from_id", ED25519_ID + bytes(range(1, 33))),
        ("signature", bytes(64)),
        ("signature", b""),
        ("signature", b"\xff" * 300),
    ],
)
def test_any_change_to_a_signed_message_is_seen(field: str, value: bytes) -> None:
    message = signed_message()
    setattr(message, field, value)
    assert not is_signed(message)


@pytest.mark.spec("DISC-17")
@pytest.mark.parametrize(
    "origin",
    [b"", b"\0", ED25519_ID, ED25519_ID + bytes(31), ED25519_ID + bytes(32), b"\x12\x20" + bytes(32), b"\xff" * 38],
)
def test_an_origin_that_is_no_ed25519_peer_is_refused(origin: bytes) -> None:
    message = signed_message()
    message.from_id = origin
    assert not is_signed(message)


@pytest.mark.spec("DISC-10")
def test_a_sequence_number_has_eight_bytes() -> None:
    assert not is_signed(signed_message(seqno=b""))
    assert not is_signed(signed_message(seqno=bytes(9)))


def router() -> RecordRouter:
    params, topics = score_params(), frozenset({TOPIC})
    return RecordRouter(["/meshsub/1.2.0"], 6, 4, 12, score_params=params, topics=topics, ip_of=lambda _: "8.8.8.8")


@pytest.mark.spec("DISC-16")
def test_control_entries_of_other_topics_are_left_out() -> None:
    control = rpc_pb2.ControlMessage()
    for topic in (TOPIC, "x", "y" * 1000):
        control.graft.add(topicID=topic)
        control.prune.add(topicID=topic, backoff=60)
        control.ihave.add(topicID=topic, messageIDs=[b"0"])
    kept = router()._bounded(control)
    assert [entry.topicID for entry in [*kept.graft, *kept.prune, *kept.ihave]] == [TOPIC] * 3


@pytest.mark.spec("DISC-16")
def test_control_messages_are_bounded() -> None:
    control = rpc_pb2.ControlMessage()
    ids = [b"%04x" % n for n in range(1000)]
    for _ in range(100):
        control.graft.add(topicID=TOPIC)
        control.prune.add(topicID=TOPIC, backoff=2**63, peers=[rpc_pb2.PeerInfo(peerID=b"x")])
        control.ihave.add(topicID=TOPIC, messageIDs=ids)
        control.iwant.add(messageIDs=[b"0"] * 1000)
        control.idontwant.add(messageIDs=[b"x"] * 1000)
    kept = router()._bounded(control)
    assert len(kept.graft) == len(kept.prune) == len(kept.ihave) == len(kept.idontwant) == MAX_CONTROLS
    assert {entry.backoff for entry in kept.prune} == {MAX_BACK_OFF_S}
    assert not any(entry.peers for entry in kept.prune)
    assert {len(entry.messageIDs) for entry in [*kept.ihave, *kept.idontwant]} == {MAX_IDS_PER_CONTROL}
    assert [list(entry.messageIDs) for entry in kept.iwant] == [[b"0"]]


@pytest.mark.spec("DISC-16")
def test_wanted_ids_are_bounded_over_all_entries() -> None:
    control = rpc_pb2.ControlMessage()
    for n in range(10):
        control.iwant.add(messageIDs=[b"%d %d" % (n, m) for m in range(200)])
    assert sum(len(entry.messageIDs) for entry in router()._bounded(control).iwant) == MAX_IDS_PER_CONTROL


def test_scores_are_not_the_librarys_zeros() -> None:
    params = score_params()
    scorer = router().scorer
    assert params.graylist_threshold > float("-inf")
    for _ in range(7):
        scorer.on_invalid_message("peer", TOPIC)
    assert scorer.is_graylisted("peer", [TOPIC])
    assert not scorer.is_graylisted("other", [TOPIC])


def test_peers_of_one_public_address_lose_score_and_those_of_a_private_one_do_not() -> None:
    ids = [ID(ED25519_ID + bytes([n]) * 32) for n in range(12)]
    public, private = router(), router()
    private.ip_of = lambda _: "127.0.0.1"
    for made in (public, private):
        for one in ids:
            made._track_peer_ip(one)
    assert public.scorer.is_graylisted(ids[0], [TOPIC])
    assert private.scorer.score(ids[0], [TOPIC]) == 0


def test_tables_of_unused_features_stay_empty() -> None:
    made = router()
    for n in range(100):
        made._pending_messages[n].append("message")
        made.recent_message_deliveries[TOPIC].append(0.0)
    assert not made._pending_messages
    assert not made.recent_message_deliveries


class FakePubsub:
    """Knows who listens to what."""

    def __init__(self, listeners: list[Any]) -> None:
        self.peer_topics = {TOPIC: set(listeners)}
        self.peers = dict.fromkeys(listeners)


def with_listeners(n: int) -> tuple[RecordRouter, list[Any], list[tuple[Any, Any]]]:
    """A router, its neighbours, and what it sends them."""
    made, sent = router(), list[tuple[Any, Any]]()
    neighbours = [ID(ED25519_ID + bytes([n + 1]) * 32) for n in range(n)]
    made.pubsub = FakePubsub(neighbours)
    made.mesh[TOPIC] = set()
    made.peer_protocol = dict.fromkeys(neighbours, "/meshsub/1.2.0")

    async def note(control: Any, peer: Any) -> None:
        sent.append((peer, control))

    made.emit_control_message = note  # type: ignore[method-assign]
    return made, neighbours, sent


async def test_each_neighbour_gets_its_own_control_message() -> None:
    made, (ann, bob, carl), sent = with_listeners(3)
    await made._emit_control_msgs({ann: [TOPIC]}, {bob: [TOPIC]}, {carl: {TOPIC: [b"id"]}})
    got = dict(sent)
    assert [len(got[ann].graft), len(got[ann].prune), len(got[ann].ihave)] == [1, 0, 0]
    assert [len(got[bob].graft), len(got[bob].prune), len(got[bob].ihave)] == [0, 1, 0]
    assert [len(got[carl].graft), len(got[carl].prune), len(got[carl].ihave)] == [0, 0, 1]
    assert got[bob].prune[0].backoff == made.prune_back_off
    assert made._check_back_off(bob, TOPIC)


def test_neighbours_in_back_off_are_told_what_we_have() -> None:
    made, neighbours, _ = with_listeners(5)
    made.mesh[TOPIC] = {neighbours[0]}
    made.mcache.put(signed_message())
    for neighbour in neighbours[1:]:
        made._add_back_off(neighbour, TOPIC, False)
    assert set(made.gossip_heartbeat()) == set(neighbours[1:])


def test_members_with_bad_records_leave_the_mesh() -> None:
    made, (ann, bob), _ = with_listeners(2)
    made.mesh[TOPIC] = {ann, bob}
    made.scorer.on_invalid_message(ann, TOPIC)
    grafts, prunes = made.mesh_heartbeat()
    assert made.mesh[TOPIC] == {bob}
    assert dict(prunes) == {ann: [TOPIC]}
    assert not grafts


@pytest.mark.spec("DISC-16")
async def test_what_one_control_message_makes_us_want_is_asked_for_in_one() -> None:
    made, (ann,), sent = with_listeners(1)
    made.pubsub.seen_messages = LastSeenCache(60)
    rpc = rpc_pb2.RPC()
    for n in range(10):
        rpc.control.ihave.add(topicID=TOPIC, messageIDs=[b"\xff%d" % n, b"\xffsame"])
    await made.handle_rpc(rpc, ann)
    assert [peer for peer, _ in sent] == [ann]
    assert len(sent[0][1].iwant) == 1
    assert set(sent[0][1].iwant[0].messageIDs) == {b"\xffsame", *(b"\xff%d" % n for n in range(10))}
