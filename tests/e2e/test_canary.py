"""The canary: a prompt is in the engine's memory and nowhere else on the providing side, in any spelling."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcd.engine.catalogue import embedded_path
from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves
from tests.e2e.conftest import client_of, never_ends
from tests.e2e.memory import engine_pids, readable_engine, search, spellings

LONG = 1500
MAX_ASKED = 5
"""On a busy machine an answer may be over before we look."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with local_mesh() as running:
        yield running


def start(mesh: LocalMesh) -> tuple[Peer, Peer, Peer]:
    provider = mesh.start("provider", "--cpu", "--log-level", "debug", env=readable_engine(mesh.folder))
    provider.wait(serves, "serving")
    third = mesh.start("third", "--log-level", "debug")
    entry = mesh.start("entry", "--log-level", "debug")
    entry.wait(lambda status: status["n_models"] >= 1 and status["n_peers"] >= 2, "aware of the provider")
    return provider, third, entry


def engine_pid(provider: Peer) -> int:
    children = psutil.Process(provider.pid).children()  # its own children run the chat template
    workers = [child.pid for child in children if "mcd.engine.worker" in " ".join(child.cmdline())]
    assert len(workers) == 1, [child.cmdline() for child in children]
    return workers[0]


def token_ids(text: str) -> list[int]:
    """The canary's inner token ids by the model's own tokenizer (its edges depend on the neighbours)."""
    code = (
        "import sys, llama_cpp, json\n"
        "llama = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)\n"
        "print(json.dumps(llama.tokenize(sys.argv[2].encode(), add_bos=False)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(embedded_path()), text], capture_output=True, check=True)
    ids: list[int] = json.loads(done.stdout)
    return ids[2:-2]


def files_of(peer: Peer, folder: Path) -> bytes:
    """Everything a peer wrote: its home and its log."""
    parts = [path.read_bytes() for path in sorted(peer.home.rglob("*")) if path.is_file()]
    return b"\0".join([*parts, peer.log_path.read_bytes()])


def content(path: Path) -> bytes:
    """What a file holds; nothing when whoever made it has removed it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def seen_at_work(
    provider: Peer, others: Sequence[Peer], ask: Callable[[], Iterator[Any]], needles: dict[str, bytes]
) -> tuple[set[str], dict[str, set[str]]]:
    """What is in the engine's memory while it answers, and what in that of ``others`` meanwhile."""
    worker = engine_pid(provider)
    in_engine: set[str] = set()
    for _ in range(MAX_ASKED):
        stream = ask()
        next(stream)
        os.kill(worker, signal.SIGSTOP)
        try:
            in_engine = search(worker, needles)
            elsewhere = {peer.name: search(peer.pid, needles) for peer in others}
        finally:
            os.kill(worker, signal.SIGCONT)
        for _ in stream:
            pass
        if in_engine:
            break
    return in_engine, elsewhere


def test_a_prompt_is_in_the_engine_and_nowhere_else(mesh: LocalMesh) -> None:
    provider, third, entry = start(mesh)
    canary = f"kanarie {secrets.token_hex(12)} vogel"
    needles = spellings(canary, token_ids(canary))
    print("the canary:", canary)
    before = set(Path(tempfile.gettempdir()).iterdir())
    bias = never_ends()
    with client_of(entry, 120) as client:

        def ask() -> Iterator[Any]:
            return iter(
                client.chat.completions.create(
                    model="modelcloud-nano",
                    messages=[{"role": "user", "content": f"Remember {canary} and tell me everything about mcd."}],
                    stream=True,
                    max_tokens=LONG,
                    tools=[{"type": "function", "function": {"name": "sing", "description": f"Sing of {canary}."}}],
                    extra_body={"logit_bias": bias},
                )
            )

        in_engine, in_flight = seen_at_work(provider, (provider, third), ask, needles)
    born = engine_pids(engine_pid(provider))[1:]
    assert len(born) == 3, "two for the template, one that forks compilers of schemas"
    assert [search(pid, needles) for pid in born] == [set()] * 3, "all was written and compiled; nobody needs it there"
    assert "utf-8" in in_engine, "the positive control failed: this test could not find a leak"
    assert in_flight == {"provider": set(), "third": set()}
    after = {peer.name: search(peer.pid, needles) for peer in (provider, third)}
    assert after == {"provider": set(), "third": set()}

    for peer in (provider, third):
        held = files_of(peer, mesh.folder)
        assert [name for name, needle in needles.items() if needle in held] == []
        metrics = urllib.request.urlopen(peer.url().removesuffix("/v1") + "/metrics", timeout=10).read()
        assert [name for name, needle in needles.items() if needle in metrics] == []
    assert [name for name, needle in needles.items() if needle in entry.log_path.read_bytes()] == []
    for process in psutil.process_iter(["cmdline", "pid"]):
        assert canary not in " ".join(process.info["cmdline"] or []), process.info["pid"]
    fresh = [path for path in Path(tempfile.gettempdir()).iterdir() if path not in before and path.is_file()]
    assert [path for path in fresh if any(needle in content(path) for needle in needles.values())] == []
