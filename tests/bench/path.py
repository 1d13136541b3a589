"""The whole path against a raw relay and against the engine asked directly, in one run.

    python -m tests.bench.path

Three real daemons' worth of work on loopback: an entry and a provider with the scripted engine, beside an aiohttp
upstream with an aiohttp relay that only copies bytes. CPU is user + system time of the process in question, by the
kernel's own clock of it: the ticks of /proc are 10 ms, a fifth of what the relay uses in a round.

An entry that did nothing but relay and encrypt would cost relay + crypto; that floor is printed beside the goal.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import trio

from mcd.cli.exits import CommandError
from mcd.engine.catalogue import resolve
from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves
from tests.bench import load
from tests.bench.crypto import SmallRequest
from tests.bench.load import percentile
from tests.fakes.engine_entry import chat, running

ROUNDS = 5
N_REQUESTS = 300
N_STREAMS = 24
STREAM_S = 5
FLUSHES_PER_S = 10
"""Sealed frames a second of one stream (specs/06: one each 100 ms)."""
TOKENS_PER_S = 50
N_TTFT = 60


def write_script(folder: Path) -> str:
    """Answers ``bench N RATE`` like the upstream does; the scripted engine's unit is the token."""
    n_paced = STREAM_S * TOKENS_PER_S
    rules = [
        {"match": "bench 1 0", "text": " tok"},
        {"match": "bench paced", "text": " tok", "repeat": n_paced, "tokens_per_s": TOKENS_PER_S},
        {"text": " tok", "repeat": 8},
    ]
    path = folder / "bench.json"
    path.write_text(json.dumps({"alias": "bench", "n_slots": 256, "rules": rules}))
    return f"scripted:{path}"


@contextmanager
def relay_pair() -> Iterator[tuple[str, psutil.Process]]:
    """The yardstick: base URL and process of the relay."""
    command = [sys.executable, "-m", "tests.bench.relay"]
    upstream = subprocess.Popen([*command, "upstream"], stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    relay = subprocess.Popen([*command, "relay", upstream.stdout.readline().strip()], stdout=subprocess.PIPE, text=True)
    assert relay.stdout is not None
    try:
        yield f"http://127.0.0.1:{relay.stdout.readline().strip()}/v1", psutil.Process(relay.pid)
    finally:
        for process in (relay, upstream):
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def cpu_s(process: psutil.Process) -> float:
    """User and system seconds so far, all threads."""
    if platform.system() == "Linux":
        return time.clock_gettime(~process.pid << 3 | 2)  # the clock id of clock_getcpuclockid(3)
    times = process.cpu_times()
    return float(times.user + times.system)


def per_request(url: str, process: psutil.Process) -> float:
    """CPU seconds of one small non-streaming request."""
    bodies = [load.body("bench", "bench 1 0", stream=False)] * N_REQUESTS
    load.run(url, bodies[:10], 4)
    before = cpu_s(process)
    result = load.run(url, bodies, 4)
    if result.n_failed:
        raise RuntimeError(f"{result.n_failed} of {N_REQUESTS} requests failed at {url}")
    return (cpu_s(process) - before) / N_REQUESTS


def per_chunk(url: str, process: psutil.Process, content: str, request_s: float) -> tuple[float, load.Result]:
    """CPU seconds of one streamed chunk, the cost of the requests themselves taken off."""
    before = cpu_s(process)
    result = load.run(url, [load.body("bench", content, stream=True)] * N_STREAMS, N_STREAMS)
    used = cpu_s(process) - before - N_STREAMS * request_s
    if result.n_failed or result.n_cut:
        raise RuntimeError(f"{result.n_failed} failed and {result.n_cut} cut streams at {url}")
    return used / max(1, result.n_events), result


async def direct_ttfts(engine: str) -> list[float]:
    """Time from submit to the first opened chunk, the engine asked without mesh or HTTP."""
    spec = resolve([], Path(), engine)[0]
    ttfts: list[float] = []
    async with running(spec) as side:
        for _ in range(N_TTFT):
            began = time.perf_counter()
            await side.ask(chat("bench 1 0"))
            ttfts.append(time.perf_counter() - began)
            await trio.sleep(0.01)
    return ttfts


def through_mesh_ttfts(url: str) -> list[float]:
    """The same through HTTP, entry, libp2p and provider, one request at a time."""
    result = load.Result()
    for _ in range(N_TTFT):
        one = load.run(url, [load.body("bench", "bench 1 0", stream=True)], 1)
        result.ttfts_s += one.ttfts_s
        time.sleep(0.01)
    return result.ttfts_s


def compare(entry: Peer, provider: Peer) -> None:
    """CPU ratios, round by round, so that the machine's mood cancels."""
    ours = psutil.Process(entry.pid)
    theirs = psutil.Process(provider.pid)
    url = entry.url()
    rows: list[tuple[float, ...]] = []
    small = SmallRequest()
    with relay_pair() as (relay_url, relay):
        for _ in range(ROUNDS):
            relay_request = per_request(relay_url, relay)
            entry_request = per_request(url, ours)
            crypto = sum(small.parts().values())
            content = f"bench {STREAM_S * FLUSHES_PER_S} {FLUSHES_PER_S}"
            relay_chunk, _ = per_chunk(relay_url, relay, content, relay_request)
            provider_before = cpu_s(theirs)
            entry_chunk, result = per_chunk(url, ours, "bench paced", entry_request)
            provider_chunk = (cpu_s(theirs) - provider_before) / max(1, result.n_events)
            rows.append((relay_request, entry_request, crypto, relay_chunk, entry_chunk, provider_chunk))
    names = (
        "relay us/request",
        "entry us/request",
        "  of which crypto",
        "relay us/chunk",
        "entry us/chunk",
        "provider us/chunk",
    )
    for index, name in enumerate(names):
        values = sorted(1e6 * row[index] for row in rows)
        print(f"  {name:<20} {values[len(values) // 2]:>8.0f}   ({values[0]:.0f} - {values[-1]:.0f})")
    ratio("CPU per request", [row[1] / row[0] for row in rows], "goal <= 2x")
    ratio("  relay + crypto", [(row[0] + row[2]) / row[0] for row in rows], "the floor")
    ratio("CPU per sealed chunk", [row[4] / row[3] for row in rows], "goal <= 4x")


def ratio(name: str, ratios: list[float], note: str) -> None:
    """Print one comparison with the relay."""
    ratios.sort()
    low, middle, high = ratios[0], ratios[len(ratios) // 2], ratios[-1]
    print(f"  {name:<20} {middle:>7.2f}x of the raw relay   ({low:.2f} - {high:.2f}; {note})")


def start_up(mesh: LocalMesh, engine: str) -> None:
    """Seconds to the first /health 200 and to a routable provider; memory of an idle entry."""
    began = time.monotonic()
    peer = Peer(mesh.folder, "fresh")
    mesh.peers.append(peer)
    while not (peer.home / "control.sock").exists():
        time.sleep(0.005)
    url = ""
    while True:
        try:
            url = url or peer.read("status")["http"]
            if httpx.get(f"http://{url}/health", timeout=2).status_code == 200:
                break
        except (CommandError, httpx.HTTPError):
            time.sleep(0.01)
    print(f"  start to /health 200 {time.monotonic() - began:>6.2f} s   (goal <= 3 s)")
    late = mesh.start("late", "--cpu", "--engine", engine)
    late.wait(serves, "serving")
    began = time.monotonic()
    entry = mesh.peers[0]
    n_before = 1
    while entry.read("models")[0]["n_providers"] <= n_before:
        time.sleep(0.02)
    print(f"  ready to routable    {time.monotonic() - began:>6.2f} s   (goal <= 2 s)")
    print(f"  RSS of an idle entry {psutil.Process(peer.pid).memory_info().rss / 1e6:>6.0f} MB  (goal <= 120 MB)")


def main() -> None:
    """Run everything; prints as it goes."""
    with local_mesh() as mesh:
        engine = write_script(mesh.folder)
        entry = mesh.start("entry")
        provider = mesh.start("provider", "--cpu", "--engine", engine)
        provider.wait(serves, "serving")
        entry.wait(lambda status: status["n_models"] == 1, "aware of the provider")
        print(f"the path beside a raw aiohttp relay ({ROUNDS} rounds, median, min - max)", flush=True)
        compare(entry, provider)
        print("time to first token, p50 / p95", flush=True)
        direct = trio.run(direct_ttfts, engine)
        meshed = through_mesh_ttfts(entry.url())
        for name, values in (("engine directly", direct), ("through the mesh", meshed)):
            print(f"  {name:<20} {1000 * percentile(values, 0.5):>6.1f} / {1000 * percentile(values, 0.95):.1f} ms")
        added = 1000 * (percentile(meshed, 0.5) - percentile(direct, 0.5))
        print(f"  added p50            {added:>6.1f} ms  (goal <= 10 ms)")
        print("start", flush=True)
        start_up(mesh, engine)


if __name__ == "__main__":
    main()
