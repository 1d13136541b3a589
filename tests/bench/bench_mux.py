"""Our yamux beside libp2p's own: 100 streams of 50 chunks/s, chunks of 100 bytes, two processes, one run.

    python -m tests.bench.bench_mux [--streams 100] [--rate 50] [--seconds 6]

The sender is this process, the receiver a child; both use the muxer under test over TCP and Noise on loopback.
"Stock" is libp2p 0.8.1's yamux with nothing but our guard around it. CPU is process time over both processes.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux

from mcd.errors import McdError
from mcd.log import Log
from mcd.mesh.host import Host
from mcd.mesh.swarm import YamuxOnly

PROTOCOL = "/mc/bench/1"
CHUNK_BYTES = 100
SETTLE_S = 1.0
PATIENCE_S = 120.0


class StockOnly(YamuxOnly):  # type: ignore[misc]
    """Negotiates yamux and builds libp2p's."""

    async def new_conn(self, conn: Any, peer_id: ID) -> Any:
        protocol = (await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout))[0]
        return self._annotate_connection(StockYamux(conn, peer_id, is_initiator=conn.is_initiator), conn, protocol)


class WallClock:
    """ports.Clock."""

    def now(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000


def host_with(muxer: str, seed: bytes) -> Host:
    host = Host(seed, ["/ip4/127.0.0.1/tcp/0"], log=Log(out=io.StringIO()), clock=WallClock())  # type: ignore[arg-type]
    if muxer == "stock":
        host.swarm.upgrader.muxer_multistream = StockOnly(host.swarm.budget, 4.0)
        host.swarm.on_up = host.swarm.on_down = lambda _: None  # a Link needs what only our muxer measures
    return host


async def receive(muxer: str) -> None:
    """The child: count chunks and the gaps between their arrivals; on a line from stdin, report and go."""
    gaps_s: list[float] = []
    n_bytes = 0

    async def handle(stream: Any) -> None:
        nonlocal n_bytes
        last_s = 0.0
        while True:
            try:
                data = await stream.muxed_stream.read(65_536)
            except MuxedStreamError:
                return
            if not data:
                return
            now_s = time.monotonic()
            n_bytes += len(data)
            if last_s:
                gaps_s.extend([now_s - last_s] + [0.0] * (len(data) // CHUNK_BYTES - 1))
            last_s = now_s

    host = host_with(muxer, b"bench receiver".ljust(32))
    host.libp2p.set_stream_handler(TProtocol(PROTOCOL), handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        print(host.addresses()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        cpu_s = time.process_time()
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        percentiles = statistics.quantiles(gaps_s, n=100) if len(gaps_s) > 1 else [0.0] * 99
        report = {"bytes": n_bytes, "cpu_s": time.process_time() - cpu_s}
        report |= {"gap_p50_s": percentiles[49], "gap_p95_s": percentiles[94], "gap_p99_s": percentiles[98]}
        print(json.dumps(report), flush=True)
        nursery.cancel_scope.cancel()


async def send(muxer: str, n_streams: int, rate: float, seconds: float) -> dict[str, float]:
    """The parent: pace the chunks, then ask the child what came."""
    command = [sys.executable, "-m", "tests.bench.bench_mux", "--receive", muxer]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert child.stdin is not None
    assert child.stdout is not None
    address = (await trio.to_thread.run_sync(child.stdout.readline)).strip()
    host = host_with(muxer, b"bench sender".ljust(32))
    n_sent = n_broken = 0
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            peer_id = address.rpartition("/")[2]
            await host.connect(peer_id, [address])  # type: ignore[arg-type]

            async def one(index: int) -> None:
                nonlocal n_sent, n_broken
                try:
                    stream = await host.libp2p.new_stream(ID.from_base58(peer_id), [TProtocol(PROTOCOL)])
                    next_s = trio.current_time() + index / n_streams / rate
                    for _ in range(int(rate * seconds)):
                        await trio.sleep_until(next_s)
                        next_s += 1 / rate
                        await stream.muxed_stream.write(bytes(CHUNK_BYTES))
                        n_sent += 1
                except (McdError, Exception):  # noqa: BLE001  # a broken stream is a result here
                    n_broken += 1

            await trio.sleep(SETTLE_S)
            child.stdin.write("start\n")
            child.stdin.flush()
            cpu_s, wall_s = time.process_time(), time.monotonic()
            with trio.move_on_after(PATIENCE_S):
                async with trio.open_nursery() as streams:
                    for index in range(n_streams):
                        streams.start_soon(one, index)
            took_s = time.monotonic() - wall_s
            await trio.sleep(SETTLE_S)
            cpu_s = time.process_time() - cpu_s
            child.stdin.write("report\n")
            child.stdin.flush()
            report = json.loads(await trio.to_thread.run_sync(child.stdout.readline))
            nursery.cancel_scope.cancel()
    finally:
        child.kill()
        child.wait()
    n_got = report["bytes"] / CHUNK_BYTES
    return {
        "sent": n_sent,
        "lost": n_sent - n_got,
        "broken": n_broken,
        "seconds": took_s,
        "gap_p50_ms": report["gap_p50_s"] * 1e3,
        "gap_p95_ms": report["gap_p95_s"] * 1e3,
        "gap_p99_ms": report["gap_p99_s"] * 1e3,
        "send_us": cpu_s / max(n_sent, 1) * 1e6,
        "receive_us": report["cpu_s"] / max(n_got, 1) * 1e6,
    }


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--receive", choices=("ours", "stock"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.receive:
        trio.run(receive, args.receive)
        return
    rows = {name: trio.run(send, name, args.streams, args.rate, args.seconds) for name in ("ours", "stock")}
    print(f"{args.streams} streams x {args.rate:g} chunks/s x {CHUNK_BYTES} B for {args.seconds:g} s, loopback, Noise")
    columns = list(rows["ours"])
    print("muxer " + "".join(f"{column:>12}" for column in columns))
    for name, row in rows.items():
        print(f"{name:6}" + "".join(f"{row[column]:12.1f}" for column in columns))
    cpu = {name: row["send_us"] + row["receive_us"] for name, row in rows.items()}
    ratio = cpu["stock"] / cpu["ours"]
    print(f"CPU per chunk, both sides: ours {cpu['ours']:.0f} us, stock {cpu['stock']:.0f} us, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
