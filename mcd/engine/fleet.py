"""Several models on one machine: which are loaded at the start, which sleep, and who makes room for whom.

Every model is offered; those that do not fit beside the first ones are offered cold, with the time that loading them
took last. A request wakes its model: room is made by unloading the model used longest ago, never one with requests.
A guest leaves again after IDLE_S without a request, and whom it displaced comes back. Models that have room of their
own stay for good: unloading them would free memory that nobody asked for and make the next user wait.

A model that would be cold and was never loaded on this machine is loaded once, before the others: nothing is offered
that has not computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import trio

from mcd.engine import gpu, memory, residency
from mcd.engine.client import EngineProcess
from mcd.engine.digest import ABANDON
from mcd.engine.fit import (
    GIB,
    KV_SHARE,
    LEAST_SLOTS,
    SHRINK,
    Device,
    Fit,
    Shape,
    Wish,
    capped,
    fit_gpu,
    fit_host,
    label,
    least_bytes,
    least_device_bytes,
    shrunk,
    size,
)
from mcd.engine.messages import EngineOptions
from mcd.engine.residency import Resident
from mcd.errors import ConfigError, ModelFileError, RefusedError
from mcd.ports import Clock
from mcd.wire.messages import RefuseReason

SAMPLING = ("CUDA", "ROCm")
"""Names of devices that choose tokens themselves. Under Vulkan memory is overwritten when a slot gets another request's
sampler, as with llama.cpp alone: seen with Mesa's software device, not looked for on others."""
IDLE_S = 600.0
"""A guest without a request for so long leaves."""
LOOK_EVERY_S = 5.0
MAX_ROOM_WAIT_S = 20.0
"""How long a request waits for running ones elsewhere to end; then it is told to ask again."""
ROOM_LOOK_S = 0.2
DEFAULT_SLOTS = 8
"""Slots that memory is reckoned for; the engine measures how many it uses."""
SLACK_SHARE = 4
SLACK_BYTES = GIB
"""A process may allocate a quarter and a gigabyte more than was reckoned for it: requests under way take some."""


class Fleet:
    """Owner of the machine's memory as far as models go; the room of every engine. One per daemon."""

    def __init__(
        self,
        engines: Sequence[EngineProcess],
        *,
        clock: Clock,
        use_gpu: bool = False,
        room_bytes: Callable[[], int] = memory.room_bytes,
        gpus: Callable[[], tuple[Device, ...]] = gpu.gpus,
    ) -> None:
        """``room_bytes`` and ``gpus`` say what the machine has; they are asked before each loading."""
        self._engines = tuple(engines)
        self._clock = clock
        self._use_gpu = use_gpu
        self._room_bytes = room_bytes
        self._gpus = gpus
        self._loading = trio.Lock()
        self._seen: tuple[Device, ...] = ()
        """The GPUs as last asked."""
        self._pool_bytes = 0
        """What all models together may take: of the GPUs, or of the machine's memory."""
        self._taken: dict[EngineProcess, int] = {}
        """What each loaded model takes of it."""
        self._shares: dict[EngineProcess, int] = {}
        """What each model that belongs here for good may take of it."""
        for engine in self._engines:
            engine.settle(self.make)

    async def run(self) -> None:
        """Run every engine until cancelled."""
        async with trio.open_nursery() as nursery:
            for engine in self._engines:
                nursery.start_soon(engine.run)
            await self._start()
            while True:
                await trio.sleep(LOOK_EVERY_S)
                await self.tidy()

    async def _start(self) -> None:
        for engine in self._engines:
            await engine.is_judged.wait()
        weighty = [engine for engine in self._engines if engine.shape is not None]
        self._pool_bytes = await self._free_bytes()
        leasts = [self._least(engine) for engine in weighty]
        home = residency.start_plan(leasts, self._pool_bytes)
        shares = residency.shares([leasts[index] for index in home], self._pool_bytes)
        self._shares = {weighty[index]: share for index, share in zip(home, shares, strict=True)}
        for engine in self._engines:
            if engine not in self._shares and engine.shape is not None and await engine.is_new():
                await _load(engine)
                await engine.sleep()
        for engine in self._engines:
            if engine in self._shares or engine.shape is None:
                await _load(engine)

    async def tidy(self) -> None:
        """Send idle guests away, bring back whom they displaced."""
        for engine in self._engines:
            idle_s = self._clock.now() - engine.used_at
            if engine.is_loaded and engine.shape and engine not in self._shares and idle_s >= IDLE_S:
                await engine.sleep()
        displaced = [engine for engine in self._shares if self._least(engine) <= self._free_of_pool(engine)]
        if not any(engine.status().state == "asleep" for engine in displaced):
            return
        free_bytes = await self._free_bytes()  # what other programs hold is not in our books
        for engine in displaced:
            if engine.status().state == "asleep" and self._least(engine) <= free_bytes:
                engine.wake()

    def describe(self) -> Iterator[tuple[str, str]]:
        """(what, how much of it is there) for `mcd doctor`."""
        loaded = sum(n for engine, n in self._taken.items() if engine.is_loaded)
        where = "the GPUs" if self._use_gpu else "memory"
        if any(engine.shape for engine in self._engines):
            yield "models' memory", f"{size(loaded)} of {size(self._pool_bytes)} of {where} taken by loaded models"
        for device in self._seen:
            free = f"{size(device.free_bytes)} of {size(device.total_bytes)} free when last asked"
            yield f"gpu {device.name}", f"{label(device)}, {free}"

    # --- Room --------------------------------------------------------------------------------------------------

    async def make(self, engine: EngineProcess) -> EngineOptions:
        """The room of each engine; see `mcd.engine.client.Room`."""
        shape = engine.shape
        if shape is None:
            return engine.options
        with trio.move_on_after(MAX_ROOM_WAIT_S):
            while True:
                async with self._loading:  # not while it waits: another may fit now
                    if await self._make_room(engine):
                        return await self._fit(engine, shape)
                await trio.sleep(ROOM_LOOK_S)
        raise _no_room("other models on this machine are busy")

    async def _make_room(self, engine: EngineProcess) -> bool:
        others = [other for other in self._engines if other is not engine and other.is_loaded and other.shape]
        residents = [
            Resident(index, self._taken.get(other, 0), self._must_stay(other), other.used_at)
            for index, other in enumerate(others)
        ]
        victims = self._victims(engine, self._free_of_pool(engine), residents)
        if victims is not None:  # only then is the machine asked: on GPUs that takes a process and a second
            free_bytes = min(self._free_of_pool(engine), await self._free_bytes())
            victims = self._victims(engine, free_bytes, residents)
        if victims is None:
            return False
        for index in victims:
            if not await others[index].sleep():
                return False
        return True

    def _must_stay(self, engine: EngineProcess) -> bool:
        """It works, or is a guest for a shorter while than loading it took: else requests could have us only load."""
        is_new = self._clock.now() - engine.ready_at < engine.status().load_ms / 1000
        return engine.is_busy or (engine not in self._shares and is_new)

    def _victims(self, engine: EngineProcess, free_bytes: int, residents: list[Resident]) -> tuple[int, ...] | None:
        most = free_bytes + sum(resident.n_bytes for resident in residents)
        return residency.make_room(min(self._least(engine), most), free_bytes, residents)

    async def _fit(self, engine: EngineProcess, shape: Shape) -> EngineOptions:
        room_bytes = self._free_of_pool(engine)
        if len(self._engines) > 1:
            room_bytes = min(room_bytes, self._shares.get(engine, room_bytes))
        host_bytes = int(self._room_bytes() * SHRINK**engine.starts.n_load_failures)
        wish = self._wish(engine)
        devices: Sequence[Device] = ()
        if not self._use_gpu:
            fit = fit_host(shape, min(room_bytes, host_bytes), wish)
        else:
            devices = shrunk(await self._devices(), engine.starts.n_load_failures)
            fit = fit_gpu(shape, capped(devices, room_bytes), host_bytes, wish)
        if fit is None and engine.starts.was_ready:
            raise _no_room("other programs on this machine have taken the memory")
        if fit is None:
            raise ModelFileError(self._too_big(shape, wish, room_bytes))
        self._taken[engine] = sum(fit.device_bytes) if self._use_gpu else fit.host_bytes
        engine.fit = fit.why
        return _options(engine.options, fit, devices)

    def _too_big(self, shape: Shape, wish: Wish, room_bytes: int) -> str:
        least = size(least_bytes(shape, wish))
        where = (
            "of the GPUs' memory is free, and the rest does not go into the machine's" if self._use_gpu else "is free"
        )
        return f"the model takes {least} and {size(room_bytes)} {where}; choose a smaller one or another quantisation"

    # --- what there is -----------------------------------------------------------------------------------------

    def _least(self, engine: EngineProcess) -> int:
        """What a model takes of the pool at least."""
        assert engine.shape is not None
        wish = self._wish(engine)
        least = least_device_bytes(engine.shape, wish) if self._use_gpu else least_bytes(engine.shape, wish)
        return min(least, self._pool_bytes)  # a model larger than everything takes everything, and is served in part

    def _wish(self, engine: EngineProcess) -> Wish:
        return Wish(
            n_ctx=engine.options.n_ctx,
            n_slots=engine.options.n_slots or DEFAULT_SLOTS,
            least_slots=engine.options.n_slots or LEAST_SLOTS,
            max_kv_bytes=0 if self._use_gpu else int(memory.total_bytes() * KV_SHARE),
        )

    def _free_of_pool(self, engine: EngineProcess) -> int:
        """By our own books: mapped weights do not show in the kernel's."""
        loaded = sum(n for other, n in self._taken.items() if other is not engine and other.is_loaded)
        return max(0, self._pool_bytes - loaded)

    async def _free_bytes(self) -> int:
        """By the machine's."""
        if not self._use_gpu:
            return self._room_bytes()
        return sum(device.usable_bytes for device in await self._devices())

    async def _devices(self) -> tuple[Device, ...]:
        try:
            self._seen = await trio.to_thread.run_sync(self._gpus, **ABANDON)
        except ConfigError:
            self._seen = ()  # a driver that was well at the start and is not now: nothing fits, which says so
        return self._seen


async def _load(engine: EngineProcess) -> None:
    if engine.status().state != "failed":
        engine.wake()
        await engine.awake()


def _no_room(why: str) -> RefusedError:
    return RefusedError(why, reason=RefuseReason.LOADING, retry_after_s=MAX_ROOM_WAIT_S)


def _options(options: EngineOptions, fit: Fit, devices: Sequence[Device]) -> EngineOptions:
    device = label(devices[0]) + (f" +{len(devices) - 1}" if len(devices) > 1 else "") if devices else ""
    return msgspec.structs.replace(
        options,
        most_slots=fit.n_slots,
        n_ctx=fit.n_ctx,
        n_cells=fit.n_cells,
        checkpoint_bytes=fit.checkpoint_bytes,
        n_gpu_layers=fit.n_gpu_layers,
        split=fit.split,
        device=device,
        samples_in_graph=bool(devices) and all(each.name.startswith(SAMPLING) for each in devices),
        # not with a GPU: its driver reserves address space that is no memory
        max_bytes=0 if options.gpu else fit.host_bytes + fit.host_bytes // SLACK_SHARE + SLACK_BYTES,
    )
