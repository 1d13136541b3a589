"""A gateway process for signal tests: prints HOST:PORT, serves an endless stream, ends on SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from mcd.gateway.app import Gateway
from mcd.gateway.bridge import Bridge, run_guest
from mcd.gateway.control import Control
from mcd.gateway.metrics import Metrics
from mcd.log import Log
from mcd.wire.payload import Delta
from tests.fakes.control import FixedSource
from tests.fakes.entry import ScriptedEntry, answering
from tests.fakes.gateway import daemon_status


async def guest(ready: Callable[[Bridge], None]) -> None:
    endless = [answering(), *(step for i in range(100_000) for step in (Delta(0, "x", (i,)), 0.02))]
    bridge = Bridge(ScriptedEntry(endless))
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        ready(bridge)
        try:
            await trio.sleep_forever()
        finally:
            print("guest ended", flush=True)


async def host(bridge: Bridge, stop: asyncio.Event) -> None:
    gateway = Gateway(
        bridge=bridge, entry=ScriptedEntry(), status=daemon_status, metrics=Metrics(), log=Log("info", sys.stderr)
    )
    control = Control(FixedSource(), Log("info", sys.stderr))
    await control.listen(Path(sys.argv[1]))
    print(await gateway.listen("127.0.0.1", 0), flush=True)
    await stop.wait()
    await gateway.stop()
    await control.stop()
    print("host ended", flush=True)


if __name__ == "__main__":
    run_guest(guest, host)
