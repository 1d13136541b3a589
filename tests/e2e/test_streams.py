"""A hundred paced streams through one entry: none lost, none cut, no token missing."""

from __future__ import annotations

from collections.abc import Callable

from scripts.local_mesh import LocalMesh, serves
from tests.bench import load
from tests.e2e.test_mesh_lives import seconds_until

N_STREAMS = 100
N_TOKENS = 200


def test_hundred_streams_of_fifty_tokens_a_second(mesh: LocalMesh, script: Callable[..., str]) -> None:
    entry = mesh.start("entry")
    provider = mesh.start("ada", "--cpu", "--engine", script({"text": " tok", "repeat": N_TOKENS, "tokens_per_s": 50}))
    provider.wait(serves, "serving")
    seconds_until(lambda: bool(entry.read("models")), 20)
    bodies = [load.body("play", "hi", stream=True)] * N_STREAMS
    result = load.run(entry.url(), bodies, N_STREAMS)
    assert (result.n_requests, result.n_failed, result.n_cut) == (N_STREAMS, 0, 0)
    status = entry.read("status")
    assert status["n_output_tokens"] == N_STREAMS * N_TOKENS
    assert provider.read("status")["engines"][0]["n_running"] == 0


def test_a_hundred_requests_at_once_to_ones_own_model_are_all_answered(mesh: LocalMesh) -> None:
    peer = mesh.start("ada", "--cpu")
    peer.wait(serves, "serving")
    bodies = [load.body("modelcloud-nano", f"Question {i}", stream=True, max_tokens=4) for i in range(N_STREAMS)]
    result = load.run(peer.url(), bodies, N_STREAMS)
    assert (result.n_requests, result.n_failed, result.n_cut) == (N_STREAMS, 0, 0)
