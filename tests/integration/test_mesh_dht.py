"""The DHT among real peers: provide and find, our protocol id only, bounds on what strangers may store or hold."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from mcd.errors import StreamBrokenError
from mcd.ids import ModelDigest
from mcd.mesh import dht as dht_module
from mcd.mesh.dht import (
    FIND_TIMEOUT_S,
    KAD_PROTOCOL,
    MAX_KAD_MESSAGE_BYTES,
    MAX_PROVIDER_ADDRESSES,
    MAX_STREAMS_PER_PEER,
    cid_of,
    multihash_of,
)
from mcd.mesh.host import Host
from mcd.ports import Stream
from tests.integration.mesh_peers import Peer, delimited, link_to, running, running_host, until

DIGEST = ModelDigest(bytes(range(32)))


@asynccontextmanager
async def victim(network: str) -> AsyncIterator[tuple[Peer, Host]]:
    """A peer and an attacker linked to it."""
    ann = Peer("ann", network=network)
    async with running(ann), running_host("attacker") as attacker:
        await attacker.connect(ann.peer_id, ann.mesh.addresses())
        await until(link_to(ann, attacker.peer_id))
        yield ann, attacker


async def query(attacker: Host, ann: Peer, message: Message, protocol: str = KAD_PROTOCOL) -> Stream:
    return await attacker.open_stream(ann.peer_id, protocol, delimited(message.SerializeToString()))


async def reply(stream: Stream) -> Message:
    data = await stream.receive()
    at = 1 if data[0] < 0x80 else 2 if data[1] < 0x80 else 3
    size = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(data[:at]))
    while len(data) < at + size:
        data += await stream.receive()
    return Message.FromString(data[at : at + size])


@pytest.mark.spec("DISC-51", "DISC-55")
async def test_what_a_peer_provides_is_found_by_all_others_once_each() -> None:
    peers = [Peer(f"dht {n}", network="d1") for n in range(5)]
    async with running(*peers):
        for peer in peers[1:]:
            await peer.mesh.connect(peers[0].peer_id, peers[0].mesh.addresses())
        for peer in peers[1:4]:
            await peer.mesh.provide(DIGEST)
        expected = {peer.peer_id for peer in peers[1:4]}
        for peer in peers:
            found: list[str] = []
            with trio.fail_after(25):
                while set(found) != expected - {peer.peer_id}:
                    found = list(await peer.mesh.find_providers(DIGEST))
                    await trio.sleep(0.1)
            assert len(found) == len(set(found))
        assert await peers[0].mesh.find_providers(ModelDigest(bytes(32))) == []
        for found_id in expected:
            await peers[4].mesh.connect(found_id, ())  # a hint brings the addresses to verify it at


@pytest.mark.spec("DISC-55")
async def test_a_search_ends_in_time_with_peers_that_do_not_answer() -> None:
    async def silent(stream: Stream) -> None:
        del stream
        await trio.sleep_forever()

    ann = Peer("ann", network="d2")
    async with running(ann), running_host("silent") as mute:
        mute.serve(KAD_PROTOCOL, silent)
        await ann.mesh.connect(mute.peer_id, mute.addresses())
        started_s = trio.current_time()
        assert await ann.mesh.find_providers(DIGEST) == []
        assert trio.current_time() - started_s < FIND_TIMEOUT_S + 1


@pytest.mark.spec("DISC-55")
async def test_only_so_many_are_returned_and_never_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht_module, "MAX_FOUND", 7)  # the library keeps twenty of a key, as many as we return
    ann = Peer("ann", network="d3")
    async with running(ann):
        store = ann.mesh._dht._kad.provider_store
        address = [Multiaddr("/ip4/127.0.0.1/tcp/1")]
        for n in range(30):
            store.add_provider(multihash_of(DIGEST), PeerInfo(ID(b"\x12\x20" + bytes([n]) * 32), address))
        await ann.mesh.provide(DIGEST)
        await trio.sleep(0.2)
        found = await ann.mesh.find_providers(DIGEST)
        assert len(set(found)) == len(found) == 7
        assert ann.peer_id not in found


async def test_a_record_provided_before_the_first_link_goes_out_with_it() -> None:
    ann, bob = Peer("ann", network="d4"), Peer("bob", network="d4")
    async with running(ann, bob):
        await ann.mesh.provide(DIGEST)
        await until(lambda: ann.mesh._dht._untaken == {DIGEST})
        await ann.mesh.connect(bob.peer_id, bob.mesh.addresses())
        await until(lambda: not ann.mesh._dht._untaken, 10)
        assert await bob.mesh.find_providers(DIGEST) == [ann.peer_id]
        ann.mesh.withdraw(DIGEST)
        assert not ann.mesh._dht._due


@pytest.mark.spec("DISC-50")
async def test_the_public_dht_is_not_spoken_and_values_are_refused() -> None:
    async with victim("d5") as (ann, attacker):
        stream = await query(attacker, ann, Message(type=Message.FIND_NODE, key=b"x"), "/ipfs/kad/1.0.0")
        with trio.fail_after(10), pytest.raises(StreamBrokenError):
            await stream.receive()
        put = Message(type=Message.PUT_VALUE, key=b"/modelcloud/x")
        put.record.key, put.record.value = b"/modelcloud/x", b"value"
        stream = await query(attacker, ann, put)
        with trio.fail_after(10), pytest.raises(StreamBrokenError):
            await stream.receive()
        assert ann.mesh._dht._kad.get_value_store_size() == 0


@pytest.mark.spec("DISC-54")
async def test_a_message_over_the_limit_ends_its_stream() -> None:
    async with victim("d6") as (ann, attacker):
        stream = await attacker.open_stream(
            ann.peer_id, KAD_PROTOCOL, delimited(bytes(MAX_KAD_MESSAGE_BYTES + 1))[:1000]
        )
        with trio.fail_after(10), pytest.raises(StreamBrokenError):
            await stream.receive()


@pytest.mark.spec("DISC-54")
async def test_a_peer_has_a_share_of_the_streams_and_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht_module, "STREAM_TIMEOUT_S", 0.5)
    async with victim("d7") as (ann, attacker):
        streams = [await attacker.open_stream(ann.peer_id, KAD_PROTOCOL, b"") for _ in range(MAX_STREAMS_PER_PEER + 3)]
        await until(lambda: ann.count("dht_stream_refused") == 3)
        await until(lambda: ann.count("dht_stream_timeout") == MAX_STREAMS_PER_PEER)
        answer = await reply(await query(attacker, ann, Message(type=Message.GET_PROVIDERS, key=multihash_of(DIGEST))))
        assert answer.type == Message.GET_PROVIDERS
        for stream in streams:
            await stream.reset()


@pytest.mark.spec("DISC-54")
async def test_providers_of_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht_module, "MAX_PROVIDED_KEYS", 10)
    ann = Peer("ann", network="d8")
    async with running(ann):
        store = ann.mesh._dht._kad.provider_store
        address = Multiaddr("/ip4/127.0.0.1/tcp/1")
        for n in range(50):
            store.add_provider(bytes([n]), PeerInfo(ID(b"\x12\x20" + bytes(32)), [address] * 100))
        assert list(store.providers) == [bytes([n]) for n in range(40, 50)]
        assert len(store.get_providers(bytes([49]))[0].addrs) == MAX_PROVIDER_ADDRESSES


def fuzzed_frames(n: int, sender: ID) -> list[bytes]:
    rng = random.Random(11)
    seeds = []
    for kind in range(6):
        message = Message(type=kind, key=multihash_of(DIGEST), senderRecord=rng.randbytes(60))
        message.record.key, message.record.value = b"/pk/x", rng.randbytes(100)
        message.providerPeers.add(id=sender.to_bytes(), addrs=[rng.randbytes(8), b""])
        message.closerPeers.add(id=rng.randbytes(38), addrs=[rng.randbytes(8)], signedRecord=rng.randbytes(50))
        seeds.append(message.SerializeToString())
    frames = []
    for _ in range(n):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        frames.append(delimited(bytes(data)) if rng.random() < 0.9 else rng.randbytes(40))
    return frames


async def test_a_thousand_fuzzed_messages_kill_nobody() -> None:
    async with victim("df") as (ann, attacker):
        before = psutil.Process().memory_info().rss
        for frame in fuzzed_frames(1200, ID.from_base58(attacker.peer_id)):
            stream = await attacker.open_stream(ann.peer_id, KAD_PROTOCOL, frame)
            await stream.close()
            with trio.move_on_after(1):
                try:
                    while await stream.receive():
                        pass
                except StreamBrokenError:
                    pass
            await stream.reset()
        assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024
        bob = Peer("bob", network="df", bootstrap=ann.mesh.addresses())
        async with running(bob):
            await bob.mesh.provide(DIGEST)
            await until(lambda: not bob.mesh._dht._untaken and link_to(bob, ann.peer_id)(), 20)
            await until(lambda: ann.mesh._dht._kad.provider_store.get_providers(multihash_of(DIGEST)), 20)
            assert bob.peer_id in await ann.mesh.find_providers(DIGEST)
        assert ann.count("restarted_dht") == 0


@pytest.mark.spec("DISC-51")
def test_the_key_of_a_model_is_the_multihash_of_its_cid() -> None:
    assert multihash_of(DIGEST) == bytes.fromhex("1220") + DIGEST
    assert cid_of(DIGEST) == "bafkreiaaaebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4"
