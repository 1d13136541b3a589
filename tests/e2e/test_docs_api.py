"""The curl examples of docs/api.md, run as they stand against a mesh whose models have the names they use."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from scripts.local_mesh import LocalMesh, serves
from tests.e2e.test_endpoints import wait_for
from tests.fakes.gguf_embed import RANK, make_encoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
NANO, EMBEDS, RANKS = "modelcloud-nano", "nomic-embed-text-v1.5", "bge-reranker-v2-m3"


def examples() -> list[str]:
    """Each command of each shell block."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [command for block in blocks for command in re.split(r"\n(?=curl )", block.strip())]


def test_examples_work(mesh: LocalMesh, tmp_path: Path) -> None:
    embeds = make_encoder(tmp_path / "a.gguf", name=EMBEDS)
    ranks = make_encoder(tmp_path / "b.gguf", name=RANKS, pooling=RANK)
    entry = mesh.start("entry")
    for name, model in (("ada", str(embeds)), ("bob", str(ranks)), ("cyd", NANO)):
        mesh.start(name, "--cpu", "--model", model).wait(serves, "serving")
    wait_for(entry, NANO, EMBEDS, RANKS)
    base = entry.url().removesuffix("/v1")
    found = {}
    for example in examples():
        command = example.replace("http://localhost:8080", base).replace("curl ", "curl -sS --fail-with-body ", 1)
        done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (example, done.stdout, done.stderr)
        path = re.search(r"8080(\S+)", example)
        assert path is not None
        found.setdefault(path[1], []).append(json.loads(done.stdout))
    assert {model["id"] for model in found["/v1/models"][0]["data"]} == {NANO, EMBEDS, RANKS}
    assert found["/v1/chat/completions"][0]["choices"][0]["message"]["content"]
    assert len(found["/v1/embeddings"][0]["data"]) == 2
    assert len(found["/v1/rerank"][0]["results"]) == 2
    text, conversation = found["/tokenize"]
    assert conversation["count"] > text["count"] == len(text["tokens"]) > 0
    assert found["/detokenize"][0]["content"]
