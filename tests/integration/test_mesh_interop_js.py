"""A js-libp2p node and our mesh talk: links both ways, identify, ping, gossip, DHT and streams over either's muxer.

js-libp2p shares no code with us or with py-libp2p, so what passes here is libp2p's wire. The node runs on the Node
that npm's package `node` brings (js-libp2p needs 22 or newer); `npm ci` installs it once into .cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from mcd.ids import ModelDigest, PeerId
from mcd.mesh.dht import KAD_PROTOCOL, cid_of
from mcd.mesh.gossip import topic_of
from mcd.ports import Stream
from tests.integration.mesh_peers import Peer, link_to, own_topic, running, until, until_told

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "interop" / "js"
CACHE = ROOT / ".cache" / "interop-js"
INSTALL_TIMEOUT_S = 120
ECHO = "/modelcloud/test/echo/1.0.0"
DIGEST = ModelDigest(hashlib.sha256(b"a model").digest())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: test workers share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def node_dir() -> Path:
    """The folder with the node program and its packages, installed when package-lock.json changed."""
    lock = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()[:16]
    target = CACHE / lock
    with locked(CACHE / "lock"):
        if not (target / "installed").exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, target)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, cwd=target, check=True, timeout=INSTALL_TIMEOUT_S, capture_output=True)
            (target / "installed").touch()
        shutil.copy(SOURCE / "node.mjs", target)
    return target


class JsNode:
    """The js-libp2p node as a child process, spoken to in lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._n_calls = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.peer_id = PeerId("")
        self.addresses: list[str] = []

    async def read(self) -> None:
        """Sort what the node says into replies and events, until it ends."""
        assert self._process.stdout is not None
        buffer = b""
        async for data in self._process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "event" in said:
                    self.events.append(said)
                else:
                    self._replies[said["id"]] = said

    async def call(self, command: str, *, timeout_s: float = 20, **args: Any) -> Any:
        """Have the node do something.

        Raises:
            AssertionError: It could not.
        """
        self._n_calls += 1
        number = self._n_calls
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"id": number, "command": command, **args}).encode() + b"\n")
        await until(lambda: number in self._replies, timeout_s)
        reply = self._replies.pop(number)
        assert "error" not in reply, f"{command}: {reply['error']}"
        return reply["result"]


@asynccontextmanager
async def js_node(folder: Path) -> AsyncIterator[JsNode]:
    process = await trio.lowlevel.open_process(
        [str(folder / "node_modules" / ".bin" / "node"), "node.mjs"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    node = JsNode(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.read)
            await until(lambda: node.events, 30)
            hello = node.events.pop(0)
            node.peer_id, node.addresses = PeerId(hello["peer"]), hello["addresses"]
            yield node
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def echo_handler(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)
    await stream.close()


async def echoes(peer: Peer, other: PeerId, size: int) -> bool:
    sent = b"modelcloud" * (size // 10)
    stream = await peer.mesh.open_stream(other, ECHO, b"")
    received = bytearray()

    async def read() -> None:
        while data := await stream.receive():
            received.extend(data)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await stream.send(sent)
            await stream.close()
    return bytes(received) == sent


@asynccontextmanager
async def linked(folder: Path, *, js_dials: bool) -> AsyncIterator[tuple[Peer, JsNode]]:
    ann = Peer("ann", network="js")
    ann.mesh.serve(ECHO, echo_handler)
    async with running(ann), js_node(folder) as node:
        if js_dials:
            assert await node.call("dial", address=ann.mesh.addresses()[0]) == ann.peer_id
        else:
            await ann.mesh.connect(node.peer_id, node.addresses)
        await until(link_to(ann, node.peer_id))
        yield ann, node


both_ways = pytest.mark.parametrize("js_dials", [True, False], ids=["js dials", "js is dialled"])


@both_ways
async def test_links_identify_ping_and_streams(node_dir: Path, js_dials: bool) -> None:
    async with linked(node_dir, js_dials=js_dials) as (ann, node):
        connection = await node.call("connection", peer=ann.peer_id)
        assert connection == {
            "encryption": "/noise",
            "multiplexer": "/yamux/1.0.0",
            "direction": "outbound" if js_dials else "inbound",
        }
        await until_identified(node, ann)
        assert await node.call("ping", peer=ann.peer_id) >= 0
        assert await node.call("echo", peer=ann.peer_id, size=300_000)
        assert await node.call("echoes", peer=ann.peer_id, size=20_000, count=40) == 40
        assert await echoes(ann, node.peer_id, 300_000)
        results: list[bool] = []

        async def one() -> None:
            results.append(await echoes(ann, node.peer_id, 20_000))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert results == [True] * 20
        await until(lambda: ann.mesh.links()[0].rtt_s is not None)


async def until_identified(node: JsNode, ann: Peer) -> None:
    async def knows_us() -> bool:
        known = await node.call("identify", peer=ann.peer_id)
        return {ECHO, KAD_PROTOCOL, "/meshsub/1.2.0"} <= set(known["protocols"])

    await until_told(knows_us)


@both_ways
async def test_gossip_both_ways(node_dir: Path, js_dials: bool) -> None:
    async with linked(node_dir, js_dials=js_dials) as (ann, node):
        bob = Peer("bob", network="js")
        topic = own_topic(bob)
        await node.call("subscribe", topic=topic)
        await node.call("subscribe", topic=own_topic(ann))
        for shared in (topic, own_topic(ann)):
            await until_told(partial(in_mesh, node, ann, shared))
        await until(lambda: node.peer_id in meshed_ids(ann, topic), 20)
        signed = bob.signed()
        assert await node.call("publish", topic=topic, data=signed.hex()) == [ann.peer_id]
        await until(lambda: bob.peer_id in ann.directory)
        announced = await ann.announce()
        await until(lambda: node.events)
        assert node.events[0] == {
            "event": "message", "topic": own_topic(ann), "from": ann.peer_id, "data": announced.hex()
        }  # fmt: skip
        assert ann.count("gossip_unsigned") == 0
        assert ann.count("gossip_rpc_broken") == 0


async def in_mesh(node: JsNode, ann: Peer, topic: str) -> bool:
    return ann.peer_id in await node.call("mesh", topic=topic)


def meshed_ids(ann: Peer, topic: str) -> list[str]:
    pubsub = ann.mesh._gossip.pubsub
    return [] if pubsub is None else [peer.to_base58() for peer in pubsub.router.mesh[topic]]


@both_ways
async def test_provide_and_find_both_ways(node_dir: Path, js_dials: bool) -> None:
    async with linked(node_dir, js_dials=js_dials) as (ann, node):
        await until_identified(node, ann)
        other = ModelDigest(hashlib.sha256(b"another model").digest())

        async def js_finds_us() -> bool:
            return bool(await node.call("find", cid=cid_of(DIGEST)) == [ann.peer_id])

        async def we_find_js() -> bool:
            return list(await ann.mesh.find_providers(other)) == [node.peer_id]

        await ann.mesh.provide(DIGEST)
        await until_told(js_finds_us)
        await node.call("provide", cid=cid_of(other))
        await until_told(we_find_js)


def test_the_lock_names_no_registry() -> None:
    text = (SOURCE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert json.loads(text)["lockfileVersion"] == 3


def test_topics_of_the_tests_are_ours() -> None:
    assert own_topic(Peer("ann", network="js")) in {topic_of("js", shard) for shard in range(16)}
