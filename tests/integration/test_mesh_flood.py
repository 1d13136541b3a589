"""Idle, half-open and garbage connections of one address keep nobody out.   (security: T7, D1)

With libp2p's defaults 250 idle sockets of one address end all service; here an honest peer connects every time,
from another address and from the flooder's own.
"""

from __future__ import annotations

import random

import psutil
import pytest
import trio

from mcd.mesh.host import Host
from tests.fakes.check_stream import exactly
from tests.integration.mesh_hosts import ECHO, echo, gone, new_host, raw, running, until

FLOODER = "127.0.0.66"
N_IDLE, N_HALF_OPEN, N_GARBAGE = 600, 300, 200
HONEST_S = 4.0
"""Generous: on a quiet core it is 0.03 s."""
MAX_GROWTH_BYTES = 64 * 1024 * 1024

pytestmark = pytest.mark.slow


async def flood(host: Host, held: list[trio.SocketStream]) -> None:
    """Open everything at once and keep it open."""
    limiter = trio.CapacityLimiter(50)

    async def one(first: bytes) -> None:
        async with limiter:
            stream = await raw(host, FLOODER)
            held.append(stream)
            try:
                await stream.send_all(first)
            except trio.BrokenResourceError:
                return  # evicted already

    async with trio.open_nursery() as nursery:
        for _ in range(N_IDLE):
            nursery.start_soon(one, b"")
        for _ in range(N_HALF_OPEN):
            nursery.start_soon(one, b"\x13/multistream/1.0.0\n")
        for _ in range(N_GARBAGE):
            nursery.start_soon(one, random.randbytes(2000))


async def honest(host: Host, ip: str) -> float:
    """Connect a new peer, use it, and say how long that took."""
    peer = new_host(ip)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        start_s = trio.current_time()
        with trio.fail_after(HONEST_S):
            await peer.connect(host.peer_id, host.addresses())
            stream = await peer.open_stream(host.peer_id, ECHO, b"honest")
            assert await exactly(stream, 6) == b"honest"
        took_s = trio.current_time() - start_s
        await peer.close()
    return took_s


async def test_honest_peers_connect_every_time() -> None:
    async with running("127.0.0.1") as host:
        host.serve(ECHO, echo)
        before = psutil.Process().memory_info().rss
        held: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, host, held)
            for turn in range(5):
                await honest(host, f"127.0.2.{turn + 1}")
        for turn in range(5):
            await honest(host, f"127.0.3.{turn + 1}")
        assert host.counters()["half_open"] <= 16
        assert host.counters()["half_open_evicted"] >= N_IDLE - 16
        assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES
        for stream in held:
            await stream.aclose()


async def test_an_honest_peer_behind_the_flooders_address_connects_too() -> None:
    """Hosts dial from 127.0.0.1 here, so the flood comes from there as well."""
    async with running("127.0.0.4") as host:
        host.serve(ECHO, echo)
        held = [await raw(host, "127.0.0.1") for _ in range(300)]
        for _ in range(5):
            await honest(host, "127.0.0.1")
        for stream in held:
            await stream.aclose()


async def test_idle_connections_of_many_addresses_keep_nobody_out() -> None:
    async with running("127.0.0.1") as host:
        host.serve(ECHO, echo)
        held = [await raw(host, f"127.1.{index // 16}.1") for index in range(400)]
        for turn in range(5):
            await honest(host, f"127.0.2.{turn + 1}")
        assert host.counters()["half_open"] <= 128
        for stream in held:
            await stream.aclose()


async def test_who_says_nothing_is_dropped() -> None:
    async with running("127.0.0.1", upgrade_timeout_s=1.0) as host:
        idle = await raw(host)
        talking = await raw(host)
        await talking.send_all(b"\x13/multistream/1.0.0\n")
        assert await gone(idle, 5)
        assert await gone(talking, 5)
        await until(lambda: host.counters()["half_open"] == 0)
        await idle.aclose()
        await talking.aclose()


async def test_established_links_of_one_address_are_capped_and_given_back() -> None:
    async with running("127.0.0.5", max_per_address=3) as host:
        host.serve(ECHO, echo)
        peers = [new_host("127.0.0.1") for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for peer in peers:
                await nursery.start(peer.run)
            for peer in peers[:3]:
                await peer.connect(host.peer_id, host.addresses())
            await trio.sleep(0.2)
            refused = await raw(host, "127.0.0.1")
            assert await gone(refused, 5)
            await refused.aclose()
            assert host.counters()["links_refused_by_address"] == 1
            await peers[0].close()
            await trio.sleep(0.3)
            await peers[3].connect(host.peer_id, host.addresses())
            for peer in peers[1:]:
                await peer.close()
