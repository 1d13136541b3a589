"""The records protocol: a fresh link is asked for what it holds, within limits on both sides."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psutil
import pytest
import trio

from mcd.errors import LocalProtocolError, RemoteProtocolError, StreamBrokenError
from mcd.ids import PeerId
from mcd.mesh.host import Host
from mcd.mesh.record_exchange import ASK_BURST
from mcd.ports import Stream
from mcd.wire.discovery import (
    MAX_RECORDS,
    MAX_RECORDS_BYTES,
    MAX_RECORDS_REPLY_FRAME_BYTES,
    MAX_RECORDS_REQUEST_FRAME_BYTES,
    RECORDS_PROTOCOL,
    RecordsReply,
    RecordsRequest,
    decode_records_reply,
    decode_records_request,
    encode_records,
)
from mcd.wire.framing import FrameReader, frame
from mcd.wire.messages import MAX_RECORD_BYTES
from tests.integration.mesh_peers import Peer, link_to, running, running_host, until

ASK = frame(encode_records(RecordsRequest(MAX_RECORDS)))


@asynccontextmanager
async def stranger(network: str) -> AsyncIterator[tuple[Peer, Host]]:
    ann = Peer("ann", network=network)
    async with running(ann), running_host("stranger") as host:
        await host.connect(ann.peer_id, ann.mesh.addresses())
        await until(link_to(ann, host.peer_id))
        yield ann, host


async def answer(stream: Stream) -> RecordsReply:
    reader = FrameReader(MAX_RECORDS_REPLY_FRAME_BYTES)
    with trio.fail_after(10):
        while (body := reader.next_frame()) is None:
            data = await stream.receive()
            assert data
            reader.feed(data)
    return decode_records_reply(body)


async def is_reset(stream: Stream) -> bool:
    with trio.fail_after(10):
        try:
            await stream.receive()
        except StreamBrokenError:
            return True
    return False


@pytest.mark.spec("DISC-25", "DISC-31")
async def test_who_dials_learns_at_once_of_peers_it_is_not_linked_to() -> None:
    hub, others = Peer("hub", network="r1"), [Peer(f"other {n}", network="r1") for n in range(3)]
    for other in others:
        record = other.signed(addresses=())
        assert hub.judge(record, hub.peer_id) == "accept"
    late = Peer("late", network="r1", bootstrap=())
    async with running(hub, late):
        await late.mesh.connect(hub.peer_id, hub.mesh.addresses())
        assert await until(lambda: {other.peer_id for other in others} <= late.directory.keys()) < 5


@pytest.mark.spec("DISC-31")
async def test_an_answer_has_no_more_records_than_asked_for_and_than_fit() -> None:
    async with stranger("r2") as (ann, host):
        ann.mesh.on_records_wanted(lambda: [bytes(MAX_RECORD_BYTES)] * 200)
        assert len((await answer(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, ASK))).records) == MAX_RECORDS
        few = frame(encode_records(RecordsRequest(3)))
        assert len((await answer(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, few))).records) == 3


@pytest.mark.spec("DISC-33")
async def test_asking_too_often_is_reset() -> None:
    async with stranger("r3") as (ann, host):
        for _ in range(ASK_BURST):
            await answer(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, ASK))
        assert await is_reset(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, ASK))
        assert ann.count("records_asked_too_often") == 1


@pytest.mark.spec("DISC-32")
@pytest.mark.parametrize(
    "question",
    [
        frame(b"\xc1"),
        (MAX_RECORDS_REQUEST_FRAME_BYTES + 1).to_bytes(4, "big"),
        bytes(4),
        frame(encode_records(RecordsReply(()))),
        frame(msgspec.msgpack.encode([40, MAX_RECORDS + 1])),
        ASK + ASK,
    ],
    ids=["no message", "too long", "empty frame", "a reply", "too many", "two questions"],
)
async def test_a_bad_question_is_reset(monkeypatch: pytest.MonkeyPatch, question: bytes) -> None:
    monkeypatch.setattr("mcd.mesh.record_exchange.EXCHANGE_TIMEOUT_S", 60.0)  # at once, and not when time is up
    async with stranger("r4") as (ann, host):
        assert await is_reset(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, question))
        assert ann.count("records_answering_failed") == 1


@pytest.mark.spec("DISC-32", "DISC-23", "DISC-25")
async def test_bad_answers_are_held_against_who_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcd.mesh.record_exchange.EXCHANGE_TIMEOUT_S", 60.0)
    answers = [
        (MAX_RECORDS_REPLY_FRAME_BYTES + 1).to_bytes(4, "big"),
        frame(b"\x92\x29\xc1"),
        frame(msgspec.msgpack.encode([41, [bytes(10)] * (MAX_RECORDS + 1)])),
        frame(msgspec.msgpack.encode([41, [bytes(MAX_RECORD_BYTES + 1)]])),
        frame(encode_records(RecordsReply((b"forged" * 30,)))),
    ]

    async def lie(stream: Stream) -> None:
        await stream.send(answers[len(asked)])
        asked.append(stream.peer_id)
        await stream.close()

    asked: list[PeerId] = []
    ann = Peer("ann", network="r5")
    async with running(ann), running_host("liar") as liar:
        liar.serve(RECORDS_PROTOCOL, lie)
        await ann.mesh.connect(liar.peer_id, liar.addresses())
        for n in range(4):
            await until(lambda n=n: ann.count("records_asking_failed") == n + 1)
            ann.mesh._records.ask_soon(liar.peer_id)
        await until(lambda: ann.count("record_reject") == 1)
        assert ann.drops == {"malformed": 1}
        await until(lambda: ann.count("peer_banned") == 1)
        await until(lambda: liar.peer_id in ann.downs)


@pytest.mark.spec("DISC-34")
async def test_what_gossip_lost_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcd.mesh.record_exchange.ASK_AGAIN_S", 0.5)
    ann, bob, carl = (Peer(name, network="r7") for name in ("ann", "bob", "carl"))
    async with running(ann, bob):
        await ann.mesh.connect(bob.peer_id, bob.mesh.addresses())
        await until(link_to(bob, ann.peer_id))
        await trio.sleep(0.3)
        assert bob.judge(carl.signed(), bob.peer_id) == "accept"
        await until(lambda: carl.peer_id in ann.directory)


async def test_a_peer_without_the_protocol_costs_nothing_but_the_try() -> None:
    ann = Peer("ann", network="r6")
    async with running(ann), running_host("old") as old:
        await ann.mesh.connect(old.peer_id, old.addresses())
        await until(lambda: ann.count("records_asking_failed") == 1)
        assert link_to(ann, old.peer_id)()
        assert ann.count("peer_banned") == 0


@pytest.mark.spec("DISC-32")
def test_messages_keep_their_bounds_in_both_directions() -> None:
    most = RecordsReply((bytes(MAX_RECORD_BYTES),) * MAX_RECORDS)
    assert sum(map(len, most.records)) == MAX_RECORDS_BYTES
    assert decode_records_reply(encode_records(most)) == most
    assert len(encode_records(most)) <= MAX_RECORDS_REPLY_FRAME_BYTES
    assert decode_records_request(encode_records(RecordsRequest(1))) == RecordsRequest(1)
    for bad in (RecordsRequest(0), RecordsRequest(MAX_RECORDS + 1), RecordsReply((b"",))):
        with pytest.raises(LocalProtocolError):
            encode_records(bad)
    with pytest.raises(RemoteProtocolError):
        decode_records_request(encode_records(RecordsReply(())))


async def test_a_thousand_fuzzed_questions_kill_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    monkeypatch.setattr("mcd.mesh.record_exchange.ASK_BURST", 10_000)
    async with stranger("rf") as (ann, host):
        before = psutil.Process().memory_info().rss
        for _ in range(1200):
            data = bytearray(rng.choice([ASK, frame(rng.randbytes(20)), rng.randbytes(70)]))
            data[rng.randrange(len(data))] = rng.randrange(256)
            stream = await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, bytes(data))
            await stream.close()
            with trio.move_on_after(1):
                try:
                    while await stream.receive():
                        pass
                except StreamBrokenError:
                    pass
        assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024
        assert ann.count("records_answering_failed") > 500
        assert (await answer(await host.open_stream(ann.peer_id, RECORDS_PROTOCOL, ASK))).records == ()
