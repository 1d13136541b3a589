"""Peers come, serve, fail and go: what the others see, and how soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import APIStatusError, NotFoundError

from scripts.local_mesh import LocalMesh, Peer, serves
from tests.e2e.conftest import client_of

GONE_S = 10.0
"""A killed or frozen peer leaves the directory within this."""
HELLO = {"text": "Hello from the mesh."}


def ask(entry: Peer, content: str = "hi") -> str:
    with client_of(entry) as client:
        answer = client.chat.completions.create(model="play", messages=[{"role": "user", "content": content}])
    return answer.choices[0].message.content or ""


def peer_ids(entry: Peer) -> set[str]:
    return {peer["peer_id"] for peer in entry.read("peers")}


def seconds_until(holds: Callable[[], bool], limit_s: float) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit_s, f"did not happen in {limit_s} s"
        time.sleep(0.05)
    return time.monotonic() - began


def start_two(mesh: LocalMesh, engine: str) -> tuple[Peer, dict[str, Peer]]:
    entry = mesh.start("entry")
    providers = [mesh.start(name, "--cpu", "--engine", engine) for name in ("ada", "bob")]
    by_id = {provider.wait(serves, "serving")["peer_id"]: provider for provider in providers}
    seconds_until(lambda: any(model["n_providers"] == 2 for model in entry.read("models")), 20)
    return entry, by_id


@pytest.mark.timed
def test_kill_freeze_and_leave_are_seen_in_time(mesh: LocalMesh, script: Callable[..., str]) -> None:
    entry, by_id = start_two(mesh, script(HELLO))
    (killed_id, killed), (frozen_id, frozen) = by_id.items()
    third = mesh.start("cy")
    third_id = third.read("status")["peer_id"]
    seconds_until(lambda: third_id in peer_ids(entry), 10)

    took_s = third.stop()
    assert third.process.returncode == 0
    assert took_s < 3
    assert seconds_until(lambda: third_id not in peer_ids(entry), 3) < 3

    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        killed.kill()
        seconds_until(lambda: killed_id not in peer_ids(entry), GONE_S)
        seconds_until(lambda: frozen_id not in peer_ids(entry), GONE_S)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    seconds_until(lambda: frozen_id in peer_ids(entry), 20)
    assert ask(entry) == HELLO["text"]


def test_next_request_after_kill_is_served_by_the_other(mesh: LocalMesh, script: Callable[..., str]) -> None:
    entry, by_id = start_two(mesh, script(HELLO))
    with client_of(entry) as client:
        raw = client.chat.completions.with_raw_response
        served_by = raw.create(model="play", messages=[{"role": "user", "content": "hi"}]).headers["x-mcd-peer"]
    by_id[served_by].kill()
    assert ask(entry) == HELLO["text"]


@pytest.mark.parametrize(
    "fault", [{"refuse": "BUSY"}, {"text": "x", "die_at_token": 0}, {"text": "x", "break_at_token": 0}]
)
def test_a_provider_that_fails_before_the_first_token_is_passed_over(
    mesh: LocalMesh, script: Callable[..., str], fault: dict[str, object]
) -> None:
    entry = mesh.start("entry")
    bad = mesh.start("bad", "--cpu", "--engine", script({"match": "hi", **fault}, HELLO, name="bad.json"))
    good = mesh.start("good", "--cpu", "--engine", script(HELLO, name="good.json"))
    for provider in (bad, good):
        provider.wait(serves, "serving")
    seconds_until(lambda: any(model["n_providers"] == 2 for model in entry.read("models")), 20)
    assert [ask(entry) for _ in range(4)] == [HELLO["text"]] * 4


def test_an_answer_survives_its_provider_token_exactly(mesh: LocalMesh, script: Callable[..., str]) -> None:
    words = " ".join(f"w{index}" for index in range(60))
    entry, by_id = start_two(mesh, script({"text": words, "tokens_per_s": 20}))
    text = ""
    question: Any = [{"role": "user", "content": "hi"}]
    with (
        client_of(entry) as client,
        client.chat.completions.create(model="play", messages=question, stream=True) as stream,
    ):
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text.endswith("w9"):
                running = [p for p in by_id.values() if p.read("status")["engines"][0]["n_running"]]
                for provider in running:
                    provider.kill()
    assert text == words


def test_client_that_leaves_frees_the_slot(mesh: LocalMesh, script: Callable[..., str]) -> None:
    entry = mesh.start("entry")
    provider = mesh.start("ada", "--cpu", "--engine", script({"text": "word ", "repeat": 5000, "tokens_per_s": 50}))
    provider.wait(serves, "serving")
    seconds_until(lambda: bool(entry.read("models")), 20)
    body = {"model": "play", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with httpx.Client(timeout=20) as http, http.stream("POST", f"{entry.url()}/chat/completions", json=body) as answer:
        lines = answer.iter_lines()  # httpx hangs up when this is collected
        next(line for line in lines if "word" in line)
        seconds_until(lambda: provider.read("status")["engines"][0]["n_running"] == 1, 3)
        del lines
    seconds_until(lambda: provider.read("status")["engines"][0]["n_running"] == 0, 3)


def test_unknown_model_is_404_and_no_provider_503(mesh: LocalMesh, script: Callable[..., str]) -> None:
    entry = mesh.start("entry")
    provider = mesh.start("ada", "--cpu", "--engine", script({"refuse": "BUSY"}))
    provider.wait(serves, "serving")
    seconds_until(lambda: bool(entry.read("models")), 20)
    with client_of(entry) as client, pytest.raises(NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(APIStatusError) as busy:
        ask(entry)
    assert busy.value.status_code == 503
    assert float(busy.value.response.headers["retry-after"]) >= 0


def test_peer_that_knows_nobody_still_has_an_api(mesh: LocalMesh) -> None:
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/" + "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    lonely = Peer(mesh.folder, "lonely", bootstrap=[nobody])
    mesh.peers.append(lonely)
    status = lonely.wait(lambda status: True, "running")
    assert httpx.get(f"http://{status['http']}/health", timeout=5).status_code == 200
    status = lonely.wait(lambda status: bool(status["warnings"]), "aware that nobody answers")
    assert nobody in status["warnings"][0]
    checks = {line["check"]: line for line in lonely.read("doctor")}
    assert checks["mesh"]["state"] == "warn"
    assert nobody in checks["mesh"]["detail"]
