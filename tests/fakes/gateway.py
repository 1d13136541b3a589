"""A real gateway on loopback over a scripted entry, both loops running, for one test body."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from mcd.gateway.app import Gateway
from mcd.gateway.bridge import Bridge
from mcd.gateway.loops import run_loops
from mcd.gateway.metrics import Metrics
from mcd.log import Log
from mcd.ports import DaemonStatus
from tests.fakes.entry import PEER, ScriptedEntry


@dataclass
class Running:
    """What a test body may touch."""

    entry: ScriptedEntry
    bridge: Bridge
    gateway: Gateway
    metrics: Metrics
    log: io.StringIO
    bugs: list[str]
    """Classes of exceptions that no room should have raised."""
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def daemon_status(http: str = "127.0.0.1:8080") -> DaemonStatus:
    return DaemonStatus(
        version="0.1.0",
        peer_id=PEER,
        name="atlas",
        network="main",
        roles=("entry",),
        uptime_s=12.5,
        http=http,
        addresses=(f"/ip4/127.0.0.1/tcp/4101/p2p/{PEER}",),
        n_links=2,
        n_peers=3,
        n_models=1,
        engines=(),
        n_requests=4,
        n_failed=1,
        n_served=0,
        n_prompt_tokens=10,
        n_output_tokens=20,
        ttft_p50_s=0.21,
        ttft_p95_s=None,
        warnings=(),
        counters={"records_dropped": 2},
    )


def serve(entry: ScriptedEntry, body: Callable[[Running], Awaitable[None]], host: str = "127.0.0.1") -> None:
    """Run ``body`` on the asyncio side of a listening gateway; returns when everything has ended."""

    bugs: list[str] = []

    async def guest(ready: Callable[[Bridge], None]) -> None:
        bridge = Bridge(entry, bugs.append)
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            ready(bridge)

    async def host_main(bridge: Bridge, stop: asyncio.Event) -> None:
        log = io.StringIO()
        metrics = Metrics()
        gateway = Gateway(bridge=bridge, entry=entry, status=daemon_status, metrics=metrics, log=Log("debug", log))
        running = Running(entry, bridge, gateway, metrics, log, bugs, host)
        running.port = int((await gateway.listen(host, 0)).rpartition(":")[2])
        try:
            async with asyncio.timeout(30):
                await body(running)
        finally:
            await gateway.stop()

    run_loops(guest, host_main)


async def until(holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for a condition that another task brings about."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - the condition belongs to code under test, which sets no event
            await asyncio.sleep(0.005)
