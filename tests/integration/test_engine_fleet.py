"""Several real models with too little room: who is loaded, who sleeps with keys, who makes room, what is remembered."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
import trio

from mcd.engine import client, fleet
from mcd.engine.catalogue import EngineSpec
from mcd.engine.client import EngineProcess
from mcd.engine.fit import GIB, MIB, Device, Layer, Shape
from mcd.engine.fleet import Fleet
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.errors import ModelFileError, RefusedError
from mcd.ids import ModelDigest
from mcd.ports import LoadFacts
from mcd.store.measured import MeasuredFile
from mcd.wire.messages import RefuseReason
from tests.fakes import gguf_make
from tests.fakes.engine_entry import EntrySide, chat

ROOM_FOR_TWO = 420 * MIB
"""Each tiny model is reckoned at about 200 MB, nearly all of it the process."""

TOO_MANY_CELLS = 4 * 1024 * 1024
"""At 1 KiB each."""
OPTIONS = EngineOptions(n_threads=1, n_slots=2)


class Machine:
    """Engines of tiny models and the fleet that owns their memory."""

    def __init__(self, specs: list[EngineSpec], home: Path, room_bytes: int, options: EngineOptions) -> None:
        self.measured = MeasuredFile(home)
        self.sides = [EntrySide(spec, options, measured=self.measured) for spec in specs]
        self.engines: list[EngineProcess] = [side.engine for side in self.sides]
        self.fleet = Fleet(self.engines, clock=self.sides[0].clock, room_bytes=lambda: room_bytes)

    @property
    def states(self) -> list[str]:
        return [engine.status().state for engine in self.engines]

    async def wait_for(self, *states: str, timeout_s: float = 60.0) -> None:
        with trio.fail_after(timeout_s):
            while self.states != list(states) or not self.has_new_keys:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)

    @property
    def has_new_keys(self) -> bool:
        """Until the next process is up, an unloaded engine shows the last one's, to which nothing can be sealed."""
        lives = [engine._life for engine in self.engines if engine.status().state == "asleep"]
        return all(life is not None and life.asleep is not None and life.ready is None for life in lives)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[EngineSpec]:
    folder = tmp_path_factory.mktemp("models")
    paths = [gguf_make.make(folder / f"{name}.gguf", seed=seed, text_only=True) for seed, name in enumerate("abc")]
    return [EngineSpec(alias=path.stem, backend="llama", source=str(path)) for path in paths]


@asynccontextmanager
async def machine(
    specs: list[EngineSpec],
    home: Path,
    room_bytes: int = ROOM_FOR_TWO,
    options: EngineOptions = OPTIONS,
) -> AsyncIterator[Machine]:
    made = Machine(specs, home, room_bytes, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.fleet.run)
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def measured_once(specs: list[EngineSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a machine that ran before."""
    home = tmp_path_factory.mktemp("home")

    async def run() -> None:
        async with machine(specs, home) as here:
            await here.wait_for("ready", "ready", "asleep")

    trio.run(run)
    return home


@pytest.fixture
def known(measured_once: Path, tmp_path: Path) -> Path:
    """A copy of it: there the third need not be loaded to be offered."""
    return Path(shutil.copytree(measured_once, tmp_path / "known"))


async def test_the_first_are_loaded_and_the_rest_offered_cold(specs: list[EngineSpec], tmp_path: Path) -> None:
    async with machine(specs, tmp_path) as here:
        await here.wait_for("ready", "ready", "asleep")
        cold, warm = here.engines[2].status(), here.engines[0].status()
        assert cold.load_ms > 0
        assert cold.ready_in_s >= client.MIN_READY_IN_S
        assert (cold.n_ctx, cold.n_slots, cold.capabilities) == (warm.n_ctx, warm.n_slots, warm.capabilities)
        assert cold.output_tokens_per_s > 0  # it was loaded once, and has computed here
        assert cold.key_id
        assert here.engines[2].keys().configs
        assert "room for" in warm.fit
        pid = here.engines[2].pid
        assert pid is not None
        assert psutil.Process(pid).memory_info().rss < 80 * MIB  # Python and the keys, no llama.cpp


async def test_a_request_wakes_its_model_and_the_longest_unused_makes_room(
    specs: list[EngineSpec], known: Path
) -> None:
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        await here.sides[0].ask(chat("used later than the other", max_tokens=2))
        before = here.engines[1].status().key_id
        answer = await here.sides[2].ask(chat("wake up", max_tokens=3))
        assert len(answer.tokens) == 3
        await here.wait_for("ready", "asleep", "ready")
        assert here.engines[1].status().key_id != before
        assert len((await here.sides[1].ask(chat("and back", max_tokens=3))).tokens) == 3
        await here.wait_for("asleep", "ready", "ready")
        assert all(engine.status().restarts == 0 for engine in here.engines)


async def test_requests_that_come_together_share_one_loading(specs: list[EngineSpec], known: Path) -> None:
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        answered: list[int] = []

        async def one() -> None:
            answered.append(len((await here.sides[2].ask(chat("all at once", max_tokens=4))).tokens))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
            with trio.move_on_after(0.05):  # one who leaves while it loads takes nothing along
                await here.sides[2].ask(chat("leaves"))
        assert answered == [4] * 8
        assert here.engines[2].status().restarts == 0


async def test_a_model_with_requests_is_never_unloaded(
    specs: list[EngineSpec], known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MAX_ROOM_WAIT_S", 0.5)
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        held = [side.seal(chat("long", temperature=0.0))[0] for side in here.sides[:2]]
        async with here.engines[0].submit(held[0]) as first, here.engines[1].submit(held[1]) as second:
            await anext(first)
            await anext(second)
            with pytest.raises(RefusedError) as refused:
                await here.sides[2].ask(chat("no room"))
            assert refused.value.reason == RefuseReason.LOADING
            assert refused.value.retry_after_s
            assert here.states == ["ready", "ready", "asleep"]
        assert len((await here.sides[2].ask(chat("now there is", max_tokens=2))).tokens) == 2


async def test_an_idle_model_makes_room_before_one_that_has_long_been_busy(
    specs: list[EngineSpec], known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was asked longest ago is not unused: waiting for it would refuse what there is room for."""
    monkeypatch.setattr(fleet, "MAX_ROOM_WAIT_S", 5.0)
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        held, _ = here.sides[0].seal(chat("long", temperature=0.0))
        async with here.engines[0].submit(held) as first:
            await anext(first)
            await here.sides[1].ask(chat("used later", max_tokens=1))
            assert here.engines[0].used_at < here.engines[1].used_at
            assert len((await here.sides[2].ask(chat("wake up", max_tokens=2))).tokens) == 2
            await here.wait_for("ready", "asleep", "ready")


async def test_who_fits_now_does_not_wait_behind_who_waits_for_room(
    specs: list[EngineSpec], known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        large = here.engines[2]
        monkeypatch.setattr(here.fleet, "_least", lambda engine: (400 if engine is large else 200) * MIB)
        held, _ = here.sides[0].seal(chat("long", temperature=0.0))
        async with here.engines[0].submit(held) as first:
            await anext(first)
            before = here.engines[1].status().key_id
            assert await here.engines[1].sleep()
            while here.engines[1].status().key_id == before:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)
            large.wake()
            with trio.fail_after(fleet.MAX_ROOM_WAIT_S * 0.75):
                assert len((await here.sides[1].ask(chat("fits", max_tokens=2))).tokens) == 2
            assert here.states == ["ready", "ready", "asleep"]


async def test_who_was_just_loaded_stays_as_long_as_that_took(specs: list[EngineSpec], known: Path) -> None:
    """Requests to two cold models in turn had the machine load and nothing else."""
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        guest = here.engines[2]
        held, _ = here.sides[0].seal(chat("long", temperature=0.0))
        async with here.engines[0].submit(held) as first:
            await anext(first)
            await here.sides[2].ask(chat("wake up", max_tokens=1))
            assert here.states == ["ready", "asleep", "ready"]
            assert guest._facts is not None
            guest._facts = msgspec.structs.replace(guest._facts, load_ms=6000)
            await here.wait_for("ready", "asleep", "ready")
            assert len((await here.sides[1].ask(chat("not yet", max_tokens=1))).tokens) == 1
            assert trio.current_time() - guest.ready_at >= 6
            assert here.states == ["ready", "ready", "asleep"]


async def test_want_of_memory_passes(specs: list[EngineSpec], tmp_path: Path) -> None:
    """Another program takes it for a while: a model that was loaded before is refused, not lost for good."""
    async with machine(specs[:1], tmp_path) as here:
        await here.wait_for("ready")
        assert await here.engines[0].sleep()
        here.fleet._room_bytes = lambda: 10 * MIB
        with pytest.raises(RefusedError) as refused:
            await here.sides[0].ask(chat("no room"))
        assert refused.value.reason == RefuseReason.LOADING
        await here.fleet.tidy()
        assert not here.engines[0].is_busy  # nobody has it loaded again in vain
        assert here.states == ["asleep"]
        here.fleet._room_bytes = lambda: ROOM_FOR_TWO
        await here.fleet.tidy()
        await here.wait_for("ready")
        assert len((await here.sides[0].ask(chat("now there is", max_tokens=2))).tokens) == 2


async def test_an_idle_guest_leaves_and_whom_it_displaced_comes_back(
    specs: list[EngineSpec], known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        await here.sides[2].ask(chat("guest", max_tokens=1))
        await here.wait_for("asleep", "ready", "ready")
        await here.fleet.tidy()
        assert here.states == ["asleep", "ready", "ready"]
        monkeypatch.setattr(fleet, "IDLE_S", 0.0)
        await here.fleet.tidy()
        await here.wait_for("ready", "ready", "asleep")


async def test_what_was_measured_is_remembered_over_a_restart(specs: list[EngineSpec], tmp_path: Path) -> None:
    async with machine(specs, tmp_path) as here:
        await here.wait_for("ready", "ready", "asleep")
        known = here.engines[2].status()
    assert (tmp_path / "measured.json").stat().st_mode & 0o077 == 0
    async with machine(specs, tmp_path) as again:
        await again.sides[2].wait_until("asleep")
        assert again.engines[2].status().load_ms == known.load_ms
        assert "asleep" in again.states[:2] or "loading" in again.states[:2]  # nothing had to be loaded first
        await again.wait_for("ready", "ready", "asleep")


async def test_a_key_of_an_unloaded_engine_is_unknown_and_the_next_one_works(
    specs: list[EngineSpec], tmp_path: Path
) -> None:
    async with machine(specs[:1], tmp_path) as here:
        await here.wait_for("ready")
        old, _ = here.sides[0].seal(chat("sealed before"))
        assert await here.engines[0].sleep()
        with pytest.raises(RefusedError) as refused:
            async with here.engines[0].submit(old) as events:
                await anext(events)
        assert refused.value.reason == RefuseReason.KEY_UNKNOWN
        assert len((await here.sides[0].ask(chat("sealed after", max_tokens=2))).tokens) == 2


async def test_an_unloaded_model_never_vanishes_from_the_record(specs: list[EngineSpec], tmp_path: Path) -> None:
    async with machine(specs[:1], tmp_path) as here:
        await here.wait_for("ready")
        engine, keys = here.engines[0], set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.sleep)
            with trio.fail_after(20):
                while len(keys) < 2:
                    keys.add(engine.status().engine_key)
                    assert engine.keys().configs
                    await trio.sleep(0.005)
        assert b"" not in keys


async def test_room_for_all_means_all_stay(
    specs: list[EngineSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "IDLE_S", 0.0)
    async with machine(specs, tmp_path, room_bytes=4000 * MIB) as here:
        await here.wait_for("ready", "ready", "ready")
        await here.fleet.tidy()
        assert here.states == ["ready", "ready", "ready"]


async def test_what_can_never_fit_says_what_it_takes(specs: list[EngineSpec], tmp_path: Path) -> None:
    async with machine(specs[:1], tmp_path, room_bytes=50_000_000) as here:
        await here.wait_for("failed")
        assert "the model takes" in here.engines[0].status().detail
        assert "50 MB is free" in here.engines[0].status().detail


async def test_a_dead_guest_is_loaded_again_and_owes_nothing(specs: list[EngineSpec], known: Path) -> None:
    async with machine(specs, known) as here:
        await here.wait_for("ready", "ready", "asleep")
        pid = here.engines[2].pid
        assert pid is not None
        os.kill(pid, 9)  # asleep: only its keys are lost
        await here.sides[2].wait_until("restarting")
        await here.wait_for("ready", "ready", "asleep")
        pid = here.engines[0].pid
        assert pid is not None
        os.kill(pid, 9)
        await here.sides[0].wait_until("restarting")
        await here.wait_for("ready", "ready", "asleep")


async def test_no_memory_is_tried_once_more_with_less(specs: list[EngineSpec], tmp_path: Path) -> None:
    """A KV memory beyond what the process may allocate; the second try asks for a sane one."""
    side = EntrySide(specs[0])
    asked: list[int] = []

    async def room(engine: EngineProcess) -> EngineOptions:
        asked.append(engine.starts.n_load_failures)
        n_cells = 512 if engine.starts.n_load_failures else TOO_MANY_CELLS
        return msgspec.structs.replace(engine.options, n_ctx=256, n_cells=n_cells, max_bytes=400 * MIB)

    side.engine.settle(room)
    side.engine.wake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        await side.wait_until("ready")
        nursery.cancel_scope.cancel()
    assert asked == [0, 1]


async def test_no_memory_twice_is_final_and_says_so(specs: list[EngineSpec]) -> None:
    side = EntrySide(specs[0], EngineOptions(n_threads=1, n_ctx=256, n_cells=TOO_MANY_CELLS, max_bytes=400 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        await side.wait_until("failed")
        assert "not enough memory" in side.engine.status().detail
        assert side.engine.status().restarts == 1
        nursery.cancel_scope.cancel()


CARD = Device(
    name="CUDA0", description="NVIDIA GeForce RTX 4090", kind="gpu", free_bytes=22 * GIB, total_bytes=24 * GIB
)
EIGHT_GB = Shape(
    layers=(Layer(weight_bytes=220 * MIB, cell_bytes=4096),) * 32,
    input_bytes=500 * MIB,
    output_bytes=500 * MIB,
    n_embd=4096,
    n_ff=14_336,
    n_vocab=128_256,
    n_ctx_train=131_072,
)


def on_gpus(
    spec: EngineSpec, n_engines: int, free_bytes: int, name: str = CARD.name
) -> tuple[Fleet, list[EngineProcess]]:
    """A fleet on a card that is not there: what is asked of llama.cpp, not what it does with it."""
    sides = [EntrySide(spec, EngineOptions(gpu=True)) for _ in range(n_engines)]
    engines = [side.engine for side in sides]
    for engine in engines:
        engine.shape = EIGHT_GB
    card = msgspec.structs.replace(CARD, free_bytes=free_bytes, name=name)
    made = Fleet(engines, clock=sides[0].clock, use_gpu=True, room_bytes=lambda: 32 * GIB, gpus=lambda: (card,))
    made._pool_bytes = card.usable_bytes
    return made, engines


async def test_a_model_goes_onto_the_gpu_whole_and_says_so(specs: list[EngineSpec]) -> None:
    made, (engine,) = on_gpus(specs[0], 1, 22 * GIB)
    options = await made.make(engine)
    assert (options.n_gpu_layers, options.split, options.device) == (33, (33,), "RTX 4090 24G")
    assert (options.n_ctx, options.max_bytes) == (32_768, 0)
    assert "all 33 layers" in engine.fit
    assert [name for name, _ in made.describe()] == ["models' memory", "gpu CUDA0"]


@pytest.mark.parametrize(("name", "is_in_graph"), [("CUDA0", True), ("ROCm1", True), ("Vulkan0", False)])
async def test_only_who_is_trusted_with_it_chooses_tokens_itself(
    specs: list[EngineSpec], name: str, is_in_graph: bool
) -> None:
    made, (engine,) = on_gpus(specs[0], 1, 22 * GIB, name)
    assert (await made.make(engine)).samples_in_graph is is_in_graph


async def test_a_model_larger_than_the_gpu_goes_there_in_part(specs: list[EngineSpec]) -> None:
    made, (engine,) = on_gpus(specs[0], 1, 6 * GIB)
    options = await made.make(engine)
    assert 5 < options.n_gpu_layers < 33
    assert options.n_ctx == 8192
    assert "compute on the processor" in engine.fit
    engine.starts.ended(FailureCode.OUT_OF_MEMORY, "", is_loading=True)
    assert (await made.make(engine)).n_gpu_layers < options.n_gpu_layers


async def test_a_gpu_with_nothing_free_says_so(specs: list[EngineSpec]) -> None:
    made, (engine,) = on_gpus(specs[0], 1, GIB)
    with pytest.raises(ModelFileError, match="of the GPUs' memory is free"):
        await made.make(engine)


def test_a_damaged_memory_is_begun_anew(tmp_path: Path) -> None:
    facts = LoadFacts(
        n_ctx=1,
        n_slots=1,
        capabilities=(),
        prefill_tokens_per_s=1.0,
        output_tokens_per_s=1.0,
        sealing=0,
        device="CPU",
        load_ms=5,
    )
    digest = ModelDigest(bytes(32))
    MeasuredFile(tmp_path).put(digest, "cpu", facts)
    assert MeasuredFile(tmp_path).get(digest, "cpu") == facts
    assert MeasuredFile(tmp_path).get(digest, "gpu") is None
    (tmp_path / "measured.json").write_text('{"x": 3')
    assert MeasuredFile(tmp_path).get(digest, "cpu") is None
