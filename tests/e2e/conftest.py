"""Real processes for every test of this folder, stopped by process id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest
from openai import OpenAI

from mcd.engine.catalogue import embedded_path
from scripts.local_mesh import LocalMesh, Peer, local_mesh


@pytest.fixture
def mesh() -> Iterator[LocalMesh]:
    """A mesh of its own for one test."""
    with local_mesh() as running:
        yield running


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a script for the scripted engine and return the value of ``--engine``."""

    def write(*rules: dict[str, object], alias: str = "play", name: str = "script.json") -> str:
        path = tmp_path / name
        path.write_text(json.dumps({"alias": alias, "rules": list(rules)}))
        return f"scripted:{path}"

    return write


def client_of(peer: Peer, timeout_s: float = 30.0) -> OpenAI:
    """The official client, without its own retries: a test wants to see the first answer."""
    return OpenAI(base_url=peer.url(), api_key="none", max_retries=0, timeout=timeout_s)


def never_ends() -> dict[str, int]:
    """A bias against the tokens that end an answer: the model may be done before its first frame leaves."""
    fields = gguf.GGUFReader(embedded_path()).fields
    return {str(fields[f"tokenizer.ggml.{name}_token_id"].contents()): -100 for name in ("bos", "eos")}
