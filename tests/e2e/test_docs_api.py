"""The curl examples of docs/api.md, sent as they stand to a mesh whose models have the names they use.

Their few options are read here: a bare machine has no curl.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import httpx

from scripts.local_mesh import LocalMesh, serves
from tests.e2e.test_endpoints import wait_for
from tests.fakes.gguf_embed import RANK, make_encoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
NANO, EMBEDS, RANKS = "modelcloud-nano", "nomic-embed-text-v1.5", "bge-reranker-v2-m3"


def examples() -> list[str]:
    """Each command of each shell block."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [command for block in blocks for command in re.split(r"\n(?=curl )", block.strip())]


def curl(command: str, base: str) -> tuple[str, Any]:
    """What curl would do; the path asked for and the answer's JSON."""
    name, *words = shlex.split(command.replace("\\\n", " "))
    assert name == "curl"
    url, headers, data = "", {}, None
    while words:
        match words.pop(0):
            case "-H":
                key, _, value = words.pop(0).partition(": ")
                headers[key] = value
            case "-d":
                data = words.pop(0)
            case word:
                assert not word.startswith("-"), f"an option this test does not know: {word}"
                url = word
    path = url.removeprefix("http://localhost:8080")
    assert path.startswith("/")
    response = httpx.request("GET" if data is None else "POST", base + path, headers=headers, content=data, timeout=60)
    assert response.status_code == 200, (command, response.text)
    return path, response.json()


def test_examples_work(mesh: LocalMesh, tmp_path: Path) -> None:
    embeds = make_encoder(tmp_path / "a.gguf", name=EMBEDS)
    ranks = make_encoder(tmp_path / "b.gguf", name=RANKS, pooling=RANK)
    entry = mesh.start("entry")
    for name, model in (("ada", str(embeds)), ("bob", str(ranks)), ("cyd", NANO)):
        mesh.start(name, "--cpu", "--model", model).wait(serves, "serving")
    wait_for(entry, NANO, EMBEDS, RANKS)
    base = entry.url().removesuffix("/v1")
    found: dict[str, list[Any]] = {}
    for example in examples():
        path, answer = curl(example, base)
        found.setdefault(path, []).append(answer)
    assert {model["id"] for model in found["/v1/models"][0]["data"]} == {NANO, EMBEDS, RANKS}
    assert found["/v1/chat/completions"][0]["choices"][0]["message"]["content"]
    assert found["/v1/completions"][0]["choices"][0]["text"]
    assert len(found["/v1/embeddings"][0]["data"]) == 2
    assert len(found["/v1/rerank"][0]["results"]) == 2
    text, conversation = found["/tokenize"]
    assert conversation["count"] > text["count"] == len(text["tokens"]) > 0
    assert found["/detokenize"][0]["content"]
