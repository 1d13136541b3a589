"""Everything but chat over a real mesh: client, gateway, entry, sealed request, another peer's engine, and back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from scripts.local_mesh import LocalMesh, Peer, serves
from tests.e2e.conftest import client_of
from tests.e2e.test_mesh_lives import seconds_until
from tests.fakes.gguf_embed import MEAN, N_EMBD, RANK, make_encoder
from tests.fakes.llama_direct import Direct

TEXTS = ["what is a mesh", "the cat of the peer", "who is the dog"]
CHAT = "modelcloud-nano"


def post(entry: Peer, path: str, **body: Any) -> tuple[int, Any]:
    response = httpx2.post(entry.url().removesuffix("/v1") + path, json=body, timeout=30)
    return response.status_code, response.json()


def wait_for(entry: Peer, *names: str, n_providers: int = 1) -> None:
    def found() -> bool:
        served = {model["alias"]: model["n_providers"] for model in entry.read("models")}
        return all(served.get(name, 0) >= n_providers for name in names)

    assert seconds_until(found, 30) < 30


def test_every_endpoint_over_the_mesh(mesh: LocalMesh, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "embed.gguf", pooling=MEAN)
    ranker = make_encoder(tmp_path / "rank.gguf", pooling=RANK)
    entry = mesh.start("entry")
    for name, flags in (("ada", ("--model", str(encoder))), ("bob", ("--model", str(ranker))), ("cyd", ())):
        mesh.start(name, "--cpu", *flags).wait(serves, "serving")
    wait_for(entry, "tiny-bert-1", "tiny-bert-4", CHAT)
    listed = {model["id"]: model["capabilities"] for model in httpx2.get(f"{entry.url()}/models").json()["data"]}
    assert listed["tiny-bert-1"] == ["embeddings", "tokenize"]
    assert listed["tiny-bert-4"] == ["rerank", "tokenize"]
    assert {"chat", "tokenize"} <= set(listed[CHAT])

    direct = Direct(encoder, MEAN)
    expected = [direct.pooled(direct.tokens(text), N_EMBD) for text in TEXTS]
    with client_of(entry) as client:
        for how in ({}, {"encoding_format": "float"}):
            answer = client.embeddings.create(model="tiny-bert-1", input=TEXTS, **how)  # type: ignore[arg-type]
            assert answer.usage.prompt_tokens == sum(len(direct.tokens(text)) for text in TEXTS)
            for item, wanted in zip(answer.data, expected, strict=True):
                found = np.array(item.embedding)
                assert found @ wanted / np.linalg.norm(wanted) > 0.9999
        many = client.embeddings.create(model="tiny-bert-1", input=[direct.tokens(text) for text in TEXTS] * 200)
        assert len(many.data) == 600
        assert np.allclose(many.data[4].embedding, answer.data[1].embedding, atol=1e-2)
        direct.close()

        status, ranked = post(entry, "/v1/rerank", model="tiny-bert-4", query="mesh", documents=TEXTS, top_n=2)
        assert status == 200
        scores = [result["relevance_score"] for result in ranked["results"]]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)

        _, tokens = post(entry, "/tokenize", model=CHAT, content="What is mcd?")
        _, text = post(entry, "/detokenize", model=CHAT, tokens=tokens["tokens"])
        assert text["content"] == "What is mcd?"
        messages = [{"role": "user", "content": "What is mcd?"}]
        _, counted = post(entry, "/v1/tokenize", model=CHAT, messages=messages)
        chat = client.chat.completions.create(model=CHAT, messages=messages, max_tokens=1)  # type: ignore[arg-type]
        assert chat.usage is not None
        assert counted["count"] == chat.usage.prompt_tokens > tokens["count"]

        answered = client.chat.completions.create(model=CHAT, messages=messages, max_tokens=12)  # type: ignore[arg-type]
        plain = client.completions.create(model=CHAT, prompt=counted["tokens"], max_tokens=12)
        assert plain.choices[0].text == answered.choices[0].message.content
        assert plain.usage is not None
        assert plain.usage.prompt_tokens == counted["count"]
        with pytest.raises(openai.BadRequestError, match=f"use a model that does completions: {CHAT}"):
            client.completions.create(model="tiny-bert-1", prompt="hello")

        with pytest.raises(openai.BadRequestError) as wrong:
            client.embeddings.create(model=CHAT, input="hello")
        assert wrong.value.code == "unsupported_parameter"
        assert "use a model that does embeddings: tiny-bert-1" in str(wrong.value)
        with pytest.raises(openai.BadRequestError, match=f"use a model that does chat: {CHAT}"):
            client.chat.completions.create(model="tiny-bert-1", messages=messages)  # type: ignore[arg-type]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="nobody", input="hello")
        with pytest.raises(openai.BadRequestError) as long:
            client.embeddings.create(model="tiny-bert-1", input=["hello", "cat " * 500])
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "input[1]")
    for peer in mesh.peers:
        assert "mesh of" not in peer.log()
        assert TEXTS[1] not in peer.log()


def test_the_next_provider_answers_when_one_is_killed(mesh: LocalMesh, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "embed.gguf")
    entry = mesh.start("entry")
    providers = [mesh.start(name, "--cpu", "--model", str(encoder)) for name in ("ada", "bob")]
    by_id = {provider.wait(serves, "serving")["peer_id"]: provider for provider in providers}
    wait_for(entry, "tiny-bert-1", n_providers=2)
    texts = [f"{text} {n} {'cat ' * 100}" for n in range(300) for text in TEXTS]

    def busy() -> Peer | None:
        return next((p for p in by_id.values() if p.read("status")["engines"][0]["n_running"]), None)

    with client_of(entry) as client, ThreadPoolExecutor(1) as pool:
        whole = client.embeddings.create(model="tiny-bert-1", input=texts)
        later = pool.submit(client.embeddings.with_raw_response.create, model="tiny-bert-1", input=texts)
        while (victim := busy()) is None:
            assert not later.done(), "the engine was never seen at work"
        victim.kill()
        again = later.result(timeout=60)
    assert by_id[again.headers["x-mcd-peer"]] is not victim
    answer = again.parse()
    assert answer.usage.prompt_tokens == whole.usage.prompt_tokens
    assert [item.index for item in answer.data] == list(range(len(texts)))
    found, wanted = (np.array([item.embedding for item in one.data]) for one in (answer, whole))
    assert (found * wanted).sum(axis=1).min() > 0.999
