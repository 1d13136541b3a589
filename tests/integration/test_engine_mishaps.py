"""What goes wrong in one request ends that one, once, and nobody else's. In this process, on a real model."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mcd.api.request import CompletionRequest
from mcd.api.tasks import EmbeddingsRequest
from mcd.engine import abi, llama
from mcd.engine.backend import Job, Task
from mcd.engine.compiling import Compiling
from mcd.engine.embed import EmbedBackend
from mcd.engine.encoder import Item, Vector
from mcd.engine.llama import LlamaBackend
from mcd.engine.load import open_llama
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Model
from mcd.engine.rendering import Rendering
from mcd.engine.roles import role_of
from mcd.engine.sampler import DEAD_END, Sampler
from mcd.errors import UserError
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import Part, Vectors
from tests.fakes import gguf_embed, gguf_make
from tests.fakes.engine_entry import chat
from tests.integration.test_engine_resume import Shown, answer


class Ends(Shown):
    """Takes every end there is."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[object] = []
        self.vectors: list[bytes] = []

    def part(self, part: Part) -> None:
        assert isinstance(part, Vectors)
        self.vectors += part.vectors

    def failed(self, error: UserError) -> None:
        self.ends.append(error.code)

    def broken(self, code: int) -> None:
        self.ends.append(code)

    def refused(self, reason: RefuseReason) -> None:
        self.ends.append(reason)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    path = gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf", n_ctx=512)
    backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=3), Rendering.start(), Compiling.start())
    yield backend
    backend.close()


def ends(engine: LlamaBackend, n: int) -> list[object]:
    shown = Ends()
    engine.submit(Job(1, chat("hello", temperature=1.0, seed=1, max_tokens=20, n=n), shown))
    while not shown.ends:
        select.select(engine.wakers(), [], [], engine.wait_s(0.0))
        engine.step(0.0)
    for _ in range(3):
        engine.step(0.0)
    return shown.ends


@pytest.mark.parametrize("n", [1, 3])
def test_choices_that_cannot_go_on_in_one_step_end_their_request_once(
    engine: LlamaBackend, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """The second one's end came when the first had ended the request already, and ended the process."""
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", lambda self, context, row: DEAD_END)
        assert len(ends(engine, n)) == 1
    assert answer(engine, chat("hello", max_tokens=5)).end is not None


def test_a_bug_before_the_first_choice_ends_that_request_alone(
    engine: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_limit", fails)
        assert ends(engine, 1) == [FailureCode.INTERNAL]
    assert answer(engine, chat("hello", max_tokens=5)).end is not None


def run(engine: LlamaBackend, sink: Ends) -> None:
    while not (sink.ends or sink.end):
        select.select(engine.wakers(), [], [], engine.wait_s(0.0))
        engine.step(0.0)


@pytest.mark.parametrize(("bound", "most"), [("MAX_WAITING", 2), ("MAX_WAITING_BYTES", 20)])
@pytest.mark.parametrize("how", ["ended", "cancelled", "failed"])
def test_what_waits_is_bounded_and_whatever_its_end_makes_room(
    engine: LlamaBackend, monkeypatch: pytest.MonkeyPatch, bound: str, most: int, how: str
) -> None:
    monkeypatch.setattr(llama, bound, most)
    for _ in range(3):  # what is not given back adds up
        sinks = [Ends() for _ in range(3)]
        for index, sink in enumerate(sinks):
            words = "long " * 600 if how == "failed" else "hi"
            engine.submit(Job(index, chat(words, max_tokens=2), sink, size_bytes=10))
        assert [sink.ends for sink in sinks] == [[], [], [RefuseReason.BUSY]]
        for index, sink in enumerate(sinks[:2]):
            if how == "cancelled":
                engine.cancel(index)
            else:
                run(engine, sink)
    assert engine.load() == (0, 0)


@pytest.mark.parametrize("bad", [np.full(gguf_embed.N_EMBD, np.nan, np.float32), None])
def test_a_vector_that_is_none_ends_its_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Vector | None
) -> None:
    path = gguf_embed.make_encoder(tmp_path / "encoder.gguf")
    model = Model(abi.load_library(), str(path))
    role = role_of(model)
    assert role is not None
    backend = EmbedBackend(model, role, EngineOptions(n_threads=1))
    encoder = backend._encoder
    compute = encoder.compute

    def spoiled() -> list[tuple[Item, Vector | None]]:
        return [(item, bad if (item.task_id, item.index) == (1, 1) else vector) for item, vector in compute()]

    monkeypatch.setattr(encoder, "compute", spoiled)
    sinks = [Ends(), Ends()]
    for index, sink in enumerate(sinks):
        request = EmbeddingsRequest(model="m", inputs=("one", "two", "three"))
        backend.submit_task(Task(index, request, sink, size_bytes=100))
    while not all(sink.ends or sink.end for sink in sinks):
        select.select(backend.wakers(), [], [], backend.wait_s(0.0))
        backend.step(0.0)
    assert (sinks[0].ends, len(sinks[0].vectors)) == ([], 3)
    assert sinks[1].ends == [FailureCode.COMPUTE]
    assert sinks[1].end is None
    assert backend.load() == (0, 0)
    backend.close()


def test_who_runs_has_room_for_its_whole_answer_and_nobody_overtakes(tmp_path: Path) -> None:
    """Of 350 cells two requests of 200 have one after the other; a small one would fit beside either, and waits."""
    path = gguf_make.make(tmp_path / "tiny.gguf", text_only=True)
    options = EngineOptions(n_threads=1, n_slots=4, n_ctx=256, n_cells=350)
    backend = open_llama(str(path), options, Rendering.start(), Compiling.start())
    assert isinstance(backend, LlamaBackend)
    sinks = [Ends() for _ in range(3)]
    for index, (sink, n_tokens) in enumerate(zip(sinks, (200, 200, 20), strict=True)):
        prompt = (97,) * (n_tokens // 4)
        asked = CompletionRequest(model="m", prompt=prompt, max_tokens=n_tokens - len(prompt), temperature=0.0)
        backend.submit(Job(index, asked, sink))
        while backend._prompts.n_open:  # in this order, though the smallest is tokenised first
            select.select(backend.wakers(), [], [], backend.wait_s(0.0))
            backend.step(0.0)
    order: list[int] = []
    while len(order) < 3:
        select.select(backend.wakers(), [], [], backend.wait_s(0.0))
        backend.step(0.0)
        large = [i for i in (0, 1) if sinks[i].pieces and not sinks[i].end]
        assert len(large) <= 1
        assert not sinks[2].pieces or sinks[1].pieces
        order += [i for i, sink in enumerate(sinks) if sink.end and i not in order]
    assert [len(sink.tokens) for sink in sinks] == [150, 150, 15]
    assert all(sink.ends == [] for sink in sinks)
    backend.close()


def test_vectors_come_in_the_order_of_their_texts_and_a_cancelled_one_computes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is computed first, and whoever leaves while the others' texts share the step."""
    model = Model(abi.load_library(), str(gguf_embed.make_encoder(tmp_path / "encoder.gguf")))
    role = role_of(model)
    assert role is not None
    backend = EmbedBackend(model, role, EngineOptions(n_threads=1))
    compute, shown = backend._encoder.compute, []
    texts = ("one", "two", "three", "four")
    for is_reversed in (False, True):
        with monkeypatch.context() as patch:
            if is_reversed:
                patch.setattr(backend._encoder, "compute", lambda: compute()[::-1])
            sink = Ends()
            backend.submit_task(Task(1, EmbeddingsRequest(model="m", inputs=texts), sink, size_bytes=10))
            while not sink.end:
                select.select(backend.wakers(), [], [], backend.wait_s(0.0))
                backend.step(0.0)
        shown.append(sink.vectors)
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == len(texts)
    monkeypatch.setattr(backend._encoder, "compute", list)
    backend.submit_task(Task(2, EmbeddingsRequest(model="m", inputs=texts * 500), Ends(), size_bytes=10))
    while not backend._encoder.has_work():
        select.select(backend.wakers(), [], [], backend.wait_s(0.0))
        backend.step(0.0)
    backend.cancel(2)
    assert not backend._encoder.has_work()
    backend.close()
