"""Real peers on loopback for the mesh tests: each has a key, a mesh and the simplest directory that obeys the specs.

Run as a program it is one such peer in a process of its own: it prints its address and lives until killed.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.pubsub.pb import rpc_pb2

from mcd.errors import RecordError
from mcd.ids import ModelDigest, PeerId
from mcd.log import Log
from mcd.mesh.gossip import shard_of_peer, topic_of
from mcd.mesh.gossip_pubsub import ED25519_ID, SIGNING_PREFIX
from mcd.mesh.host import Host
from mcd.mesh.network import Libp2pMesh
from mcd.ports import Link, Verdict
from mcd.wire.messages import MAX_RECORD_LIFETIME_MS, Record
from mcd.wire.records import SignedRecord, is_newer, open_record, sign_record
from mcd.wire.signing import SigningKey

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


class SystemClock:
    """The real one."""

    def now(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> Any:
        return int(time.time() * 1000)


def seed_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Peer:
    """A mesh with a directory. Drops are counted by reason in ``drops``."""

    def __init__(
        self,
        name: str,
        *,
        network: str,
        bootstrap: Sequence[str] = (),
        listen: Sequence[str] = LOOPBACK,
        seeks_links: bool = False,
    ) -> None:
        self.name = name
        self.seeks_links = seeks_links
        self.network = network
        self.key = SigningKey(seed_of(name))
        self.events = io.StringIO()
        self.mesh = Libp2pMesh(
            self.key.seed,
            listen=listen,
            network=network,
            bootstrap=bootstrap,
            use_lan=False,
            log=Log("debug", self.events),
            clock=SystemClock(),
        )
        self.directory: dict[PeerId, SignedRecord] = {}
        self.drops: Counter[str] = Counter()
        self.ups: list[PeerId] = []
        self.downs: list[PeerId] = []
        self.seq = 0
        self.mesh.on_record(self.judge)
        self.mesh.on_records_wanted(self.newest)
        self.mesh.on_link(self._up, self.downs.append)

    @property
    def peer_id(self) -> PeerId:
        return self.mesh.peer_id

    def _up(self, link: Link) -> None:
        self.ups.append(link.peer_id)

    def count(self, name: str) -> int:
        return self.mesh.counters().get(name, 0)

    def judge(self, data: bytes, neighbour: PeerId) -> Verdict:
        try:
            signed = open_record(data, now_ms=SystemClock().unix_ms(), network=self.network)
        except RecordError as error:
            self.drops[error.why] += 1
            return "ignore" if error.why == "expired" else "reject"
        known = self.directory.get(signed.peer_id)
        if known is not None and known.raw == data:
            return "ignore"
        if not is_newer(signed.record, known.record if known else None):
            self.drops["old"] += 1
            return "ignore"
        self.directory[signed.peer_id] = signed
        if self.seeks_links:
            self.mesh.suggest(signed.peer_id, signed.record.addresses)
        return "accept"

    def newest(self) -> Sequence[bytes]:
        return [signed.raw for signed in sorted(self.directory.values(), key=lambda one: -one.record.issued_ms)]

    def record(self, **changes: Any) -> Record:
        self.seq += 1
        now_ms = SystemClock().unix_ms()
        fields: dict[str, Any] = {
            "version": 1, "network": self.network, "seq": self.seq, "issued_ms": now_ms,
            "expires_ms": now_ms + MAX_RECORD_LIFETIME_MS, "name": self.name, "agent": "test",
            "addresses": tuple(self.mesh.addresses()), "models": (), **changes,
        }  # fmt: skip
        return Record(**fields)

    def signed(self, **changes: Any) -> bytes:
        return sign_record(self.record(**changes), self.key)

    async def announce(self, digests: Sequence[ModelDigest] = (), **changes: Any) -> bytes:
        data = self.signed(**changes)
        self.directory[self.peer_id] = open_record(data, now_ms=SystemClock().unix_ms(), network=self.network)
        await self.mesh.publish(data, digests)
        return data


@asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    """Run the peers' meshes; at the end cancel them, as the daemon does."""
    async with trio.open_nursery() as nursery:
        for peer in peers:
            await nursery.start(peer.mesh.run)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_host(name: str) -> AsyncIterator[Host]:
    """A bare host, for an attacker: links and streams, no services."""
    host = Host(seed_of(name), LOOPBACK, log=Log("debug", io.StringIO()), clock=SystemClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        try:
            yield host
        finally:
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> float:
    """Wait until ``condition`` holds; how long it took.

    Raises:
        trio.TooSlowError: It does not hold in time.
    """
    started_s = trio.current_time()
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 # what is waited for lies in another process or inside libp2p
            await trio.sleep(0.02)
    return trio.current_time() - started_s


async def until_told(ask: Callable[[], Awaitable[object]], timeout_s: float = 20.0) -> None:
    """Wait until the answer to a question put again and again is a yes.

    Raises:
        trio.TooSlowError: It is not, in time.
    """
    with trio.fail_after(timeout_s):
        while not await ask():  # noqa: ASYNC110 # the answer comes from another process
            await trio.sleep(0.1)


def link_to(peer: Peer, other: PeerId) -> Callable[[], bool]:
    return lambda: any(link.peer_id == other for link in peer.mesh.links())


# --- gossip by hand, as an attacker or another implementation would write it -------------------------------------


def message(key: SigningKey, topic: str, data: bytes, seqno: int, **changes: Any) -> Any:
    """A pubsub message signed by ``key``; ``changes`` are made after signing."""
    bare = rpc_pb2.Message(
        from_id=ED25519_ID + key.public_key, data=data, seqno=seqno.to_bytes(8, "big"), topicIDs=[topic]
    )
    signature = _raw_sign(key, SIGNING_PREFIX + bare.SerializeToString())
    bare.signature = signature
    for field, value in changes.items():
        setattr(bare, field, value)
    return bare


def _raw_sign(key: SigningKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key.seed).sign(data)


def delimited(data: bytes) -> bytes:
    """``data`` after its length as a varint."""
    size, prefix = len(data), bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + data


def rpc(*messages: Any, **fields: Any) -> bytes:
    """One gossip RPC, ready for a stream."""
    return delimited(rpc_pb2.RPC(publish=messages, **fields).SerializeToString())


def own_topic(peer: Peer) -> str:
    return topic_of(peer.network, shard_of_peer(peer.peer_id))


# --- one peer as a process ---------------------------------------------------------------------------------------


async def live(name: str, network: str, listen: str, bootstrap: Sequence[str]) -> None:
    peer = Peer(name, network=network, bootstrap=bootstrap, listen=(listen,))
    async with running(peer):
        print(peer.mesh.addresses()[0], flush=True)
        while True:
            await peer.announce()
            await trio.sleep(2)


if __name__ == "__main__":
    trio.run(live, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
