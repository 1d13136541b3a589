"""A hundred streams of 50 tokens a second through one entry: what is lost, and how even the frames arrive.

    python -m tests.bench.hundred

The engine seals what came in 100 ms into one frame (specs/06), so the source's gap is 100 ms. The first row asks the
engine without mesh or HTTP; the second goes through HTTP, entry, libp2p and provider.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from mcd.engine.catalogue import resolve
from scripts.local_mesh import local_mesh, serves
from tests.bench import load
from tests.bench.load import percentile
from tests.fakes.engine_entry import Answer, EntrySide, chat, running

N_STREAMS = 100
N_TOKENS = 300
TOKENS_PER_S = 50


async def _one(side: EntrySide, gaps_s: list[float], counted: list[int]) -> None:
    answer, last = Answer(), 0.0
    sealed, opener = side.seal(chat("hi"))
    async with side.engine.submit(sealed) as events:
        async for event in events:
            n_before = len(answer.deltas)
            side.take(answer, opener, event)
            if len(answer.deltas) > n_before:
                now = time.perf_counter()
                if last:
                    gaps_s.append(now - last)
                last = now
    counted.append(answer.n_clear_tokens)


async def _direct(engine: str) -> tuple[list[float], list[int]]:
    gaps_s: list[float] = []
    counted: list[int] = []
    async with running(resolve([], Path(), engine)[0]) as side, trio.open_nursery() as nursery:
        for _ in range(N_STREAMS):
            nursery.start_soon(_one, side, gaps_s, counted)
    return gaps_s, counted


def _row(name: str, gaps_s: list[float], n_tokens: int, n_cut: int) -> None:
    lost = N_STREAMS * N_TOKENS - n_tokens
    spread = " / ".join(f"{1000 * percentile(gaps_s, part):.1f}" for part in (0.5, 0.95, 0.99))
    print(f"  {name:<18} {lost:>6} tokens lost   {n_cut:>3} streams cut   gap p50 / p95 / p99 {spread} ms", flush=True)


def main() -> None:
    """Print both rows."""
    rules = [{"text": " tok", "repeat": N_TOKENS, "tokens_per_s": TOKENS_PER_S}]
    with TemporaryDirectory() as folder, local_mesh() as mesh:
        script = Path(folder) / "hundred.json"
        script.write_text(json.dumps({"alias": "hundred", "rules": rules}))
        gaps_s, counted = trio.run(_direct, f"scripted:{script}")
        _row("engine directly", gaps_s, sum(counted), 0)
        entry = mesh.start("entry")
        provider = mesh.start("provider", "--cpu", "--engine", f"scripted:{script}")
        provider.wait(serves, "serving")
        entry.wait(lambda status: status["n_models"] == 1, "aware of the provider")
        result = load.run(entry.url(), [load.body("hundred", "hi", stream=True)] * N_STREAMS, N_STREAMS)
        n_tokens = entry.read("status")["n_output_tokens"]
        _row("through the mesh", result.gaps_s, n_tokens, result.n_cut + result.n_failed)


if __name__ == "__main__":
    main()
