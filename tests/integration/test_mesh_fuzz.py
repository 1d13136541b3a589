"""A thousand and more hostile messages at each layer of the core: the host serves on and its memory stays bounded.

TCP, multistream on the raw connection, Noise, multistream inside, yamux, identify. Seeds are fixed; each case is a
mutation of something valid, or noise. The attacker holds a real, authenticated connection wherever the layer
needs one: it speaks through libp2p's own Noise, with hands of its own.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.utils import encode_varint_prefixed

from mcd.ids import PeerId
from mcd.mesh import yamux_frame as wire
from mcd.mesh.host import Host
from mcd.mesh.stream import MULTISTREAM, line
from mcd.mesh.tcp import TcpStream
from tests.fakes.check_stream import exactly
from tests.integration.mesh_hosts import ECHO, echo, new_host, place, running, stock, stock_addresses

N_CASES = 1000
MAX_GROWTH_BYTES = 64 * 1024 * 1024
LEFT_OVER_S = 0.002
"""Between cases: let the host look at what came."""

pytestmark = pytest.mark.slow


@asynccontextmanager
async def victim() -> AsyncIterator[Host]:
    """A host that must serve an honest peer before and after, and must not have grown."""
    open_gate = {"max_per_address": 10_000, "handshakes_per_s": 1e6, "handshake_burst": 10_000}
    async with running("127.0.0.1", **open_gate) as host:
        host.serve(ECHO, echo)
        await serves(host)
        before = psutil.Process().memory_info().rss
        yield host
        await serves(host)
        assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES


async def serves(host: Host) -> None:
    peer = new_host("127.0.0.8")
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        with trio.fail_after(5):
            await peer.connect(host.peer_id, host.addresses())
            stream = await peer.open_stream(host.peer_id, ECHO, b"still here")
            assert await exactly(stream, 10) == b"still here"
        await peer.close()


def mutate(rng: random.Random, seed: bytes) -> bytes:
    """Flip, cut, repeat or insert, a few times."""
    data = bytearray(seed)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 40))
            case 3 if at < len(data):
                data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
            case _:
                data += data[:at]
    return bytes(data)


async def throw(host: Host, data: bytes) -> None:
    """One raw connection: send, hang up."""
    stream = await trio.open_tcp_stream(*place(host), local_address="127.0.0.77")
    with suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        await trio.sleep(LEFT_OVER_S)
    await stream.aclose()


async def throw_all(host: Host, cases: list[bytes]) -> None:
    limiter = trio.CapacityLimiter(8)

    async def one(data: bytes) -> None:
        async with limiter:
            await throw(host, data)

    async with trio.open_nursery() as nursery:
        for data in cases:
            nursery.start_soon(one, data)


async def test_tcp() -> None:
    rng = random.Random(1)
    async with victim() as host:
        await throw_all(host, [rng.randbytes(rng.choice((0, 1, 2, 3, 10, 100, 5000))) for _ in range(N_CASES)])


async def test_multistream_before_security() -> None:
    rng = random.Random(2)
    good = line(MULTISTREAM) + line(b"/noise")
    odd = [
        b"\x05\xff\xfe\xfd\xfc\n",
        b"\xff" * 20,
        b"\xff\xff\xff\xff\x7f",
        line(MULTISTREAM) + line(b"/plaintext/2.0.0"),
        line(MULTISTREAM) + line(b"/secio/1.0.0"),
        line(MULTISTREAM) + line(b"ls"),
        line(MULTISTREAM) + line(b"x") * 200,
    ]
    async with victim() as host:
        await throw_all(host, odd + [mutate(rng, good) for _ in range(N_CASES)])


async def test_noise() -> None:
    """After the real choice of /noise: handshake messages of wrong length, wrong curve, wrong everything."""
    rng = random.Random(3)
    chosen = line(MULTISTREAM) + line(b"/noise")
    hello = b"\x00\x20" + rng.randbytes(32)
    second = b"\x00\x60" + rng.randbytes(96)
    async with victim() as host:
        await throw_all(host, [chosen + mutate(rng, rng.choice((hello, hello + second))) for _ in range(N_CASES)])


@asynccontextmanager
async def secured(host: Host) -> AsyncIterator[Any]:
    """An attacker's authenticated Noise connection, before any muxer."""
    key_pair = create_new_key_pair()
    noise = NoiseTransport(key_pair, noise_privkey=x25519_key_pair().private_key)
    stream = TcpStream((await trio.open_tcp_stream(*place(host), local_address="127.0.0.77")).socket)
    try:
        raw = RawConnection(stream, True)
        await MultiselectClient().select_one_of([TProtocol("/noise")], MultiselectCommunicator(raw))
        yield await noise.secure_outbound(raw, ID.from_base58(host.peer_id))
    finally:
        await stream.close()


async def attack(host: Host, batch: Callable[[], list[bytes]]) -> None:
    """Send batches, each over a fresh secured connection until it is ended, N_CASES messages in all."""
    n_sent = 0
    while n_sent < N_CASES:
        async with secured(host) as conn:
            for data in batch():
                try:
                    await conn.write(data)
                except (BaseLibp2pError, OSError):
                    break
                n_sent += 1
                await trio.lowlevel.checkpoint()
            await trio.sleep(LEFT_OVER_S)


async def test_multistream_inside_noise() -> None:
    rng = random.Random(4)
    good = line(MULTISTREAM) + line(b"/yamux/1.0.0")
    async with victim() as host:
        await attack(host, lambda: [mutate(rng, good) for _ in range(20)])


async def test_ciphertext() -> None:
    """A byte wrong anywhere after the handshake ends that connection and nothing else."""
    rng = random.Random(5)
    async with victim() as host:
        for _ in range(100):
            async with secured(host) as conn:
                tcp = conn.conn.read_writer.read_write_closer
                with suppress(BaseLibp2pError):
                    for _ in range(10):
                        size = rng.choice((0, 1, 15, 16, 17, 100))
                        await tcp.write(size.to_bytes(2, "big") + rng.randbytes(size))


MUXED = line(MULTISTREAM) + line(b"/yamux/1.0.0")


async def test_yamux() -> None:
    rng = random.Random(6)

    def frames() -> list[bytes]:
        some = [MUXED]
        for _ in range(40):
            kind = rng.choices((0, 1, 2, 3, 4, 255), (40, 30, 20, 2, 1, 1))[0]
            body = rng.randbytes(rng.choice((0, 1, 12, 500))) if kind == 0 else b""
            value = len(body) if rng.random() < 0.9 else rng.choice((0, 2**32 - 1, 300_000))
            stream_id = rng.choice((0, 1, 3, 5, 7, 9, 2, 2**32 - 1))
            version = 0 if rng.random() < 0.98 else 7
            some.append(wire.HEADER.pack(version, kind, rng.randrange(16), stream_id, value) + body)
        return some

    async with victim() as host:
        await attack(host, frames)


async def test_multistream_on_a_stream() -> None:
    """Pitfall 1: one of these, five bytes long, ends a stock daemon."""
    rng = random.Random(7)
    good = line(MULTISTREAM) + line(ECHO.encode())
    odd = [b"\x05\xff\xfe\xfd\xfc\n", line(MULTISTREAM) + b"\x05\xff\xfe\xfd\xfc\n", line(MULTISTREAM) + line(b"ls")]

    def streams() -> list[bytes]:
        some = [MUXED]
        for index in range(50):
            data = rng.choice(odd) if index % 10 == 0 else mutate(rng, good)
            opened = wire.encode(wire.WINDOW, wire.SYN, 2 * index + 1, 0)
            flags = rng.choice((0, 0, wire.FIN, wire.RST))
            some.append(opened + wire.encode(wire.DATA, flags, 2 * index + 1, len(data)) + data)
        return some

    async with victim() as host:
        await attack(host, streams)
        assert host.counters()["streams_failed"] > 0


def identify_cases(rng: random.Random) -> bytes:
    message = Identify(
        protocol_version="x" * rng.choice((0, 10, 5000)),
        agent_version="a",
        public_key=rng.randbytes(rng.choice((0, 36, 100))),
        listen_addrs=[rng.randbytes(rng.choice((1, 8, 60))) for _ in range(rng.choice((0, 3, 300)))],
        observed_addr=rng.randbytes(8),
        protocols=[f"/p/{index}" for index in range(rng.choice((0, 5, 500)))],
        signedPeerRecord=rng.randbytes(rng.choice((0, 100))),
    )
    data = encode_varint_prefixed(message.SerializeToString())
    return mutate(rng, data) if rng.random() < 0.7 else data


async def test_identify_pushed_at_us() -> None:
    rng = random.Random(8)

    def pushes() -> list[bytes]:
        some = [MUXED]
        for index in range(50):
            data = line(MULTISTREAM) + line(b"/ipfs/id/push/1.0.0") + identify_cases(rng)
            opened = wire.encode(wire.WINDOW, wire.SYN, 2 * index + 1, 0)
            some.append(opened + wire.encode(wire.DATA, wire.FIN, 2 * index + 1, len(data)) + data)
        return some

    async with victim() as host:
        await attack(host, pushes)
        for peer_id in host.libp2p.get_peerstore().peer_ids():
            assert len(host.libp2p.get_peerstore().get_protocols(peer_id)) <= 128


async def test_identify_answered_to_us() -> None:
    """Whoever we dial answers our identify with anything at all."""
    rng = random.Random(9)
    async with victim() as host, stock("127.0.0.3") as liar:

        async def lie(stream: Any) -> None:
            with suppress(BaseLibp2pError):
                await stream.write(identify_cases(rng))
                await stream.close()

        liar.set_stream_handler(TProtocol("/ipfs/id/1.0.0"), lie)
        liar_id = PeerId(liar.get_id().to_base58())
        await host.connect(liar_id, stock_addresses(liar))
        for _ in range(N_CASES):
            await host.libp2p._identify_peer(ID.from_base58(liar_id), reason="fuzz")
