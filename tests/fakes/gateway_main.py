"""A gateway process with a control socket: prints HOST:PORT, plays a script, ends on SIGINT or SIGTERM.

Arguments: the control socket's path and, to get a short answer instead of an endless one, ``short``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from mcd.gateway.app import Gateway
from mcd.gateway.bridge import Bridge
from mcd.gateway.control import Control
from mcd.gateway.loops import run_loops
from mcd.gateway.metrics import Metrics
from mcd.log import Log
from mcd.wire.payload import Delta
from tests.fakes.control import FixedSource
from tests.fakes.entry import ScriptedEntry, answering, script
from tests.fakes.gateway import daemon_status


async def guest(ready: Callable[[Bridge], None]) -> None:
    endless = [answering(), *(step for i in range(100_000) for step in (Delta(0, "x", (i,)), 0.02))]
    bridge = Bridge(ScriptedEntry(script("Grüße", " 🌍") if "short" in sys.argv else endless), print)
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
    source = FixedSource()
    control = Control(source, Log("info", sys.stderr))
    await control.listen(Path(sys.argv[1]))
    address = await gateway.listen("127.0.0.1", 0)
    source.daemon = msgspec.structs.replace(source.daemon, http=address)
    print(address, flush=True)
    await stop.wait()
    await gateway.stop()
    await control.stop()
    print("host ended", flush=True)


if __name__ == "__main__":
    run_loops(guest, host)
