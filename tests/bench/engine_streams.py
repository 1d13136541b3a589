"""Tokens a second of the embedded model at 1, 4, 8 and 16 streams: the engine directly, and through the whole mesh.

python -m tests.bench.engine_streams
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

from mcd.engine.catalogue import resolve
from scripts.local_mesh import local_mesh, serves
from tests.bench import load
from tests.fakes.engine_entry import EntrySide, chat, running

STREAMS = (1, 4, 8, 16)
N_TOKENS = 128
QUESTION = "Tell me everything about mcd, the mesh, prices, privacy and how to run a node."


async def _ask_all(side: EntrySide, n_streams: int) -> float:
    n_tokens = 0

    async def one() -> None:
        nonlocal n_tokens
        answer = await side.ask(chat(QUESTION, max_tokens=N_TOKENS, temperature=1.0, seed=1))
        n_tokens += answer.n_clear_tokens

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(n_streams):
            nursery.start_soon(one)
    return n_tokens / (time.perf_counter() - began)


async def _direct() -> dict[int, float]:
    async with running(resolve([], Path(), "llama")[0]) as side:
        await _ask_all(side, 1)
        return {n_streams: await _ask_all(side, n_streams) for n_streams in STREAMS}


def _through_mesh() -> dict[int, float]:
    speeds: dict[int, float] = {}
    with local_mesh() as mesh:
        entry = mesh.start("entry")
        provider = mesh.start("provider", "--cpu")
        provider.wait(serves, "serving")
        entry.wait(lambda status: status["n_models"] == 1, "aware of the provider")
        for n_streams in (1, *STREAMS):
            before = entry.read("status")["n_output_tokens"]
            body = load.body("modelcloud-nano", QUESTION, stream=True, max_tokens=N_TOKENS, temperature=1.0, seed=1)
            result = load.run(entry.url(), [body] * n_streams, n_streams)
            if result.n_failed or result.n_cut:
                raise RuntimeError(f"{result.n_failed} failed, {result.n_cut} cut of {n_streams} streams")
            speeds[n_streams] = (entry.read("status")["n_output_tokens"] - before) / result.wall_s
    return speeds


def main() -> None:
    """Print a row a concurrency."""
    direct, meshed = trio.run(_direct), _through_mesh()
    print("  streams   engine directly   through the mesh   ratio")
    for n_streams in STREAMS:
        ratio = meshed[n_streams] / direct[n_streams]
        print(f"  {n_streams:>7}   {direct[n_streams]:>9.0f} tok/s   {meshed[n_streams]:>10.0f} tok/s   {ratio:>4.2f}x")


if __name__ == "__main__":
    main()
