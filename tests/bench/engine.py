"""Our engine against llama.cpp's own server, in one run: tokens a second, CPU a token, time to the first token.

python -m tests.bench.engine [--layers N] [--nano-only] [--model FILE] [--budget-s S]

Same file, same threads (1), same prompts and sampling, 1 to 16 streams, the two sides by turns: what counts is their
ratio, and a ratio above 1 says that ours is better. Ours includes opening the sealed request and sealing every frame;
its frames leave ten times a second a stream, so tokens are counted, not frames. Prints numbers and goals, judges
nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import gguf
import llama_cpp
import trio
import xllamacpp

from mcd.engine.catalogue import embedded_path
from scripts import make_big_gguf
from tests.bench import engine_prefix, engine_steps
from tests.bench.engine_sides import Ours, Server, Side, both
from tests.bench.engine_tables import spread, table

STREAMS = (1, 4, 8, 16)
MAX_ROUNDS = 5
BUDGET_S = 330.0
"""Both models and what follows; the first round of each model is run whatever it takes."""
NANO_SHARE = 0.2
WORDS = """mesh price privacy token model peer receipt prompt answer stream key seal route credit proof speed cache
entry provider ledger offer meter relay ticket quota window batch vector letter river garden winter music"""
N_WORDS = 40


class Load:
    """What one cell asks of a side: requests a stream, one after another, of so many tokens."""

    def __init__(self, n_tokens: int, n_requests: dict[int, int]) -> None:
        self.n_tokens = n_tokens
        self.n_requests = n_requests


NANO = Load(96, {1: 6, 4: 3, 8: 2, 16: 2})
BIG = Load(24, {1: 2, 4: 1, 8: 1, 16: 1})
NANO_GOALS = dict.fromkeys(STREAMS, 0.9)
BIG_GOALS = {1: 1.0, 4: 1.0, 8: 1.3, 16: 1.3}


class Cell:
    """One side under one load in one round."""

    def __init__(self, n_tokens: int, wall_s: float, cpu_s: float, client_s: float, ttfts_s: Sequence[float]) -> None:
        self.tokens_per_s = n_tokens / wall_s
        self.cpu_ms = 1000 * cpu_s / n_tokens
        self.client_ms = 1000 * client_s / n_tokens
        self.ttft_ms = 1000 * statistics.median(ttfts_s)


def prompts(round_: int, n_prompts: int) -> list[str]:
    """Different words in each prompt: nothing to reuse between them."""
    dice = random.Random(1000 * round_ + n_prompts)
    return [" ".join(dice.choices(WORDS.split(), k=N_WORDS)) for _ in range(n_prompts)]


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(side: Side, n_streams: int, load: Load, round_: int) -> Cell:
    """Run ``n_streams`` closed loops to their ends."""
    queue = prompts(round_, n_streams * load.n_requests[n_streams])
    ttfts_s: list[float] = []
    n_tokens = 0

    async def stream() -> None:
        nonlocal n_tokens
        for _ in range(load.n_requests[n_streams]):
            sample = await side.ask(queue.pop(), load.n_tokens)
            n_tokens += sample.n_tokens
            ttfts_s.append(sample.ttft_s)

    cpu_s, own_s, began = side.cpu_s(), _own_cpu_s(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(n_streams):
            nursery.start_soon(stream)
    wall_s = time.perf_counter() - began
    return Cell(n_tokens, wall_s, side.cpu_s() - cpu_s, _own_cpu_s() - own_s, ttfts_s)


async def compare(sides: tuple[Ours, Server], load: Load, until_s: float) -> dict[int, list[tuple[Cell, Cell]]]:
    """Rounds over all numbers of streams while there is time, the sides taking turns in going first."""
    for side in sides:
        await side.ask("warm up", 8)
    cells: dict[int, list[tuple[Cell, Cell]]] = defaultdict(list)
    slowest_s = 0.0
    for round_ in range(MAX_ROUNDS):
        for n_streams in STREAMS:
            began = time.perf_counter()
            if round_ and began + slowest_s * n_streams / STREAMS[-1] > until_s:
                return cells
            order = sides if len(cells[n_streams]) % 2 == 0 else sides[::-1]
            found = {side.name: await measure(side, n_streams, load, round_) for side in order}
            cells[n_streams].append((found[Ours.name], found[Server.name]))
            slowest_s = max(slowest_s, time.perf_counter() - began)
    return cells


def show(cells: dict[int, list[tuple[Cell, Cell]]], goals: dict[int, float]) -> None:
    """Two tables: the sides, then their ratios; more is better for us in each."""
    rows = []
    for n_streams, pairs in cells.items():
        for side, name in enumerate((Ours.name, Server.name)):
            mine = [pair[side] for pair in pairs]
            rows.append(
                (
                    str(n_streams), name, spread([c.tokens_per_s for c in mine], ".0f"),
                    spread([c.cpu_ms for c in mine]), spread([c.ttft_ms for c in mine], ".0f"),
                    spread([c.client_ms for c in mine]),
                )
            )  # fmt: skip
    table(("streams", "", "tokens/s", "server CPU ms/token", "TTFT ms", "client CPU ms/token"), rows)
    print()
    table(
        ("streams", "rounds", "tokens/s ratio", "goal", "CPU/token ratio", "TTFT ratio"),
        (
            (
                str(n_streams), str(len(pairs)), spread([a.tokens_per_s / b.tokens_per_s for a, b in pairs]),
                f">= {goals[n_streams]:.2f}", spread([b.cpu_ms / a.cpu_ms for a, b in pairs]),
                spread([b.ttft_ms / a.ttft_ms for a, b in pairs]),
            )
            for n_streams, pairs in cells.items()
        ),
    )  # fmt: skip


def end_tokens(path: str) -> tuple[int, ...]:
    """Tokens that would end an answer early."""
    fields = gguf.GGUFReader(path).fields
    names = ("bos", "eos", "eot")
    found = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in names)
    return tuple(sorted({int(field.contents()) for field in found if field is not None}))


async def contest(path: str, load: Load, goals: dict[int, float], until_s: float) -> None:
    """Both sides on one model."""
    async with both(path, end_tokens(path)) as sides:
        show(await compare(sides, load, until_s), goals)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, help="of the 1B shape; 16 is the whole model")
    parser.add_argument("--nano-only", action="store_true", help="leave the 1B shape out")
    parser.add_argument("--model", metavar="FILE", help="a small GGUF to compare on, in place of everything else")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    return parser.parse_args()


def _everything(chosen: argparse.Namespace, until_s: float) -> None:
    nano = str(embedded_path())
    print("\n== modelcloud-nano (a model so small that everything but computing it shows)", flush=True)
    trio.run(contest, nano, NANO, NANO_GOALS, until_s - (1 - NANO_SHARE) * chosen.budget_s)
    print("\n== one prefix of 400 tokens, 15 requests (modelcloud-nano)", flush=True)
    trio.run(engine_prefix.main, nano)
    print("\n== where a token's CPU time goes (modelcloud-nano)", flush=True)
    engine_steps.main(nano)
    if not chosen.nano_only:
        big = str(make_big_gguf.ensure(chosen.layers))
        print(f"\n== Llama 3.2 1B's shape, {chosen.layers} layers, random weights", flush=True)
        trio.run(contest, big, BIG, BIG_GOALS, until_s)


def main() -> None:
    """Run everything inside the budget."""
    chosen = _arguments()
    began = time.perf_counter()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; 1 compute thread a side; {_load()}")
    print(f"  mcd:          llama-cpp-python {llama_cpp.__version__}; {_kernels(llama_cpp.llama_print_system_info())}")
    print(f"  llama-server: xllamacpp {xllamacpp.__version__}; {_kernels(xllamacpp.get_system_info().encode())}")
    if chosen.model:
        trio.run(contest, chosen.model, NANO, NANO_GOALS, began + chosen.budget_s)
    else:
        _everything(chosen, began + chosen.budget_s)
    print(f"\n  {time.perf_counter() - began:.0f} s; {_load()}")


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def _kernels(info: bytes) -> str:
    return " ".join(part.split(" = ")[0].strip() for part in info.decode().split("|") if "= 1" in part)


if __name__ == "__main__":
    main()
