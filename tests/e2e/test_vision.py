"""Pictures through the official client over a real mesh: seen, routed to who sees, refused, and kept from everybody."""

from __future__ import annotations

import base64
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves
from tests.e2e.conftest import client_of
from tests.e2e.memory import readable_engine, search
from tests.e2e.test_canary import files_of, seen_at_work
from tests.fakes import gguf_mmproj
from tests.fakes.pictures import data_url, picture, pixels

MODEL = "tiny-qwen2vl"


class Places:
    """Who is in the mesh. Owner: the module's fixture."""

    def __init__(self, mesh: LocalMesh, folder: Path) -> None:
        path = gguf_mmproj.make(folder, "qwen2vl", seed=3)
        (folder / "blind").mkdir()
        blind = shutil.copy(path, folder / "blind")
        env = readable_engine(mesh.folder)
        self.mesh = mesh
        self.sees = mesh.start("sees", "--cpu", "--model", str(path), "--log-level", "debug", env=env)
        self.blind = mesh.start("blind", "--cpu", "--model", str(blind), "--model", "modelcloud-nano")
        self.entry = mesh.start("entry", "--log-level", "debug")
        for provider in (self.sees, self.blind):
            provider.wait(serves, "serving")
        self.entry.wait(lambda status: status["n_models"] >= 2 and status["n_peers"] >= 2, "aware of both")
        self.client = client_of(self.entry, 120)
        until = time.monotonic() + 30
        while not any("vision" in model["capabilities"] for model in self.entry.read("models")):
            assert time.monotonic() < until, "nobody announces vision"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with local_mesh() as mesh:
        made = Places(mesh, tmp_path_factory.mktemp("models"))
        with made.client:
            yield made


def asked(client: OpenAI, *parts: Any, model: str = MODEL, **members: Any) -> Any:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    members = {"temperature": 0, "max_tokens": 16, **members}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **members)


def part(seed: int, kind: str = "png", **members: Any) -> dict[str, Any]:
    url = data_url(picture(seed, kind=kind.upper()), kind)
    return {"type": "image_url", "image_url": {"url": url, **members}}


@pytest.mark.spec("ENV-44", "REC-09")
def test_pictures_go_to_the_provider_that_sees(places: Places) -> None:
    """Its alias has a blind twin: the same file without a projector."""
    cards = {model.id: model.model_extra or {} for model in places.client.models.list()}
    assert "vision" in cards[MODEL]["capabilities"]
    seen = {
        seed: [asked(places.client, "see ", part(seed), " now", logprobs=True).choices[0] for _ in range(3)]
        for seed in (1, 2)
    }
    chances = {seed: [[t.logprob for t in c.logprobs.content] for c in choices] for seed, choices in seen.items()}
    assert chances[1][0] == pytest.approx(chances[1][1], abs=0.01)
    assert chances[1][0] != pytest.approx(chances[2][0], abs=0.01)
    assert asked(places.client, "only words").choices[0].message.content


def test_whole_and_streamed_answers_and_kinds_agree(places: Places) -> None:
    whole = asked(places.client, "see ", part(1, detail="high"), " and ", part(2), " now")
    stream = asked(places.client, "see ", part(1), " and ", part(2, detail="auto"), " now", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == (
        whole.choices[0].message.content
    )
    png, webp = (asked(places.client, "see ", part(1, kind)).choices[0].message.content for kind in ("png", "gif"))
    assert png
    assert webp
    usage = whole.usage
    assert usage.prompt_tokens > 60


@pytest.mark.spec("GW-16", "GW-41")
def test_what_cannot_be_seen_is_a_400_that_says_what_to_do(places: Places) -> None:
    refused = {
        "https": ({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}, MODEL),
        "blind": (part(1), "modelcloud-nano"),
        "damaged": ({"type": "image_url", "image_url": {"url": data_url(b"no picture")}}, MODEL),
    }
    errors: dict[str, Any] = {}
    for name, (shown, model) in refused.items():
        with pytest.raises(BadRequestError) as caught:
            asked(places.client, "see ", shown, model=model)
        errors[name] = caught.value.body
    assert errors["https"]["param"] == "messages[0].content[1].image_url.url"
    assert "data:image/png;base64" in errors["https"]["message"]
    assert errors["blind"]["param"] == "model"
    assert MODEL in errors["blind"]["message"]
    assert errors["damaged"]["param"] == "messages[0].content"
    with pytest.raises(BadRequestError, match="context") as caught:
        asked(places.client, *[part(seed) for seed in range(3, 19)], "x" * 3000)
    assert caught.value.code == "context_length_exceeded"


def spelt(seed: int, file: bytes) -> dict[str, bytes]:
    text, row = base64.b64encode(file), pixels(seed)[5]
    floats = row.astype(np.float32) / np.float32(255.0)
    return {
        "base64": text[400:460],
        "file": file[300:345],
        "pixels": row.tobytes()[:60],
        "numbers": floats.tobytes()[:96],
        "numbers of one colour": np.ascontiguousarray(floats[:, 0]).tobytes()[:96],
    }


def test_a_picture_is_in_the_engine_and_nowhere_else(places: Places) -> None:
    seed = secrets.randbits(60)
    print("the picture's seed:", seed)
    needles = spelt(seed, picture(seed))
    peers: list[Peer] = [places.sees, places.blind]
    in_engine, in_flight = seen_at_work(
        places.sees, peers, lambda: iter(asked(places.client, "see ", part(seed), stream=True, max_tokens=600)), needles
    )
    assert {"numbers", "numbers of one colour"} & in_engine, "the positive control failed"
    assert in_flight == {"sees": set(), "blind": set()}
    for peer in peers:
        held = files_of(peer, places.mesh.folder)
        assert [name for name, needle in needles.items() if needle in held] == []
        assert search(peer.pid, needles) == set()
    assert [name for name, needle in needles.items() if needle in places.entry.log_path.read_bytes()] == []
