"""Pictures through a real projector: mtmd's own tokens, shared and resumed like text, hostile ones refused."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from mcd.api.request import ChatImage, ChatMessage, ChatRequest
from mcd.engine import abi, faults, vision
from mcd.engine.backend import StartError
from mcd.engine.catalogue import EngineSpec
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Model
from tests.fakes import gguf_make, gguf_mmproj, mtmd_direct
from tests.fakes.engine_entry import Answer, EntrySide, chat, running
from tests.fakes.lasting import Lasting
from tests.fakes.pictures import message, picture, pixels, seeing

SEED = 3
THREE = EngineOptions(n_threads=1, n_slots=3)
ONE = EngineOptions(n_threads=1, n_slots=1)
A, B, C = picture(1), picture(2, 100, 60), picture(3, 33, 57)
LIMITS = {"llava": -1, "gemma3": -1, "qwen2vl": vision.MAX_IMAGE_TOKENS, "idefics3": -1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: gguf_mmproj.make(folder, kind, seed=SEED) for kind in gguf_mmproj.KINDS}


@pytest.fixture(scope="module", params=gguf_mmproj.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def side(models: dict[str, Path], kind: str, lasting: Lasting) -> Iterator[EntrySide]:
    """One engine for all tests that leave it as it was."""
    with lasting.holding(running(spec_of(models[kind]), THREE)) as side:
        yield side


def spec_of(path: Path, *, sees: bool = True) -> EngineSpec:
    projector = str(path.with_suffix(".mmproj.gguf")) if sees else ""
    return EngineSpec(alias="tiny", backend="llama", source=str(path), projector=projector)


def prompt_of(text: str) -> str:
    """As the tiny models' template writes one message."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def ask(side: EntrySide, request: ChatRequest, **how: object) -> Answer:
    with trio.fail_after(60):
        return await side.ask(request, **how)


def sha256_of(path: str | Path) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def chances(answer: Answer) -> tuple[float, ...]:
    """How likely each token was: what is seen shows there even when the words are the same."""
    return tuple(round(token.logprob, 3) for delta in answer.deltas for token in delta.logprobs)


async def test_the_tokens_are_those_of_mtmd_itself(side: EntrySide, models: dict[str, Path], kind: str) -> None:
    shown = [("what is ", 1, " and ", 2, " now"), ("", 2, "", 1, "tell"), ("one ", 3, " only")]
    sizes = {1: (40, 24), 2: (100, 60), 3: (33, 57)}
    assert "vision" in side.engine.status().capabilities
    assert any(line.startswith("pictures: holds, one takes") for line in side.engine.sandbox_report())
    seen: set[tuple[int, ...]] = set()
    for parts in shown:
        pictures = [pixels(part, *sizes[part]) for part in parts if isinstance(part, int)]
        text = "".join(part if isinstance(part, str) else mtmd_direct.MARKER for part in parts)
        told = mtmd_direct.answer(models[kind], prompt_of(text), pictures, 16, image_max_tokens=LIMITS[kind])
        files = [picture(part, *sizes[part]) if isinstance(part, int) else part for part in parts]
        answer = await ask(side, seeing(*files, logprobs=True))
        assert list(answer.tokens) == told
        seen.add(chances(answer))
    assert len(seen) == len(shown)  # the pictures matter


@pytest.mark.spec("ENV-46")
async def test_equal_pictures_are_computed_once_and_only_for_one_salt(side: EntrySide, kind: str) -> None:
    ours = seeing("see ", A, " and ", B, " here", logprobs=True)
    others = seeing("see ", A, " and ", C, " here", logprobs=True)
    first = await ask(side, ours, salt="mine")
    again = await ask(side, ours, salt="mine")
    other = await ask(side, others, salt="mine")
    alien = await ask(side, ours, salt="theirs")
    fresh = await ask(side, others)
    assert first.tokens == again.tokens == alien.tokens
    assert other.tokens == fresh.tokens
    assert chances(other) == pytest.approx(chances(fresh), abs=0.01)
    assert chances(other) != pytest.approx(chances(first), abs=0.01)
    cached = [answer.final.usage.n_cached_tokens for answer in (first, again, other, alien, fresh) if answer.final]
    n_before_b = cached[2]
    assert cached == [0, first.n_prompt_tokens - 1, n_before_b, 0, 0]
    assert 0 < n_before_b < first.n_prompt_tokens - gguf_mmproj.PICTURE_TOKENS.get(kind, 0)


async def test_a_conversation_goes_on_without_its_picture_being_computed_again(side: EntrySide, kind: str) -> None:
    opening = message("look at ", A, " please")
    first = await ask(side, ChatRequest(model="m", messages=(opening,), temperature=0.0, max_tokens=8), salt="s")
    turns = (opening, ChatMessage(role="assistant", content=first.text), message("and ", B, "?"))
    request = ChatRequest(model="m", messages=turns, temperature=0.0, max_tokens=12)
    second = await ask(side, request, salt="s")
    alone = await ask(side, request)
    assert second.final is not None
    assert second.final.usage.n_cached_tokens > gguf_mmproj.PICTURE_TOKENS.get(kind, 10)
    assert second.tokens == alone.tokens


async def test_an_answer_is_gone_on_with_at_any_token(side: EntrySide, kind: str) -> None:
    request = seeing("see ", A, " and ", B, " here", max_tokens=24)
    whole = await ask(side, request)
    for cut in sorted(random.Random(kind).sample(range(1, len(whole.tokens)), 6)):
        rest = await ask(side, request, resume=whole.tokens[:cut])
        assert whole.tokens[:cut] + rest.tokens == whole.tokens


async def test_many_at_once_give_what_each_gives_alone(models: dict[str, Path]) -> None:
    """Pictures, text and answers under way share steps, slots and cells."""
    requests = [seeing("a ", A, " b ", B), seeing("c ", C), chat("only words", temperature=0.0, max_tokens=16)] * 3
    for kind in gguf_mmproj.KINDS:
        async with running(spec_of(models[kind]), ONE) as side:
            alone = [(await ask(side, request)).tokens for request in requests]
        together: dict[int, tuple[int, ...]] = {}

        async def one(side: EntrySide, index: int, into: dict[int, tuple[int, ...]]) -> None:
            into[index] = (await ask(side, requests[index], salt=str(index % 2))).tokens

        async with running(spec_of(models[kind]), THREE) as side, trio.open_nursery() as nursery:
            for index in range(len(requests)):
                nursery.start_soon(one, side, index, together)
        assert [together[index] for index in range(len(requests))] == alone


async def test_several_choices_share_the_picture(models: dict[str, Path]) -> None:
    async with running(spec_of(models["qwen2vl"]), THREE) as side:
        single = await ask(side, seeing("see ", A, " now"))
        both = await ask(side, seeing("see ", A, " now", n=2))
    tokens = [tuple(t for delta in both.deltas if delta.choice == i for t in delta.tokens) for i in (0, 1)]
    assert tokens == [single.tokens, single.tokens]


@pytest.mark.spec("ENV-45")
async def test_pictures_count_as_prompt_tokens_before_anything_is_computed(tmp_path: Path) -> None:
    path = gguf_mmproj.make(tmp_path, "llava", n_ctx=256)
    async with running(spec_of(path), ONE) as side:
        fits = await ask(side, seeing("a", A, B, C, max_tokens=4))
        assert fits.n_prompt_tokens > 3 * gguf_mmproj.PICTURE_TOKENS["llava"]
        assert fits.final is not None
        over = await ask(side, seeing("a", A, B, C, A, max_tokens=4))
    assert over.failure is not None
    assert over.failure.code == "context_length_exceeded"
    assert "256 of them for pictures" in over.failure.message
    assert over.n_prompt_tokens == 0


@pytest.mark.spec("ENV-44")
async def test_a_model_without_a_projector_says_so(models: dict[str, Path]) -> None:
    async with running(spec_of(models["llava"], sees=False), ONE) as side:
        assert "vision" not in side.engine.status().capabilities
        answer = await ask(side, seeing("see ", A))
        assert answer.failure is not None
        assert (answer.failure.code, answer.failure.param) == ("unsupported_parameter", "messages")
        assert (await ask(side, seeing("words"))).final is not None


@pytest.mark.spec("ENV-45")
async def test_what_is_no_picture_fails_its_own_request_alone(models: dict[str, Path]) -> None:
    async with running(spec_of(models["gemma3"]), THREE) as side:
        usual = await ask(side, seeing("see ", A))
        for bad in (b"no picture", A[:60], b"\x89PNG\r\n\x1a\n", picture(1, 400, 4)):
            answer = await ask(side, seeing("see ", B, " and ", bad))
            assert answer.failure is not None
            assert (answer.failure.code, answer.failure.param) == ("invalid_request", "messages[0].content")
        assert (await ask(side, seeing("see ", A))).tokens == usual.tokens


@pytest.mark.parametrize("kind", gguf_mmproj.KINDS)
async def test_a_picture_of_any_shape_is_taken_or_refused(models: dict[str, Path], kind: str) -> None:
    """Projectors divide by sides, patches and tiles; a mistake there ends the process."""
    shapes = [(1, 1), (1, 2), (1, 50), (50, 1), (3, 150), (2000, 40), (40, 2000), (2048, 1024), (1448, 1448), (31, 33)]
    async with running(spec_of(models[kind]), ONE) as side:
        for width, height in shapes:
            answer = await ask(side, seeing("see ", picture(1, width, height, "JPEG"), max_tokens=2))
            assert answer.final is not None or answer.failure is not None
        assert side.engine.status().restarts == 0


@pytest.mark.spec("ENV-46")
async def test_no_text_poses_as_a_picture(models: dict[str, Path]) -> None:
    """Nor does any upset the count of the real ones."""
    fakes = ("<__media__>", "<image>", "<start_of_image>", "picture0n", f"picture{'0' * 32}n0n", "<|image_pad|>")
    async with running(spec_of(models["llava"]), ONE) as side:
        for fake in fakes:
            words = await ask(side, chat(f"see {fake}", temperature=0.0, max_tokens=4))
            assert words.n_prompt_tokens < gguf_mmproj.PICTURE_TOKENS["llava"] + 50
            both = await ask(side, seeing(f"see {fake} ", A, f" {fake}", max_tokens=4))
            assert both.final is not None
            n_words = both.n_prompt_tokens - gguf_mmproj.PICTURE_TOKENS["llava"]
            assert 0 < n_words < 2 * len(fake) + 60


async def test_a_request_can_be_cancelled_before_within_and_after_its_picture(models: dict[str, Path]) -> None:
    async with running(spec_of(models["qwen2vl"]), ONE) as side:
        usual = await ask(side, seeing("see ", A))
        large = picture(9, 1400, 1000, "JPEG")
        for pause_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            with trio.move_on_after(pause_s):
                await side.ask(seeing("see ", large, " and ", large, max_tokens=400))
        with trio.fail_after(30):
            while (side.engine.status().n_running, side.engine.status().n_waiting) != (0, 0):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert (await ask(side, seeing("see ", A))).tokens == usual.tokens


async def test_a_bad_projector_or_another_models_fails_the_start_with_words(tmp_path: Path) -> None:
    path = gguf_mmproj.make(tmp_path, "llava")
    projector = path.with_suffix(".mmproj.gguf")
    whole = projector.read_bytes()
    wrong = {
        "patch_size": {"clip.vision.patch_size": 0},
        "pictures": {"clip.has_vision_encoder": False},
        "another model's": {"clip.projector_type": "unheard"},
    }

    def remake(metadata: dict[str, object]) -> Callable[[], object]:
        return lambda: gguf_mmproj.make_projector(projector, "llava", metadata=metadata)

    for words, spoil in {
        "not a usable GGUF file": lambda: projector.write_bytes(b"GGUF"),
        "it is no projector": lambda: projector.write_bytes(path.read_bytes()),
        "cut off or damaged": lambda: projector.write_bytes(whole[: len(whole) // 2]),
        **{words: remake(metadata) for words, metadata in wrong.items()},
    }.items():
        spoil()
        async with running(spec_of(path), ONE, state="failed") as side:
            assert words in side.engine.status().detail


async def test_a_projector_that_ends_the_process_is_given_up_and_only_that(tmp_path: Path) -> None:
    """mtmd takes a tensor that is missing for an empty one: no check of ours knows which each kind needs."""
    path = gguf_mmproj.make(tmp_path, "qwen2vl", without="v.blk.0.attn_q.weight")
    async with running(spec_of(path), ONE, state="failed") as side:
        assert "stops while loading" in side.engine.status().detail


def test_a_projector_that_keeps_everybody_waiting_fails_the_start(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "MAX_ENCODE_S", 0.0)
    path = models["llava"]
    model = Model(abi.load_library(), str(path))
    with pytest.raises(StartError) as caught:
        vision.Vision(model, str(path.with_suffix(".mmproj.gguf")), "mlp", use_gpu=False, n_threads=1)
    assert caught.value.failure == FailureCode.PROJECTOR_SLOW
    assert "more than 20 s" in faults.words(caught.value.failure)
    model.close()


async def test_a_vocabulary_without_a_projectors_words_fails_the_start(tmp_path: Path) -> None:
    """mtmd takes such words for token -1, and llama.cpp ends the process when that is computed."""
    path = gguf_make.make(tmp_path / "wordless.gguf")
    gguf_mmproj.make_projector(path.with_suffix(".mmproj.gguf"), "idefics3")
    async with running(spec_of(path), ONE, state="failed") as side:
        assert "another model's" in side.engine.status().detail


@pytest.fixture
def engine_of(models: dict[str, Path]) -> EngineSpec:
    return spec_of(models["gemma3"])


@pytest.mark.spec("REC-09")
async def test_with_another_projector_it_is_another_model(models: dict[str, Path], tmp_path: Path) -> None:
    digests = set()
    other = tmp_path / "other.mmproj.gguf"
    gguf_mmproj.make_projector(other, "llava", seed=9)
    path = models["llava"]
    for projector in ("", str(path.with_suffix(".mmproj.gguf")), str(other)):
        spec = EngineSpec(alias="tiny", backend="llama", source=str(path), projector=projector)
        async with running(spec, ONE) as side:
            status = side.engine.status()
        digests.add(status.digest)
        files = [sha256_of(file) for file in (path, projector) if file]
        label = b"modelcloud model with projector\0"
        assert status.digest == (hashlib.sha256(label + b"".join(files)).digest() if projector else files[0])
        assert ("vision" in status.capabilities) == bool(projector)
    assert len(digests) == 3


async def test_the_picture_process_may_die_and_only_its_engine_with_it(engine_of: EngineSpec) -> None:
    """Its keeper is killed by hand here; then the worker ends and is started anew."""
    import psutil

    async with running(engine_of, ONE) as side:
        assert side.engine.pid is not None
        keeper = next(p for p in psutil.Process(side.engine.pid).children() if p.name() == "mcd-pictures")
        os.kill(keeper.pid, signal.SIGKILL)
        with trio.fail_after(60):
            while side.engine.status().restarts == 0:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await side.wait_until("ready", timeout_s=60)
        assert (await ask(side, seeing("see ", A))).final is not None


def test_a_picture_is_placed_by_characters() -> None:
    image = ChatImage(A, 3)
    assert message("abc", A, "d").images == (image,)
