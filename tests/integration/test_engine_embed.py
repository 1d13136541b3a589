"""Embeddings, rerank and tokens from real worker processes, compared with llama.cpp asked directly."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from mcd.api.tasks import DetokenizeRequest, EmbeddingsRequest, RerankRequest, TokenizeRequest
from mcd.engine import abi, encoder
from mcd.engine.backend import Task
from mcd.engine.catalogue import EngineSpec
from mcd.engine.compiling import Compiling
from mcd.engine.embed import EmbedBackend
from mcd.engine.life import STUCK_S
from mcd.engine.load import open_llama
from mcd.engine.messages import EngineOptions
from mcd.engine.model import Model
from mcd.engine.rendering import Rendering
from mcd.engine.roles import role_of
from mcd.engine.tidy import SCRUB_AFTER_S, WIPE_AFTER_S
from tests.fakes import gguf_make
from tests.fakes.engine_entry import Answer, EntrySide, chat, running
from tests.fakes.gguf_embed import (
    CLS,
    LAST,
    MEAN,
    N_CTX,
    N_EMBD,
    RANK,
    WORDS,
    YES_NO_TEMPLATE,
    make_encoder,
    make_yes_no_ranker,
)
from tests.fakes.llama_direct import Direct

ONE = EngineOptions(n_threads=1)
SIMILAR = 0.9999
PLAIN = [word for word in WORDS if not word.startswith("##")]


def texts(n: int, seed: int = 1, longest: int = 40) -> tuple[str, ...]:
    choose = random.Random(seed)
    return tuple(" ".join(choose.choices(PLAIN, k=choose.randint(1, longest))) for _ in range(n))


def embed(*inputs: str | tuple[int, ...], dimensions: int | None = None) -> EmbeddingsRequest:
    return EmbeddingsRequest(model="m", inputs=inputs, dimensions=dimensions)


def arrays(answer: Answer) -> list[np.ndarray]:
    return [np.frombuffer(vector, "<f4") for vector in answer.vectors]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def spec(path: Path) -> EngineSpec:
    return EngineSpec(alias="m", backend="llama", source=str(path))


def peak_kb(side: EntrySide) -> int:
    return int(Path(f"/proc/{side.engine.pid}/status").read_text().partition("VmHWM:")[2].split()[0])


def decoder(pooling: int) -> Callable[[Path], Path]:
    return lambda path: gguf_make.make(path, metadata={"llama.pooling_type": pooling})


MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "bert mean": (lambda path: make_encoder(path, pooling=MEAN), MEAN),
    "bert cls": (lambda path: make_encoder(path, pooling=CLS), CLS),
    "bert that does not say": (lambda path: make_encoder(path, pooling=None), MEAN),
    "nomic-bert mean": (lambda path: make_encoder(path, arch="nomic-bert"), MEAN),
    "decoder last": (decoder(LAST), LAST),
    "decoder mean": (decoder(MEAN), MEAN),
}


@pytest.mark.spec("ENV-35", "ENV-36")
@pytest.mark.parametrize("name", MODELS)
async def test_vectors_are_those_of_llama(name: str, tmp_path: Path) -> None:
    """All at once and one by one, in order, of length 1, whatever the pooling."""
    make, pooling = MODELS[name]
    path = make(tmp_path / "model.gguf")
    asked = texts(40)
    direct = Direct(path, pooling)
    expected = [direct.pooled(direct.tokens(text), N_EMBD) for text in asked]
    n_tokens = sum(len(direct.tokens(text)) for text in asked)
    direct.close()
    async with running(spec(path), ONE) as side:
        assert side.engine.status().capabilities == ("embeddings", "tokenize")
        answer = await side.ask(embed(*asked))
        for found, wanted in zip(arrays(answer), expected, strict=True):
            assert cosine(found, wanted) > SIMILAR
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
        for text, batched in list(zip(asked, arrays(answer), strict=True))[:6]:
            (alone,) = arrays(await side.ask(embed(text)))
            assert cosine(alone, batched) > SIMILAR
    assert answer.final is not None
    assert answer.receipt is not None
    assert answer.final.finish_reasons == ("stop",)
    usage, receipt = answer.final.usage, answer.receipt
    assert (usage.n_prompt_tokens, usage.n_output_tokens) == (n_tokens, 0)
    assert (receipt.n_prompt_tokens, receipt.n_output_tokens, answer.n_prompt_tokens) == (n_tokens, 0, n_tokens)
    assert answer.n_clear_tokens == 0


@pytest.mark.spec("ENV-35")
async def test_a_text_longer_than_a_step_is_computed_in_chunks(tmp_path: Path) -> None:
    """A causal model pooled at the last token: 500 rows, 256 a step, beside others."""
    path = decoder(LAST)(tmp_path / "model.gguf")
    long = tuple(random.Random(2).choices(range(256), k=500))
    direct = Direct(path, LAST)
    expected = direct.pooled(long, N_EMBD)
    direct.close()
    async with running(spec(path), ONE) as side:
        answer = await side.ask(embed("a", long, "b", long[:300]))
        assert cosine(arrays(answer)[1], expected) > SIMILAR
        too_long = await side.ask(embed("a", (7,) * 513))
    assert too_long.failure is not None
    assert (too_long.failure.code, too_long.failure.param) == ("context_length_exceeded", "input[1]")


def test_a_slow_machine_takes_shorter_texts_where_they_must_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2048 tokens at 40 a second were a step of 51 s, after which the daemon had long ended the process."""
    assert encoder.WHOLE_STEP_S * 2 < STUCK_S
    monkeypatch.setattr(encoder, "WHOLE_STEP_S", 1e-6)
    lib = abi.load_library()
    for path, n_ctx in (
        (make_encoder(tmp_path / "whole.gguf"), encoder.MIN_ROWS),
        (decoder(LAST)(tmp_path / "chunks.gguf"), 512),
    ):
        model = Model(lib, str(path))
        role = role_of(model)
        assert role is not None
        slow = encoder.Encoder(model, role, ONE, 1, 1 << 30)
        slow.measure()
        assert slow.n_ctx == n_ctx
        slow.close()
        model.close()


@pytest.mark.spec("ENV-35")
async def test_dimensions_cut_and_scale(tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model.gguf")
    async with running(spec(path), ONE) as side:
        (whole,) = arrays(await side.ask(embed("who is the cat")))
        (cut,) = arrays(await side.ask(embed("who is the cat", dimensions=10)))
        assert len(cut) == 10
        assert np.allclose(cut, whole[:10] / np.linalg.norm(whole[:10]), atol=1e-6)
        refused = await side.ask(embed("who", dimensions=N_EMBD + 1))
        foreign = await side.ask(embed("who", (10_000,)))
        long = await side.ask(embed(*texts(2), "cat " * (N_CTX + 1)))
    assert refused.failure is not None
    assert (refused.failure.code, refused.failure.param) == ("invalid_request", "dimensions")
    assert foreign.failure is not None
    assert foreign.failure.param == "input[1]"
    assert long.failure is not None
    assert (long.failure.code, long.failure.param) == ("context_length_exceeded", "input[2]")


@pytest.mark.spec("ENV-35")
async def test_scores_are_those_of_llama(tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model.gguf", pooling=RANK)
    query, documents = "what is the mesh", texts(30, seed=3)
    direct = Direct(path, RANK)
    cls, sep = direct.tokens("")[0], direct.tokens("")[-1]
    expected = []
    for document in documents:
        pair = [cls, *direct.tokens(query, special=False), sep, *direct.tokens(document, special=False)]
        expected.append(1 / (1 + math.exp(-float(direct.pooled(pair, 1)[0]))))
    direct.close()
    async with running(spec(path), ONE) as side:
        assert side.engine.status().capabilities == ("rerank", "tokenize")
        answer = await side.ask(RerankRequest(model="m", query=query, documents=documents))
        alone = [
            (await side.ask(RerankRequest(model="m", query=query, documents=(d,)))).scores[0] for d in documents[:5]
        ]
        too_long = await side.ask(RerankRequest(model="m", query=query, documents=("cat", "cat " * N_CTX)))
    assert alone == pytest.approx(expected[:5], abs=1e-5)
    # llama.cpp's attention rounds to half floats, in another order in another batch
    assert answer.scores == pytest.approx(expected, abs=5e-3)
    assert len(set(answer.scores)) > 20
    assert too_long.failure is not None
    assert too_long.failure.param == "documents[1]"


@pytest.mark.spec("ENV-35")
async def test_a_decoder_ranks_by_its_template(tmp_path: Path) -> None:
    """Two outputs, already probabilities; longer pairs than a step are computed in chunks."""
    path = make_yes_no_ranker(tmp_path / "model.gguf")
    documents = (*texts(10, seed=5, longest=12), "cat " * 100)
    direct = Direct(path, RANK)
    expected = []
    for document in documents:
        prompt = YES_NO_TEMPLATE.replace("{query}", "the mesh").replace("{document}", document)
        expected.append(float(direct.pooled(direct.tokens(prompt), 2)[0]))
    direct.close()
    async with running(spec(path), ONE) as side:
        assert side.engine.status().capabilities == ("rerank", "tokenize")
        answer = await side.ask(RerankRequest(model="m", query="the mesh", documents=documents))
    assert answer.scores == pytest.approx(expected, abs=5e-3)
    assert max(expected) - min(expected) > 0.05


async def test_a_long_query_is_refused_before_it_is_written_for_every_document(tmp_path: Path) -> None:
    """200 documents beside a query of a million tokens took 1.8 GB; a thousand would have taken 9."""
    path = make_encoder(tmp_path / "model.gguf", pooling=RANK)
    async with running(spec(path), ONE) as side:
        before_kb = peak_kb(side)
        answer = await side.ask(RerankRequest(model="m", query="cat " * 100_000, documents=("cat",) * 1000))
        assert peak_kb(side) - before_kb < 200_000
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.param) == ("context_length_exceeded", "documents[0]")


@pytest.mark.spec("ENV-34")
async def test_a_model_says_what_it_does_not_do(tmp_path: Path) -> None:
    pair = RerankRequest(model="m", query="q", documents=("d",))
    async with running(spec(make_encoder(tmp_path / "bert.gguf")), ONE) as side:
        answers = [await side.ask(chat("hello")), await side.ask(pair)]
    async with running(spec(gguf_make.make(tmp_path / "chat.gguf")), ONE) as side:
        answers += [await side.ask(embed("hello")), await side.ask(pair)]
        answers.append(await side.ask(chat("hello"), kind="images"))
        resumed = await side.ask(DetokenizeRequest(model="m", tokens=(1,)), resume=(1,))
    for answer in answers:
        assert answer.failure is not None
        assert (answer.failure.code, answer.failure.param) == ("unsupported_parameter", "kind")
    assert resumed.failure is not None
    assert resumed.failure.param == "resume"


async def test_files_that_neither_generate_nor_embed_are_refused(tmp_path: Path) -> None:
    for path, why in (
        (make_encoder(tmp_path / "labels.gguf", pooling=RANK, n_labels=5), "neither generates"),
        (make_encoder(tmp_path / "nan.gguf", nan=True), "NaN"),
    ):
        async with running(spec(path), ONE) as side:
            assert side.engine.status().state == "failed"
            assert why in side.engine.status().detail


async def test_a_short_request_overtakes_a_long_one(tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model.gguf")
    ended: list[str] = []

    async def ask(side: EntrySide, name: str, request: EmbeddingsRequest) -> None:
        answer = await side.ask(request)
        assert len(answer.vectors) == len(request.inputs)
        ended.append(name)

    async with running(spec(path), ONE) as side:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, side, "long", embed(*texts(2048)))
            while side.engine.status().n_running == 0:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.001)
            for name in ("one", "two"):
                nursery.start_soon(ask, side, name, embed("a cat"))
        assert sorted(ended[:2]) == ["one", "two"]
        assert side.engine.status().n_running == 0


def test_requests_take_turns_in_the_order_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_encoder(tmp_path / "model.gguf")
    backend = open_llama(str(path), ONE, Rendering.start(), Compiling.start())
    assert isinstance(backend, EmbedBackend)
    monkeypatch.setattr(backend._encoder, "_goal_rows", 1)  # a text a step
    served: list[str] = []
    for id, name in enumerate("abc"):
        sink = SimpleNamespace(
            started=lambda n_tokens: None,
            part=lambda part, name=name: served.append(name),
            finished=lambda reasons, usage, name=name: served.append(name.upper()),
        )
        backend._start(Task(id, embed("x"), sink), [[5, 6, 7]] * (3 - id))
    while backend.wait_s(0.0) == 0:
        backend.step(0.0)
    assert "".join(served) == "abcCabBaA"
    backend.close()


def test_what_texts_left_is_overwritten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token ids soon, the memory of a model that has one once nobody asks; neither again before another text."""
    path = decoder(LAST)(tmp_path / "model.gguf")
    backend = open_llama(str(path), ONE, Rendering.start(), Compiling.start())
    assert isinstance(backend, EmbedBackend)
    done: list[str] = []
    for name in ("scrub", "wipe"):
        call = getattr(backend._encoder, name)
        monkeypatch.setattr(backend._encoder, name, lambda name=name, call=call: (done.append(name), call()))
    sink = SimpleNamespace(started=lambda n: None, part=lambda part: None, finished=lambda reasons, usage: None)
    backend._start(Task(1, embed("x"), sink), [[5, 6, 7]])
    backend.step(10.0)
    for now, expected in ((10.0 + SCRUB_AFTER_S, ["scrub"]), (10.0 + WIPE_AFTER_S, ["scrub", "wipe"])):
        wait_s = backend.wait_s(10.0)
        assert wait_s == pytest.approx(now - 10.0)
        backend.step(now - 0.01)
        assert done == expected[:-1]
        backend.step(now)
        assert done == expected
    assert backend.wait_s(1000.0) is None
    backend.close()


async def test_leaving_early_frees_everything(tmp_path: Path) -> None:
    path = decoder(LAST)(tmp_path / "model.gguf")
    async with running(spec(path), ONE) as side:
        for patience_s in (0.0, 0.01, 0.05, 0.1):
            with trio.move_on_after(patience_s):
                await side.ask(embed(*texts(500)))
        answer = await side.ask(embed(*texts(100)))
        assert len(answer.vectors) == 100
        with trio.fail_after(10):
            while side.engine.status().n_running:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert side.engine.status().restarts == 0


async def test_tokens_there_and_back(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "model.gguf", pre="deepseek-llm")
    direct = Direct(path, 0)
    text = "the cat <|im_start|> in\nthe grüße 世界"
    async with running(spec(path), ONE) as side:
        found = (await side.ask(TokenizeRequest(model="m", text=text))).ids
        plain = (await side.ask(TokenizeRequest(model="m", text=text, parse_special=False))).ids
        assert (await side.ask(TokenizeRequest(model="m", text=""))).ids == []
        assert (await side.ask(DetokenizeRequest(model="m", tokens=tuple(found)))).joined == text
        assert (await side.ask(DetokenizeRequest(model="m", tokens=()))).joined == ""
        counted = await side.ask(TokenizeRequest(model="m", chat=chat("the cat")))
        answered = await side.ask(chat("the cat", max_tokens=1))
        foreign = await side.ask(DetokenizeRequest(model="m", tokens=(9_999_999,)))
    assert found == direct.tokens(text)
    assert len(plain) > len(found)
    direct.close()
    assert len(counted.ids) == answered.n_prompt_tokens
    assert counted.final is not None
    assert counted.final.usage.n_prompt_tokens == 0
    assert foreign.failure is not None
    assert foreign.failure.param == "tokens"


@pytest.mark.spec("ENV-38")
@pytest.mark.parametrize(("pooling", "n_chunks"), [(MEAN, 1), (MEAN, 3), (RANK, 2)])
async def test_a_cancelled_task_owes_the_prompts_of_the_results_that_were_sealed(
    pooling: int, n_chunks: int, tmp_path: Path
) -> None:
    path = make_encoder(tmp_path / "model.gguf", pooling=pooling)
    asked = texts(1000)
    async with running(spec(path), ONE) as side:
        request = embed(*asked) if pooling == MEAN else RerankRequest(model="m", query="the", documents=asked)
        answer = await side.ask_and_cancel(request, n_chunks)
    assert answer.final is not None
    n_results = len(answer.vectors) + len(answer.scores)
    assert 0 < n_results < len(asked)
    direct = Direct(path, pooling)
    n_tokens = sum(len(direct.tokens(text)) for text in asked[:n_results])
    direct.close()
    counted = answer.final.usage.n_prompt_tokens
    if pooling == MEAN:
        assert counted == n_tokens
    else:
        assert counted > n_tokens  # the query counts with each document


@pytest.mark.timed
@pytest.mark.parametrize("as_chat", [False, True])
async def test_streams_go_on_beside_a_long_text(tmp_path: Path, as_chat: bool) -> None:
    path = gguf_make.make(tmp_path / "wide.gguf", text_only=True, n_ctx=16_384)
    text = "".join(random.Random(4).choices("abcdefghij", k=1_000_000))
    async with running(spec(path), ONE) as side:
        request, opener = side.seal(chat("go on", max_tokens=16_000))
        stream = Answer()
        came_at: list[float] = []
        took_s = 0.0

        async def tokenise() -> None:
            if as_chat:
                refused = await side.ask(chat(text))
                assert refused.failure is not None
                assert refused.failure.code == "context_length_exceeded"
            else:
                assert len((await side.ask(TokenizeRequest(model="m", text=text))).ids) > 300_000

        async def tokenise_all(scope: trio.CancelScope) -> None:
            nonlocal took_s
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(tokenise)
            took_s = trio.current_time() - began
            scope.cancel()

        async with side.engine.submit(request) as events, trio.open_nursery() as nursery:
            side.take(stream, opener, await anext(events))
            nursery.start_soon(tokenise_all, nursery.cancel_scope)
            came_at.append(trio.current_time())
            async for event in events:
                side.take(stream, opener, event)
                came_at.append(trio.current_time())
        gaps_s = [later - earlier for earlier, later in itertools.pairwise([*came_at, came_at[0] + took_s])]
        # a loop that tokenised by itself would be silent all the while; a frame leaves each 0.1 s
        assert max(gaps_s) < 0.5 * took_s


async def test_a_long_word_does_not_end_the_process(tmp_path: Path) -> None:
    """std::regex recurses once a character: 30 kB without a space ended the process with the usual stack."""
    path = gguf_make.make(tmp_path / "model.gguf", pre="deepseek-llm")
    async with running(spec(path), ONE) as side:
        answer = await side.ask(chat("a" * 300_000))
        assert answer.failure is not None
        assert answer.failure.code == "context_length_exceeded"
        assert len((await side.ask(TokenizeRequest(model="m", text="a" * 300_000))).ids) > 100_000
        assert side.engine.status().restarts == 0
