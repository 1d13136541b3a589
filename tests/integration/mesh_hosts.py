"""Hosts on loopback addresses for the tests of the mesh core; each 127.0.0.x counts as an address of its own."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import trio
from libp2p import new_host as new_host_of_libp2p
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux
from multiaddr import Multiaddr

from mcd.log import Log
from mcd.mesh.host import Host
from mcd.mesh.limits import Limits
from mcd.mesh.swarm import YAMUX_PROTOCOL
from mcd.ports import Stream
from mcd.units import UnixMs

ECHO = "/mc/echo/1"
_SEEDS = itertools.count()


class TrioClock:
    """ports.Clock on trio's clock."""

    def now(self) -> float:
        return trio.current_time()

    def unix_ms(self) -> UnixMs:
        return UnixMs(0)


async def echo(stream: Stream) -> None:
    """Send everything back until the other side closes."""
    while data := await stream.receive():
        await stream.send(data)
    await stream.close()


def new_host(ip: str = "127.0.0.1", *, port: int = 0, seed: bytes | None = None, **limits: float) -> Host:
    """A host that listens on ``ip``, not running yet; ``limits`` override fields of Limits."""
    if seed is None:
        seed = sha256(b"mesh core test %d" % next(_SEEDS)).digest()
    family = "ip6" if ":" in ip else "ip4"
    return Host(
        seed,
        [f"/{family}/{ip}/tcp/{port}"],
        log=Log("debug", io.StringIO()),
        clock=TrioClock(),
        limits=Limits(**limits),  # type: ignore[arg-type]
    )


@asynccontextmanager
async def running(ip: str = "127.0.0.1", **options: float) -> AsyncIterator[Host]:
    """A running host, closed at the end."""
    host = new_host(ip, **options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        await host.close()


@asynccontextmanager
async def two(**limits: float) -> AsyncIterator[tuple[Host, Host]]:
    """Two running hosts, the first connected to the second."""
    async with running("127.0.0.1", **limits) as left, running("127.0.0.2", **limits) as right:
        await left.connect(right.peer_id, right.addresses())
        yield left, right


@asynccontextmanager
async def stock(ip: str = "127.0.0.3", **options: Any) -> AsyncIterator[IHost]:
    """A running host of plain py-libp2p, as a foreign peer: Noise and its own yamux."""
    key_pair = create_new_key_pair(sha256(b"stock %d" % next(_SEEDS)).digest())
    noise = NoiseTransport(key_pair, noise_privkey=x25519_key_pair().private_key)
    options = {"sec_opt": {NOISE_PROTOCOL: noise}, "muxer_opt": {YAMUX_PROTOCOL: StockYamux}} | options
    host = new_host_of_libp2p(key_pair=key_pair, **options)
    async with host.run([Multiaddr(f"/ip4/{ip}/tcp/0")]):
        yield host
        for connection in host.get_network().get_connections():
            await connection.close()
            await connection.muxed_conn.secured_conn.close()  # it leaks the socket when the other side went first


def stock_addresses(host: IHost) -> list[str]:
    """Where a stock host listens, as text."""
    return [str(address) for address in host.get_addrs()]


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for something that happens elsewhere."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # what is awaited has no event
            await trio.sleep(0.01)


async def gone(stream: trio.SocketStream, within_s: float = 10.0) -> bool:
    """True when the other side ends a raw connection."""
    with trio.move_on_after(within_s):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


def place(host: Host) -> tuple[str, int]:
    """Where a host of ours listens, for raw sockets."""
    parts = host.addresses()[0].split("/")
    return parts[2], int(parts[4])


async def raw(host: Host, source: str = "127.0.0.66") -> trio.SocketStream:
    """A bare TCP connection to a host, from an address of choice."""
    return await trio.open_tcp_stream(*place(host), local_address=source)
