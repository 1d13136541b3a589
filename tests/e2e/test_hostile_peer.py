"""A hostile peer and hostile clients against real daemons: they live, stay small and serve everybody else meanwhile."""

from __future__ import annotations

import functools
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from mcd.errors import McdError
from mcd.ids import PeerId
from mcd.mesh.host import Host
from mcd.wire.codec import encode_exchange, encode_info
from mcd.wire.discovery import RECORDS_PROTOCOL, RecordsRequest, encode_records
from mcd.wire.framing import frame
from mcd.wire.header import Header, encode_header
from mcd.wire.info import ask
from mcd.wire.messages import EXCHANGE_PROTOCOL, INFO_PROTOCOL, Abort, AbortCode, Cancel, QuoteRequest, Request, Voucher
from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves
from tests.e2e.test_mesh_lives import HELLO, seconds_until
from tests.integration.mesh_peers import running_host

N_FRAMES = 1000
AT_ONCE = 48
MAX_GROWTH_BYTES = 64 * 1024 * 1024
SLOW = {"match": "slow", "text": "word ", "repeat": 2000, "tokens_per_s": 50}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer]]:
    script = tmp_path_factory.mktemp("script") / "script.json"
    script.write_text(json.dumps({"alias": "play", "n_slots": 64, "rules": [SLOW, HELLO]}))
    with local_mesh() as mesh:
        yield start(mesh, script)


def start(mesh: LocalMesh, script: Path) -> tuple[Peer, Peer]:
    entry = mesh.start("entry", "--log-level", "debug")
    provider = mesh.start("ada", "--cpu", "--engine", f"scripted:{script}", "--log-level", "debug")
    provider.wait(serves, "serving")
    seconds_until(lambda: bool(entry.read("models")), 20)
    for _ in range(20):
        assert answer(entry) == HELLO["text"]
    return entry, provider


def body(content: str, *, is_stream: bool = False) -> dict[str, object]:
    return {"model": "play", "messages": [{"role": "user", "content": content}], "stream": is_stream}


def answer(entry: Peer) -> str:
    reply = httpx.post(f"{url_of(entry)}/chat/completions", json=body("hi"), timeout=20).json()
    return str(reply["choices"][0]["message"]["content"])


@functools.cache
def url_of(peer: Peer) -> str:
    return peer.url()


def rss(peer: Peer) -> int:
    return int(psutil.Process(peer.pid).memory_info().rss)


def digest_of(peer: Peer) -> bytes:
    return bytes.fromhex(peer.read("status")["engines"][0]["digest"])


def no_worse(*peers: Peer) -> None:
    """No traceback, no text of ours, and still running."""
    for peer in peers:
        assert peer.process.poll() is None, peer.log()[-2000:]
        log = peer.log()
        assert "Traceback" not in log
        assert HELLO["text"] not in log


# --- a hostile peer ------------------------------------------------------------------------------------------


def seeds(digest: bytes) -> dict[str, list[bytes]]:
    """Valid first messages of each protocol, to be spoiled."""
    now_ms = int(time.time() * 1000)
    header = encode_header(
        Header(
            suite=2, request_id=b"r" * 16, provider=b"p" * 32, key_id=b"k" * 8, model_digest=digest,
            quote_hash=b"q" * 32, issued_ms=now_ms, ttl_ms=120_000, flags=0,
        )
    )  # fmt: skip
    request = encode_exchange(Request(header, b"s" * 2000, 10))
    return {
        EXCHANGE_PROTOCOL: [
            frame(request),
            frame(request) + frame(encode_exchange(Cancel())),
            frame(request) + frame(encode_exchange(Voucher(b"v"))) * 3,
            frame(encode_exchange(QuoteRequest(digest, 100, 10))) + frame(request),
            frame(encode_exchange(Abort(1))),
            (9 * 1024 * 1024).to_bytes(4, "big") + request,
        ],
        INFO_PROTOCOL: [frame(encode_info(ask(b"n" * 16)))],
        RECORDS_PROTOCOL: [frame(encode_records(RecordsRequest(64)))],
    }


def spoiled(data: bytes, dice: random.Random) -> bytes:
    """Cut, flipped, repeated, noisy or whole."""
    match dice.randrange(6):
        case 0:
            return data[: dice.randrange(len(data))]
        case 1:
            spot = dice.randrange(len(data))
            return data[:spot] + bytes((data[spot] ^ 1 << dice.randrange(8),)) + data[spot + 1 :]
        case 2:
            return dice.randbytes(dice.randrange(1, 300))
        case 3:
            spot = dice.randrange(4, len(data) + 1)
            return (len(data) - 4).to_bytes(4, "big") + dice.randbytes(len(data) - 4)[:spot]
        case 4:
            return data * 3
        case _:
            return data


async def fuzz(host: Host, victim: PeerId, protocol: str, valid: list[bytes], dice: random.Random) -> None:
    places = trio.CapacityLimiter(AT_ONCE)

    async def one(data: bytes, fate: int) -> None:
        async with places:
            try:
                stream = await host.open_stream(victim, protocol, data)
                with trio.move_on_after(0.2):
                    if fate == 0:
                        await stream.close()
                    while fate and await stream.receive():
                        pass
                await stream.reset()
            except McdError:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(N_FRAMES):
            nursery.start_soon(one, spoiled(dice.choice(valid), dice), dice.randrange(3))


async def leave_open(host: Host, victim: PeerId, valid: dict[str, list[bytes]]) -> None:
    """Slow senders, never-readers and big announcements, all at once, for some seconds."""

    async def hold(first: bytes, trickle: bytes = b"", protocol: str = EXCHANGE_PROTOCOL) -> None:
        try:
            stream = await host.open_stream(victim, protocol, first)
            for place in range(len(trickle)):
                await stream.send(trickle[place : place + 1])
                await trio.sleep(1)
            await trio.sleep_forever()
        except McdError:
            return

    with trio.move_on_after(6):
        async with trio.open_nursery() as nursery:
            request = valid[EXCHANGE_PROTOCOL][0]
            for _ in range(100):
                nursery.start_soon(hold, b"")
                nursery.start_soon(hold, request)
                nursery.start_soon(hold, request[:10], request[10:])
                nursery.start_soon(hold, (9 * 1024 * 1024).to_bytes(4, "big") + bytes(2_000_000))
                nursery.start_soon(hold, b"\0", b"\0" * 50, INFO_PROTOCOL)
                nursery.start_soon(hold, b"\0", b"\0" * 50, RECORDS_PROTOCOL)


async def attack(victim: Peer, run: Callable[[Host, PeerId], Awaitable[None]]) -> None:
    async with running_host("mallory") as host:
        address = victim.address()
        peer_id = PeerId(address.rpartition("/")[2])
        await host.connect(peer_id, [address])
        await run(host, peer_id)


def during(entry: Peer, work: Callable[[], Awaitable[None]]) -> list[float]:
    """Seconds that honest requests took while ``work`` ran."""
    took_s: list[float] = []

    async def both() -> None:
        async with trio.open_nursery() as nursery:

            async def ask_on() -> None:
                while True:
                    began = time.monotonic()
                    assert await trio.to_thread.run_sync(answer, entry) == HELLO["text"]
                    took_s.append(time.monotonic() - began)
                    await trio.sleep(0.2)

            nursery.start_soon(ask_on)
            await work()
            nursery.cancel_scope.cancel()

    trio.run(both)
    return took_s


def test_fuzzed_streams_cost_nothing_and_nobody_else(peers: tuple[Peer, Peer]) -> None:
    entry, provider = peers
    valid, dice, before = seeds(digest_of(provider)), random.Random(7), (rss(entry), rss(provider))

    async def flood(host: Host, victim: PeerId) -> None:
        for protocol, messages in valid.items():
            await fuzz(host, victim, protocol, messages, dice)

    took_s = during(entry, lambda: attack(provider, flood))
    assert len(took_s) >= 3
    assert max(took_s) < 10
    seconds_until(lambda: provider.read("status")["engines"][0]["n_running"] == 0, 10)
    assert rss(provider) - before[1] < MAX_GROWTH_BYTES
    assert rss(entry) - before[0] < MAX_GROWTH_BYTES
    no_worse(entry, provider)


def test_streams_opened_and_left_cost_little(peers: tuple[Peer, Peer]) -> None:
    entry, provider = peers
    valid, before = seeds(digest_of(provider)), rss(provider)

    async def hold(host: Host, victim: PeerId) -> None:
        await leave_open(host, victim, valid)

    took_s = during(entry, lambda: attack(provider, hold))
    assert max(took_s) < 10
    assert rss(provider) - before < MAX_GROWTH_BYTES
    no_worse(entry, provider)


@pytest.mark.spec("EX-50")
def test_an_abort_arrives_before_its_stream_ends(peers: tuple[Peer, Peer]) -> None:
    """A reset right behind it took every single one away."""
    heard: list[bytes] = []

    async def ask(host: Host, victim: PeerId) -> None:
        no_header = encode_exchange(Request(bytes(136), b"x", 1))
        for _ in range(20):
            stream = await host.open_stream(victim, EXCHANGE_PROTOCOL, frame(no_header))
            with trio.fail_after(5):
                heard.append(await stream.receive())
            await stream.reset()

    trio.run(attack, peers[1], ask)
    assert set(heard) == {frame(encode_exchange(Abort(AbortCode.ENVELOPE)))}


# --- hostile clients -----------------------------------------------------------------------------------------


def raw_request(content: str) -> bytes:
    data = json.dumps(body(content, is_stream=True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def connect(peer: Peer) -> socket.socket:
    host, _, port = url_of(peer).removeprefix("http://").removesuffix("/v1").rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    return connection


def n_fds(peer: Peer) -> int:
    return int(psutil.Process(peer.pid).num_fds())


def test_clients_that_leave_or_never_read_leave_nothing_behind(peers: tuple[Peer, Peer]) -> None:
    entry, provider = peers
    before = (n_fds(entry), rss(entry))
    readers = [connect(entry) for _ in range(32)]
    for connection in readers:
        connection.sendall(raw_request("slow"))
    slow = [connect(entry) for _ in range(200)]
    for index, connection in enumerate(slow):
        connection.sendall(raw_request("slow")[: index % 150])
    began = time.monotonic()
    assert answer(entry) == HELLO["text"]
    assert time.monotonic() - began < 10
    whole = raw_request("slow")
    for place in [*range(1, len(whole), 9), *[len(whole)] * 30]:
        leaver = connect(entry)
        leaver.sendall(whole[:place])
        leaver.close()
    for connection in (*readers, *slow):
        connection.close()
    seconds_until(lambda: provider.read("status")["engines"][0]["n_running"] == 0, 10)
    seconds_until(lambda: n_fds(entry) <= before[0] + 2, 10)
    assert rss(entry) - before[1] < MAX_GROWTH_BYTES
    assert "mcd_open_answers 0" in httpx.get(url_of(entry).removesuffix("/v1") + "/metrics", timeout=5).text
    no_worse(entry, provider)


def test_who_serves_himself_outlives_his_own_client(tmp_path: Path) -> None:
    """A client that hung up ended the daemon: the stream to ourselves broke under a send, in a nursery."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"alias": "play", "rules": [{"text": "word ", "repeat": 20_000}]}))
    with local_mesh() as mesh:
        solo = mesh.start("solo", "--cpu", "--engine", f"scripted:{script}")
        solo.wait(serves, "serving")
        seconds_until(lambda: bool(solo.read("models")), 10)
        for pause_s in (0.0, 0.01, 0.02, 0.05) * 3:
            leaver = connect(solo)
            leaver.sendall(raw_request("hi"))
            assert leaver.recv(100)
            time.sleep(pause_s)
            leaver.close()
        seconds_until(lambda: solo.read("status")["engines"][0]["n_running"] == 0, 10)
        no_worse(solo)
        refuses_a_second(solo)
        dies_with_its_engine(solo)


def refuses_a_second(running: Peer) -> None:
    """Another daemon in the same home, or on the same API port, ends with 2; the first is as it was."""
    same_home = Peer(running.home.parent, running.name)
    same_port = Peer(running.home.parent, "second", "--http", url_of(running).split("/")[2])
    assert [same_home.process.wait(30), same_port.process.wait(30)] == [2, 2]
    assert running.read("status")["engines"][0]["state"] == "ready"


def dies_with_its_engine(peer: Peer) -> None:
    """kill -9 of the daemon alone leaves no engine with its keys behind."""
    (engine,) = psutil.Process(peer.pid).children()
    peer.kill()
    seconds_until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 2)
