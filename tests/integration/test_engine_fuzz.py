"""10,000 GGUF headers with faults in every field: each is refused with words, or loads, or ends a child and no more."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from mcd.engine import ggufcheck
from mcd.engine.catalogue import EngineSpec
from mcd.engine.messages import FailureCode
from mcd.errors import ModelFileError
from tests.fakes import gguf_make, gguf_mutate
from tests.fakes.engine_entry import EntrySide, chat, running

N_MUTANTS = 10_000
SEED = 20_261_125
PROBE_TIMEOUT_S = 60.0
"""For the rest of the files; one takes about 12 ms."""
MAX_WHOLE_ENGINES = 4
"""Mutants that end a process are also given to a whole supervised engine; each takes two starts."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return gguf_make.make(tmp_path_factory.mktemp("models") / "base.gguf").read_bytes()


def mutants(base: bytes) -> Iterator[bytes]:
    known, end = gguf_mutate.fields(base)
    choose = random.Random(SEED)
    for _ in range(N_MUTANTS):
        yield gguf_mutate.mutant(base, known, end, choose)


def judge(data: bytes) -> str:
    """What the header check says; empty when it passes."""
    try:
        ggufcheck.check(io.BytesIO(data), len(data), "mutant.gguf")
    except ModelFileError as error:
        return error.message
    return ""


def probe(paths: Sequence[Path]) -> dict[Path, str]:
    """Load each file in a child; one that ends it costs a new child, which goes on behind it."""
    came: dict[Path, str] = {}
    rest = list(paths)
    while rest:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fakes.probe_child"],
            input="".join(f"{path}\n" for path in rest),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        words = done.stdout.split()
        came.update(zip(rest, words, strict=False))
        rest = rest[len(words) :]
        if rest:
            came[rest[0]] = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
            rest = rest[1:]
    return came


class Judged(NamedTuple):
    """What the header check made of them."""

    said: Counter[str]
    passing: dict[bytes, Path]
    """The different ones it lets through, as files."""


@pytest.fixture(scope="module")
def judged(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("passing")
    found = Judged(Counter(), {})
    for data in mutants(base):
        words = judge(data)
        found.said[words] += 1
        if not words and data != base and data not in found.passing:
            found.passing[data] = folder / f"{len(found.passing)}.gguf"
            found.passing[data].write_bytes(data)
    return found


@pytest.mark.slow
def test_ten_thousand_mutated_headers(judged: Judged) -> None:
    assert judged.said.total() == N_MUTANTS
    assert judged.said.total() - judged.said[""] > N_MUTANTS // 2
    for words in judged.said:
        assert words == "" or words.startswith("mutant.gguf is not a usable GGUF file: ")
        assert words.isprintable()


@pytest.mark.slow
async def test_those_that_pass_end_a_child_and_no_more(base: bytes, judged: Judged, tmp_path: Path) -> None:
    passing = judged.passing
    came = await trio.to_thread.run_sync(probe, list(passing.values()))
    outcomes = Counter(came.values())
    print(f"{len(passing)} different ones loaded in children: {dict(outcomes)}")
    clean = {"READY", *FailureCode.__members__}
    crashed = [path for path, word in came.items() if word not in clean]
    assert set(came) == set(passing.values())
    assert {came[path] for path in crashed} <= {"SIGABRT", "SIGSEGV", "SIGFPE", "SIGBUS"}
    assert len(crashed) < len(passing) // 20  # the header check is to catch most of what ends a process
    assert outcomes["READY"] > 100
    for path in crashed[:MAX_WHOLE_ENGINES]:
        await _fails_with_words(path)
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(base)
    async with running(EngineSpec(alias="whole", backend="llama", source=str(whole))) as side:
        assert len((await side.ask(chat("hi", max_tokens=2))).tokens) <= 2


async def _fails_with_words(path: Path) -> None:
    side = EntrySide(EngineSpec(alias="bad", backend="llama", source=str(path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        await side.wait_until("failed", "ready", timeout_s=60)
        status = side.engine.status()
        if status.state == "failed":
            assert "the file is damaged" in status.detail
            assert not status.engine_key
        nursery.cancel_scope.cancel()
