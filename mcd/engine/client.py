"""`ports.Engine` over supervised worker processes: submit sealed requests, restart what dies, never see plaintext.

A worker begins asleep: confined, with keys, without a model. It loads once its engine is awake and the room grants the
memory. To unload a model the process is ended and another takes its place, asleep with new keys: all memory comes
back, the GPU driver's too, and nothing of a prompt outlives it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from mcd import __version__
from mcd.engine import supervise
from mcd.engine.catalogue import EngineSpec
from mcd.engine.digest import ABANDON, model_digest
from mcd.engine.faults import Starts
from mcd.engine.fit import Shape
from mcd.engine.gguf_facts import projector_bytes, shape_of, with_projector
from mcd.engine.ggufcheck import check_file, check_projector
from mcd.engine.life import Life, Waking
from mcd.engine.messages import EngineOptions, Hello, Ready
from mcd.engine.supervise import Backoff
from mcd.errors import ConfigError, EngineDeadError, McdError, ModelFileError, RefusedError
from mcd.ids import ModelDigest
from mcd.log import Log
from mcd.ports import Clock, EngineAnswer, EngineRequest, EngineState, EngineStatus, LoadFacts, Measured
from mcd.units import Seconds
from mcd.wire.messages import EngineKeys, RefuseReason

MAX_HOLD_S = 90.0
"""A request waits this long for its model to be loaded; its seal lives 120 s. Models that take longer are refused with
the time, and loaded meanwhile."""
MIN_READY_IN_S = 1.0
"""A loading that takes longer than expected is said to end in this time."""
_LIVING = frozenset({"ready", "asleep", "loading"})


class EngineProcess:
    """One model behind a child process of its own. `run` supervises it; everything else may be called at any time."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        certify: Callable[[bytes], bytes],
        peer_public_key: bytes,
        clock: Clock,
        log: Log,
        options: EngineOptions | None = None,
        measured: Measured | None = None,
    ) -> None:
        """Begin without a process. ``measured`` remembers what loading taught; without it a restart forgets."""
        self.options = options or EngineOptions()
        self.shape: Shape | None = None
        """What the model takes; None for an engine without weights of its own."""
        self.is_judged = trio.Event()
        """Set once the file is checked, or found bad."""
        self._is_known = trio.Event()
        """Set once its digest is known, and so what is remembered of it; or it was found bad."""
        self.starts = Starts()
        self.used_at: Seconds = 0.0
        """When it was loaded, or a request last came or ended."""
        self.ready_at: Seconds = 0.0
        """When it was loaded."""
        self.fit = ""
        """What the room chose, for people."""
        self._spec = spec
        self._certify = certify
        self._peer_public_key = peer_public_key
        self._clock = clock
        self._log = log
        self._measured = measured
        self._device = f"{'gpu' if self.options.gpu else 'cpu'} mcd {__version__}"
        self._digest = spec.digest
        self._facts: LoadFacts | None = None
        self._room: Room | None = None
        self._wanted = trio.Event()
        self._waking: Waking | None = None
        self._life: Life | None = None
        self._rested: Life | None = None
        """The newest that was unloaded, until another ends otherwise."""
        self._state: EngineState = "loading"
        self._detail = ""
        self._restarts = 0
        self._backoff = Backoff()

    # --- what others ask ---------------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """A snapshot; a model that is not loaded now shows what it last could."""
        life, face, facts = self._life, self._face(), self._offered()
        is_ready = self._state == "ready" and life is not None
        return EngineStatus(
            alias=self._spec.alias,
            digest=ModelDigest(self._digest),
            state=self._state,
            n_ctx=facts.n_ctx if facts else 0,
            n_slots=facts.n_slots if facts else 0,
            n_running=life.busy.n_running if life and is_ready else 0,
            n_waiting=life.busy.n_waiting if life and is_ready else 0,
            capabilities=facts.capabilities if facts else (),
            prefill_tokens_per_s=facts.prefill_tokens_per_s if facts else 0.0,
            output_tokens_per_s=facts.output_tokens_per_s if facts else 0.0,
            sealing=facts.sealing if facts else 0,
            device=facts.device if facts else "",
            restarts=self._restarts,
            load_ms=self._facts.load_ms if self._facts else 0,
            ready_in_s=self._ready_in_s(),
            fit=self.fit if is_ready else "",
            detail=self._detail,
            engine_key=face.engine_key if face and facts else b"",
            key_id=face.key_id if face and facts else b"",
        )

    def _offered(self) -> LoadFacts | None:
        """What may be announced: nothing that was never loaded here, nothing while there are no keys."""
        return self._facts if self._face() is not None and self._state in _LIVING else None

    def _face(self) -> Life | None:
        """Whose keys are shown. An unloaded process's, until the next has made its own: the record stays whole."""
        return self._life if self._life is not None and self._life.asleep is not None else self._rested

    def _ready_in_s(self) -> Seconds:
        if self._facts is None or self._state not in {"asleep", "loading"}:
            return 0.0
        began = self._life.load_at if self._life is not None else None
        spent_s = 0.0 if began is None else self._clock.now() - began
        return max(MIN_READY_IN_S, self._facts.load_ms / 1000 - spent_s)

    def keys(self) -> EngineKeys:
        """Certificate and key configs; no configs while there is no process, or a model that was never loaded."""
        face = self._face()
        if face is None or self._offered() is None:
            return EngineKeys(model_digest=self._digest, certificate=b"", configs=())
        return EngineKeys(model_digest=self._digest, certificate=face.certificate, configs=face.configs)

    def sandbox_report(self) -> tuple[str, ...]:
        """What confines the process, one line a control, and what it tuned; empty while there is none."""
        face = self._face()
        if face is None or face.asleep is None:
            return ()
        return (*face.asleep.sandbox, *(face.ready.tuning if face.ready is not None else ()))

    @property
    def pid(self) -> int | None:
        """Of the running process, None when there is none."""
        return self._life.child.pid if self._life is not None and not self._life.is_dead else None

    @property
    def is_loaded(self) -> bool:
        """Whether its model takes memory now, or is about to."""
        life = self._life
        return life is not None and not life.is_over.is_set() and life.load_at is not None

    @property
    def is_busy(self) -> bool:
        """Whether requests run or wait here."""
        return self._waking is not None or (self._life is not None and self._life.n_requests > 0)

    # --- asleep and awake --------------------------------------------------------------------------------------

    def settle(self, room: Room) -> None:
        """Load nothing before ``room`` grants the memory. Call before `run`; without it a model loads at once."""
        self._room = room

    def wake(self) -> None:
        """See `ports.Engine.wake`."""
        self._wake()

    def _wake(self) -> Waking:
        self._waking = waking = self._waking or Waking()
        self._wanted.set()
        return waking

    def _end_waking(self, error: McdError | None = None) -> None:
        if self._waking is not None:
            self._waking.end(error)
            self._waking = None

    async def is_new(self) -> bool:
        """Whether this model was never loaded on this machine, and could be."""
        await self._is_known.wait()
        return self._facts is None and not self._has_failed()

    async def awake(self) -> None:
        """Wait until the loading that `wake` began is over, however it ended."""
        if self._waking is not None:
            await self._waking.is_over.wait()

    async def sleep(self) -> bool:
        """Unload the model and wait until its memory is free; False, and nothing done, while requests run or wait."""
        life = self._life
        if life is None or life.ready is None or self.is_busy:
            return False
        self._wanted = trio.Event()
        self._state, self._detail = "asleep", ""
        await life.rest()
        return True

    @asynccontextmanager
    async def submit(
        self, request: EngineRequest, on_computed: Callable[[], None] = lambda: None
    ) -> AsyncIterator[EngineAnswer]:
        """Run one request; see `ports.Engine.submit`."""
        life = await self._ready_life()
        request_id, events = await life.open(request, on_computed)
        try:
            self.used_at = self._clock.now()
            yield events
        finally:
            self.used_at = self._clock.now()
            life.close(request_id, events)

    async def _ready_life(self) -> Life:
        """The process, once its model is loaded.

        Raises:
            RefusedError: LOADING: it takes too long, or there is no memory for it now.
            EngineDeadError: There is no process.
        """
        if self._state == "loading" and self._offered() is None:
            raise RefusedError("the model is being loaded", reason=RefuseReason.LOADING)
        with trio.move_on_after(MAX_HOLD_S):
            while self._state in {"asleep", "loading"}:
                waking = self._wake()
                await waking.is_over.wait()
                if waking.error is not None:
                    raise waking.error
        if self._life is not None and self._life.ready is not None and not self._life.is_dead:
            return self._life
        if self._state in {"asleep", "loading"}:
            retry_after_s = self._ready_in_s()
            raise RefusedError("the model is being loaded", reason=RefuseReason.LOADING, retry_after_s=retry_after_s)
        raise EngineDeadError("the inference process is not running" + (f": {self._detail}" if self._detail else ""))

    # --- supervision -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker running until cancelled. Never raises."""
        if self._room is None:
            self.wake()
        try:
            while await self._prepare() and await self._live():
                pass
            await trio.sleep_forever()
        finally:
            self._state = "stopped"

    async def _prepare(self) -> bool:
        """Check the file and know its digest; False when it can never be served."""
        try:
            while not await self._read_file():
                pass
        except (ModelFileError, ConfigError) as error:
            self._fail(error)
            return False
        if self._measured is not None:
            self._facts = self._measured.get(ModelDigest(self._digest), self._device)
        self._is_known.set()
        return True

    async def _read_file(self) -> bool:
        """Once; False, after a pause, when no file could be opened now."""
        try:
            if self._spec.backend == "llama":
                self.shape = await self._shape()
            self.is_judged.set()
            if not self._spec.digest:  # asked at each start: the operator may have replaced the file
                self._digest = await model_digest(self._spec.source, self._spec.projector)
        except EngineDeadError as error:
            await self._pause(error.message, is_new_streak=False)
            return False
        return True

    async def _shape(self) -> Shape:
        shape = shape_of(await trio.to_thread.run_sync(check_file, self._spec.source, **ABANDON))
        if not self._spec.projector:
            return shape
        header = await trio.to_thread.run_sync(check_projector, self._spec.projector, **ABANDON)
        return with_projector(shape, projector_bytes(header))

    def _fail(self, error: McdError) -> None:
        self._state = "failed"
        self._detail = error.message
        self.is_judged.set()
        self._is_known.set()
        self._end_waking(error)
        self._log.error("engine_failed", alias=self._spec.alias, code=error.code, detail=error.message)

    async def _live(self) -> bool:
        """One life of a worker, and the pause after it; False when there is no use in another."""
        try:
            child = await supervise.start()
        except EngineDeadError as error:
            await self._pause(error.message, is_new_streak=False)
            return True
        life = self._life = Life(child, self._certify, self._clock)
        try:
            await life.run(
                self._hello(), lambda: self._grant(life), self._loaded, lambda: self._died(life), self._report
            )
        finally:
            self._log.info("engine_stopped", alias=self._spec.alias, pid=child.pid, reason=life.end)
        self._rested = life if life.is_resting else None
        if life.is_resting or self._has_failed():
            return life.is_resting
        verdict = self.starts.ended(life.failure, life.end, is_loading=life.load_at is not None and life.ready is None)
        if verdict.is_final:
            self._fail(ModelFileError(verdict.why + (f"; tried {self.fit}" if self.fit else "")))
            return False
        await self._pause(verdict.why, is_new_streak=life.ready is not None)
        return True

    def _died(self, life: Life) -> None:
        if not life.is_resting and not self._has_failed():
            self._state, self._detail = "restarting", "the inference process stopped"
            self._end_waking(EngineDeadError("the inference process died while it loaded the model"))

    def _has_failed(self) -> bool:
        return self._state == "failed"

    def _hello(self) -> Hello:
        return Hello(
            backend=self._spec.backend,
            source=self._spec.source,
            alias=self._spec.alias,
            model_digest=self._digest,
            peer_public_key=self._peer_public_key,
            options=self.options,
            projector=self._spec.projector,
        )

    async def _grant(self, life: Life) -> EngineOptions:
        """Wait until somebody wants the model and there is room for it."""
        while True:
            if self._facts is not None and not self._wanted.is_set():
                self._state, self._detail = "asleep", ""
            await self._wanted.wait()
            try:
                options = self.options if self._room is None else await self._room(self)
            except RefusedError as refused:
                self._wanted = trio.Event()
                self._end_waking(refused)
            except McdError as error:
                self._fail(error)
                life.stop()
                await trio.sleep_forever()
            else:
                self._state, self._detail = "loading", ""
                return options

    def _loaded(self, ready: Ready) -> None:
        assert self._life is not None
        now = self._clock.now()
        load_ms = max(1, round((now - (self._life.load_at or now)) * 1000))
        self._facts = LoadFacts(
            n_ctx=ready.n_ctx,
            n_slots=ready.n_slots,
            capabilities=ready.capabilities,
            prefill_tokens_per_s=ready.prefill_tokens_per_s,
            output_tokens_per_s=ready.output_tokens_per_s,
            sealing=ready.sealing,
            device=ready.device,
            load_ms=load_ms,
        )
        if self._measured is not None:
            self._measured.put(ModelDigest(self._digest), self._device, self._facts)
        self._state, self._detail = "ready", "; ".join(ready.notes)
        self.used_at = self.ready_at = now
        self.starts.succeeded()
        self._end_waking()
        self._log.info(
            "engine_ready", alias=self._spec.alias, pid=self._life.child.pid, load_ms=load_ms, detail=self.fit
        )

    async def _pause(self, why: str, *, is_new_streak: bool) -> None:
        now = self._clock.now()
        if is_new_streak:
            self._backoff.worked()
        pause_s = self._backoff.crashed(now)
        self._restarts += 1
        self._state = "degraded" if self._backoff.is_degraded(now) else "restarting"
        self._detail = f"the inference process stopped ({why}); next start in {pause_s:.1f} s"
        self._log.warning("engine_restarting", alias=self._spec.alias, restarts=self._restarts, reason=why)
        await trio.sleep(pause_s)

    def _report(self, code: str, at: str) -> None:
        self._log.error("engine_code", alias=self._spec.alias, code=code, detail=at)


Room = Callable[[EngineProcess], Awaitable[EngineOptions]]
"""Makes room in memory for a model, unloading others if need be, and says how to load it (`mcd.engine.fleet`). Raises
RefusedError (LOADING) when others need the memory now, ModelFileError when the model can never fit."""
