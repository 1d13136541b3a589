"""Gossip among real peers, and what strangers may try: forged, stale, oversized, unsigned and far too many records."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import psutil
import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from mcd.errors import StreamBrokenError
from mcd.ids import ModelDigest
from mcd.mesh.gossip import shard_of_peer, topic_of
from mcd.mesh.gossip_pubsub import MAX_RPC_BYTES
from mcd.mesh.host import Host
from mcd.ports import Stream
from mcd.wire.messages import MAX_RECORD_BYTES
from mcd.wire.records import sign_record
from mcd.wire.signing import SigningKey
from tests.integration.mesh_peers import (
    Peer,
    SystemClock,
    delimited,
    link_to,
    message,
    own_topic,
    rpc,
    running,
    running_host,
    seed_of,
    until,
)

MESHSUB = "/meshsub/1.1.0"


@asynccontextmanager
async def pair(network: str) -> AsyncIterator[tuple[Peer, Peer, Host]]:
    """Two linked peers and an attacker linked to the first."""
    ann, bob = Peer("ann", network=network), Peer("bob", network=network)
    async with running(ann, bob), running_host("attacker") as attacker:
        await ann.mesh.connect(bob.peer_id, bob.mesh.addresses())
        await attacker.connect(ann.peer_id, ann.mesh.addresses())
        await until(lambda: meshed(ann, bob) and meshed(bob, ann))
        yield ann, bob, attacker


def meshed(peer: Peer, other: Peer) -> bool:
    """Whether ``peer`` passes gossip of its every topic on to ``other``."""
    pubsub = peer.mesh._gossip.pubsub
    return pubsub is not None and all(
        any(member.to_base58() == other.peer_id for member in members) for members in pubsub.router.mesh.values()
    )


async def forward(attacker: Host, victim: Peer, *frames: bytes) -> Stream:
    return await attacker.open_stream(victim.peer_id, MESHSUB, b"".join(frames))


@pytest.mark.spec("DISC-10", "DISC-12", "DISC-15")
async def test_a_record_crosses_peers_that_are_not_linked() -> None:
    chain = [Peer(f"chain {n}", network="g1") for n in range(4)]
    async with running(*chain):
        for left, right in pairwise(chain):
            await left.mesh.connect(right.peer_id, right.mesh.addresses())
        await until(lambda: all(meshed(a, b) and meshed(b, a) for a, b in pairwise(chain)))
        await chain[0].announce()
        await until(lambda: chain[0].peer_id in chain[3].directory)
        assert chain[0].peer_id not in [link.peer_id for link in chain[3].mesh.links()]


@pytest.mark.spec("DISC-12")
async def test_a_record_goes_once_on_each_distinct_shard_of_its_models() -> None:
    async with pair("g2") as (ann, bob, _):
        pubsub = ann.mesh._gossip.pubsub
        sent: list[str] = []
        publish = pubsub.publish

        async def note(topic: str, data: bytes) -> None:
            sent.append(topic)
            await publish(topic, data)

        pubsub.publish = note
        digests = [ModelDigest(bytes([first]) + bytes(31)) for first in (0x01, 0x0A, 0xFA)]
        await ann.announce(digests)
        await ann.announce()
        assert sent == [topic_of("g2", 1), topic_of("g2", 10), topic_of("g2", shard_of_peer(ann.peer_id))]
        await until(lambda: ann.peer_id in bob.directory)


@pytest.mark.spec("DISC-15", "DISC-25")
async def test_bad_records_are_dropped_counted_and_not_relayed() -> None:
    async with pair("g3") as (ann, bob, attacker):
        carl = Peer("carl", network="g3")
        mallory = SigningKey(seed_of("mallory"))
        now_ms = SystemClock().unix_ms()
        good = carl.signed(seq=5)
        forged = bytearray(carl.signed(seq=6))
        forged[40] ^= 1
        expired = carl.signed(seq=7, issued_ms=now_ms - 90_000, expires_ms=now_ms - 1)
        older = carl.signed(seq=4)
        foreign = sign_record(carl.record(network="other", seq=9), carl.key)
        oversized = bytes(MAX_RECORD_BYTES + 1)
        records = [good, bytes(forged), expired, older, foreign, oversized]
        topic = own_topic(carl)
        frames = [rpc(message(mallory, topic, record, n)) for n, record in enumerate(records[:3])]
        frames += [rpc(message(carl.key, topic, record, n)) for n, record in enumerate(records[3:])]
        await forward(attacker, ann, *frames)
        await until(lambda: ann.count("record_oversized"))
        await until(lambda: carl.peer_id in bob.directory)
        assert ann.drops == {"signature": 1, "expired": 1, "old": 1, "network": 1}
        assert (ann.count("record_accept"), ann.count("record_ignore"), ann.count("record_reject")) == (1, 2, 3)
        assert ann.directory[carl.peer_id].record.seq == bob.directory[carl.peer_id].record.seq == 5
        assert not bob.drops
        assert bob.count("record_accept") == 1


@pytest.mark.spec("DISC-15", "DISC-17")
async def test_unsigned_and_stray_messages_are_dropped_before_the_record_is_looked_at() -> None:
    async with pair("g4") as (ann, _, attacker):
        carl = Peer("carl", network="g4")
        topic = own_topic(carl)
        two_topics = message(carl.key, topic, b"", 5)
        two_topics.topicIDs.append(topic)
        await forward(
            attacker,
            ann,
            rpc(message(carl.key, topic, carl.signed(), 1, signature=b"")),
            rpc(message(carl.key, topic, carl.signed(), 2, signature=bytes(64))),
            rpc(message(carl.key, "/modelcloud/other/records/00", carl.signed(), 3)),
            rpc(two_topics),
        )
        await until(lambda: ann.count("gossip_other_topic") == 2)
        assert ann.count("gossip_unsigned") == 2
        assert not ann.drops
        assert not ann.directory


@pytest.mark.spec("DISC-15")
async def test_a_message_is_judged_once_however_often_it_comes() -> None:
    async with pair("g5") as (ann, _, attacker):
        carl = Peer("carl", network="g5")
        same = rpc(message(carl.key, own_topic(carl), carl.signed(), 1))
        await forward(attacker, ann, *[same] * 50, rpc(message(carl.key, own_topic(carl), carl.signed(), 2)))
        await until(lambda: ann.count("record_accept") == 2)
        assert not ann.drops


@pytest.mark.spec("DISC-22")
async def test_an_origin_over_its_rate_is_dropped_without_blaming_who_brought_it() -> None:
    async with pair("g6") as (ann, _, attacker):
        carl = Peer("carl", network="g6")
        frames = [rpc(message(carl.key, own_topic(carl), carl.signed(), n)) for n in range(30)]
        await forward(attacker, ann, *frames)
        await until(lambda: ann.count("gossip_origin_rate") >= 24)
        assert ann.count("record_accept") <= 6
        assert ann.count("peer_banned") == 0


@pytest.mark.spec("DISC-14", "DISC-23")
@pytest.mark.parametrize(
    "frame",
    [
        delimited(b"\xff" * 20),
        b"\xff\xff\xff\xff\x0f",
        delimited(bytes(MAX_RPC_BYTES + 1))[:10],
        delimited(b"\x12\xff\x01ab"),
    ],
    ids=["not protobuf", "4 GiB announced", "over the limit", "cut inside"],
)
async def test_a_broken_rpc_ends_its_stream_and_is_held_against_the_neighbour(frame: bytes) -> None:
    async with pair("g7") as (ann, bob, attacker):
        stream = await forward(attacker, ann, frame)
        with trio.fail_after(10), pytest.raises(StreamBrokenError):
            await stream.receive()
        await until(lambda: ann.count("gossip_rpc_broken") == 1)
        for _ in range(4):
            await forward(attacker, ann, frame)
        await until(lambda: ann.count("peer_banned") == 1)
        await bob.announce()
        await until(lambda: bob.peer_id in ann.directory)


@pytest.mark.spec("DISC-20", "DISC-21", "DISC-23", "DISC-24")
async def test_a_spammer_is_banned_within_ten_seconds_and_stays_so_when_it_comes_back() -> None:
    async with pair("g8") as (ann, bob, attacker):
        carl = Peer("carl", network="g8")
        body = carl.signed()
        flood = [message(carl.key, own_topic(carl), body + bytes([n % 256]), n) for n in range(3000)]
        started_s, cpu_s = trio.current_time(), time.process_time()
        stream = await forward(attacker, ann)
        try:
            for n in range(0, len(flood), 50):
                await stream.send(rpc(*flood[n : n + 50]))
                await trio.sleep(0.05)
        except StreamBrokenError:
            pass
        await until(lambda: attacker.peer_id in ann.downs)
        assert trio.current_time() - started_s < 10
        assert time.process_time() - cpu_s < 5
        assert ann.count("peer_banned") == 1
        await bob.announce()
        await until(lambda: bob.peer_id in ann.directory)
        await attacker.connect(ann.peer_id, ann.mesh.addresses())
        await until(lambda: ann.count("link_refused_banned") >= 1)
        await until(lambda: not link_to(ann, attacker.peer_id)())
        assert link_to(ann, bob.peer_id)()


@pytest.mark.spec("DISC-40", "DISC-20")
async def test_gossip_that_fails_is_started_again_and_works() -> None:
    async with pair("g9") as (ann, bob, attacker):
        pubsub = ann.mesh._gossip.pubsub

        async def fails() -> None:
            raise KeyError

        ann.mesh._intake.gate.ban(attacker.peer_id, trio.current_time())
        pubsub.manager.run_task(fails)
        await until(lambda: ann.count("restarted_gossip") == 1)
        await until(lambda: ann.mesh._gossip.pubsub not in (None, pubsub))
        await until(lambda: meshed(ann, bob) and meshed(bob, ann), 30)
        await ann.announce()
        await bob.announce()
        await until(lambda: ann.peer_id in bob.directory and bob.peer_id in ann.directory)
        assert ann.mesh._intake.is_banned(attacker.peer_id)
        assert '"service":"gossip"' in ann.events.getvalue()


async def test_rpcs_carry_no_peer_record() -> None:
    hello: list[Any] = []

    async def receive(stream: Stream) -> None:
        data = b""
        while len(data) < 100:
            data += await stream.receive()
        size, at = data[0] & 0x7F, 1
        if data[0] & 0x80:
            size, at = size | data[1] << 7, 2
        hello.append(rpc_pb2.RPC.FromString(data[at : at + size]))

    ann = Peer("ann", network="ga")
    async with running(ann), running_host("attacker") as attacker:
        attacker.serve("/meshsub/1.2.0", receive)
        await attacker.connect(ann.peer_id, ann.mesh.addresses())
        await until(lambda: hello)
    assert [entry.topicid for entry in hello[0].subscriptions] == [topic_of("ga", n) for n in range(16)]
    assert not hello[0].senderRecord


def fuzzed_frames(n: int) -> list[bytes]:
    """RPCs of every kind, then cut, flipped and spliced; the same each time."""
    rng = random.Random(7)
    key = SigningKey(seed_of("fuzz"))
    control = rpc_pb2.ControlMessage()
    for topic in ("/modelcloud/gf/records/00", "", "\u20ac" * 50):
        control.graft.add(topicID=topic)
        control.prune.add(topicID=topic, backoff=rng.getrandbits(63), peers=[rpc_pb2.PeerInfo(peerID=b"\xff")])
        control.ihave.add(topicID=topic, messageIDs=[rng.randbytes(20), b"", b"0"])
        control.iwant.add(messageIDs=[rng.randbytes(40), b"f" * 33])
        control.idontwant.add(messageIDs=[rng.randbytes(8)])
    seeds = [
        rpc_pb2.RPC(publish=[message(key, "/modelcloud/gf/records/00", rng.randbytes(300), 1)]).SerializeToString(),
        rpc_pb2.RPC(control=control).SerializeToString(),
        rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=bool(n % 2), topicid=f"t{n}") for n in range(200)],
            senderRecord=rng.randbytes(100),
        ).SerializeToString(),
    ]
    frames = []
    for _ in range(n):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        frames.append(delimited(bytes(data)) if rng.random() < 0.9 else rng.randbytes(50))
    return frames


async def test_a_thousand_fuzzed_rpcs_kill_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair("gf") as (ann, bob, attacker):
        monkeypatch.setattr(ann.mesh._intake.gate, "is_banned", lambda *_: False)
        monkeypatch.setattr(ann.mesh._intake.gate, "strike", lambda *_: False)
        before = psutil.Process().memory_info().rss
        for frame in fuzzed_frames(1200):
            stream = await forward(attacker, ann, frame)
            await stream.close()
            await trio.sleep(0.001)
        await until(lambda: ann.count("gossip_rpc_broken") >= 300)
        assert ann.count("streams_refused") == 0
        assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024
        assert link_to(ann, bob.peer_id)()
        await until(lambda: ann.mesh._gossip.pubsub is not None)
        await bob.announce()
        await until(lambda: bob.peer_id in ann.directory)
        assert ann.count("restarted_gossip") == 0


@pytest.mark.spec("DISC-18")
async def test_what_a_newer_record_replaced_is_not_kept_for_where_only_the_old_one_belonged() -> None:
    ann = Peer("ann", network="gc")
    async with running(ann):
        await ann.mesh.publish(ann.signed(), [ModelDigest(bytes([n]) * 32) for n in range(16)])
        assert len(ann.mesh._gossip._unheard) == 16
        newer = ann.signed()
        await ann.mesh.publish(newer, [ModelDigest(bytes(32))])
        assert list(ann.mesh._gossip._unheard.values()) == [newer]


@pytest.mark.spec("DISC-18")
async def test_what_was_published_before_anyone_listened_is_published_again() -> None:
    ann, bob = Peer("ann", network="gb"), Peer("bob", network="gb")
    bob.mesh._records.ask_soon = lambda peer: None  # type: ignore[method-assign]  # gossip alone
    async with running(ann, bob):
        await ann.announce()
        newer = await ann.announce()
        await bob.mesh.connect(ann.peer_id, ann.mesh.addresses())
        await until(lambda: ann.peer_id in bob.directory)
        assert bob.directory[ann.peer_id].raw == newer
        assert not bob.drops
