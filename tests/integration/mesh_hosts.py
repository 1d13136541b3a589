"""Hosts on loopback addresses for the tests of the mesh core; each 127.0.0.x counts as an address of its own."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import trio

from mcd.log import Log
from mcd.mesh.host import Host
from mcd.mesh.limits import Limits
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
