"""What sharing a prefix saves: 15 requests with the same 400 tokens in front, with and without reuse.

python -m tests.bench.engine_prefix
"""

from __future__ import annotations

import os
import statistics

import trio

from mcd.engine.catalogue import EngineSpec, embedded_path
from tests.bench.engine_sides import OPTIONS, Ours
from tests.bench.engine_tables import spread
from tests.fakes.engine_entry import running

N_REQUESTS, N_ROUNDS = 15, 5
PREFIX = "the price of a token is set by who serves it; " * 32
"""About 400 tokens of the embedded model."""
GOAL = 5.0


async def _round(side: Ours, salt: str) -> float:
    """CPU seconds of the engine for all requests at once, one output token each."""
    began = side.cpu_s()
    async with trio.open_nursery() as nursery:
        for i in range(N_REQUESTS):
            nursery.start_soon(side.ask, f"{PREFIX} question {i}", 1, salt)
    return side.cpu_s() - began


async def main(path: str) -> None:
    """Measure, print."""
    async with running(EngineSpec(alias="bench", backend="llama", source=path), OPTIONS) as entry:
        ours = Ours(entry, ())
        n_tokens = (await ours.ask(PREFIX, 1)).n_prompt_tokens
        without, reusing = [], []
        for _ in range(N_ROUNDS):
            without.append(await _round(ours, ""))
            reusing.append(await _round(ours, os.urandom(8).hex()))
    print(f"  prefix {n_tokens} tokens x {N_REQUESTS} requests; engine CPU ms in all, opening the requests included")
    print(f"  without reuse: {spread([1000 * s for s in without], '.0f')}")
    print(f"  with reuse:    {spread([1000 * s for s in reusing], '.0f')}")
    print(f"  ratio {statistics.median(without) / statistics.median(reusing):.1f}x, goal >= {GOAL:.0f}x")


if __name__ == "__main__":
    trio.run(main, str(embedded_path()))
