"""One entry floods a provider with long answers; another asks once. Real processes, real sockets."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from scripts.local_mesh import LocalMesh, Peer, serves
from tests.e2e.conftest import client_of
from tests.e2e.test_mesh_lives import seconds_until

ANSWER_S = 4.0


def first_token_s(peer: Peer, question: str) -> float:
    """Seconds to the first piece of an answer."""
    began = time.monotonic()
    with client_of(peer) as client, asked(client, question) as stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                return time.monotonic() - began
    raise AssertionError("no text came")


def asked(client: openai.OpenAI, question: str) -> openai.Stream[Any]:
    return client.chat.completions.create(model="play", messages=[{"role": "user", "content": question}], stream=True)


def flood(peer: Peer, stop: threading.Event) -> None:
    """Ask for one long answer after another."""
    with client_of(peer) as client:
        while not stop.is_set():
            try:
                with asked(client, "long") as stream:
                    for _ in stream:
                        if stop.is_set():
                            break
            except openai.OpenAIError:
                stop.wait(0.5)  # refused: more is open than one entry may have


def is_full(engine: dict[str, Any], n_held: int) -> bool:
    """Some wait, and one entry has all it may or more; between an end and the next start it has less."""
    return bool(engine["n_waiting"] and engine["n_running"] >= n_held)


@pytest.mark.spec("EX-33", "EX-34", "EX-35")
@pytest.mark.parametrize(("n_slots", "waits_s"), [(1, ANSWER_S), (4, 0.0)])
def test_a_second_entry_waits_for_one_end_at_most(
    mesh: LocalMesh, tmp_path: Path, n_slots: int, waits_s: float
) -> None:
    path = tmp_path / "script.json"
    rules = [{"match": "long", "text": " tok", "repeat": 80, "tokens_per_s": 80 / ANSWER_S}, {"text": " quick"}]
    path.write_text(json.dumps({"alias": "play", "n_slots": n_slots, "rules": rules}))
    provider = mesh.start("ada", "--cpu", "--engine", f"scripted:{path}")
    greedy, modest = mesh.start("greedy"), mesh.start("modest")
    provider.wait(serves, "serving")
    for entry in (greedy, modest):
        seconds_until(lambda entry=entry: bool(entry.read("models")), 20)  # type: ignore[misc]
    first_token_s(modest, "warm the link")
    stop = threading.Event()
    senders = [threading.Thread(target=flood, args=(greedy, stop)) for _ in range(30)]
    for sender in senders:
        sender.start()
    try:
        n_held = max(1, n_slots - n_slots // 4)
        full = provider.wait(lambda status: is_full(status["engines"][0], n_held), "full")
        assert full["engines"][0]["n_running"] == n_held
        assert first_token_s(modest, "quick") < waits_s + 2.0
    finally:
        stop.set()
        greedy.stop()  # ends what still waits
        for sender in senders:
            sender.join()
