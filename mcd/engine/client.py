"""`ports.Engine` over a supervised worker process: submit sealed requests, restart what dies, never see plaintext."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from mcd.engine import supervise
from mcd.engine.catalogue import EngineSpec
from mcd.engine.digest import ABANDON, file_digest
from mcd.engine.events import RequestEvents
from mcd.engine.ggufcheck import check_file
from mcd.engine.messages import (
    CREDIT_CHUNKS,
    Cancel,
    Certificate,
    CertificateWanted,
    Chunk,
    Credit,
    EngineOptions,
    Failed,
    FailureCode,
    Finished,
    Hello,
    NotReady,
    Ready,
    Refused,
    Rotated,
    Started,
    Status,
    Submit,
    ToDaemon,
)
from mcd.engine.supervise import Backoff, Child
from mcd.errors import (
    ConfigError,
    EngineDeadError,
    McdError,
    ModelFileError,
    RefusedError,
    RemoteProtocolError,
)
from mcd.ids import ModelDigest
from mcd.log import Log
from mcd.ports import (
    Clock,
    EngineEvent,
    EngineRequest,
    EngineState,
    EngineStatus,
)
from mcd.wire.messages import EngineKeys, RefuseReason

QUEUE_FRAMES = CREDIT_CHUNKS + 256
"""Frames of one request held for its consumer: the credit, and the end padding that credit does not hold back."""
STUCK_S = 45.0
"""A worker reports each 5 s; its longest step, the smallest prefill at one token a second, takes 16 s and reports late
once. A user whose provider's engine froze waits this long, because the daemon vouches for it meanwhile."""
MAX_START_CRASHES = 2
"""A model that never was ready and ends its process twice is bad; restarting it for ever would only make noise."""
BAD_FILE = "the file is damaged, or newer than llama-cpp-python 0.3.36"

DETAILS = {
    FailureCode.MODEL_INVALID: f"llama.cpp cannot load the model: {BAD_FILE}",
    FailureCode.MODEL_UNSUPPORTED: "this model does not generate text",
    FailureCode.OUT_OF_MEMORY: "not enough memory for this model and context; choose a smaller one",
    FailureCode.LIBRARY_MISMATCH: "the installed llama.cpp is not the one of llama-cpp-python 0.3.36; install it anew",
    FailureCode.LIBRARY_MISSING: "llama-cpp-python is not installed; run: make setup-serve",
    FailureCode.SCRIPT_INVALID: "the script of the scripted engine cannot be read",
    FailureCode.UPSTREAM: "the server behind --engine openai:URL does not answer as an OpenAI-compatible one",
    FailureCode.UPSTREAM_MODEL: "the server behind --engine openai:URL does not list this model",
    FailureCode.NO_GPU: "this llama-cpp-python was built without GPU support; reinstall it with it, or use --cpu",
    FailureCode.COMPUTE: "the model computes no valid numbers (NaN); the file is damaged",
}
"""What a worker's NotReady means, for the operator."""


class _Worker:
    """One life of the process, as the client sees it. Owner: EngineProcess."""

    def __init__(self, child: Child, started_at: float) -> None:
        self.child = child
        self.started_at = started_at
        self.heard_at = started_at
        self.ready: Ready | None = None
        self.certificate = b""
        self.configs: tuple[bytes, ...] = ()
        self.key_id = b""
        self.engine_key = b""
        self.failure: int | None = None
        self.is_dead = False
        self.requests: dict[int, trio.MemorySendChannel[ToDaemon]] = {}

    def give_credit(self, request_id: int, n_chunks: int) -> None:
        """Tell it that chunks were taken."""
        if not self.is_dead:
            self.child.post(Credit(request_id, n_chunks))


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
    ) -> None:
        self._spec = spec
        self._certify = certify
        self._peer_public_key = peer_public_key
        self._clock = clock
        self._log = log
        self._options = options or EngineOptions()
        self._digest = spec.digest
        self._worker: _Worker | None = None
        self._state: EngineState = "loading"
        self._detail = ""
        self._restarts = 0
        self._load_ms = 0
        self._busy = Status(0, 0)
        self._ids = itertools.count(1)
        self._backoff = Backoff()
        self._was_ready = False
        self._n_bad_starts = 0
        self._end = ""

    # --- what others ask ---

    def status(self) -> EngineStatus:
        """A snapshot."""
        worker = self._worker
        ready = worker.ready if worker is not None and not worker.is_dead else None
        return EngineStatus(
            alias=self._spec.alias,
            digest=ModelDigest(self._digest),
            state=self._state,
            n_ctx=ready.n_ctx if ready else 0,
            n_slots=ready.n_slots if ready else 0,
            n_running=self._busy.n_running if ready else 0,
            n_waiting=self._busy.n_waiting if ready else 0,
            capabilities=ready.capabilities if ready else (),
            prefill_tokens_per_s=ready.prefill_tokens_per_s if ready else 0.0,
            output_tokens_per_s=ready.output_tokens_per_s if ready else 0.0,
            sealing=ready.sealing if ready else 0,
            device=ready.device if ready else "",
            restarts=self._restarts,
            load_ms=self._load_ms,
            detail=self._detail,
            engine_key=worker.engine_key if worker is not None and ready else b"",
            key_id=worker.key_id if worker is not None and ready else b"",
        )

    def keys(self) -> EngineKeys:
        """Certificate and key configs; no configs while not ready."""
        worker = self._worker
        if worker is None or worker.ready is None or worker.is_dead:
            return EngineKeys(model_digest=self._digest, certificate=b"", configs=())
        return EngineKeys(model_digest=self._digest, certificate=worker.certificate, configs=worker.configs)

    def sandbox_report(self) -> tuple[str, ...]:
        """What confines the process, one line a control; empty while not ready."""
        worker = self._worker
        return worker.ready.sandbox if worker is not None and worker.ready is not None else ()

    @property
    def pid(self) -> int | None:
        """Of the running process, None when there is none."""
        return self._worker.child.pid if self._worker is not None and not self._worker.is_dead else None

    @asynccontextmanager
    async def submit(self, request: EngineRequest) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        """Run one request; see `ports.Engine.submit`."""
        worker = self._ready_worker()
        request_id = next(self._ids)
        send, receive = trio.open_memory_channel[ToDaemon](QUEUE_FRAMES)
        worker.requests[request_id] = send
        events = RequestEvents(receive, lambda n_chunks: worker.give_credit(request_id, n_chunks))
        try:
            await worker.child.post_large(
                Submit(request_id, request.header, request.sealed, request.max_output_tokens, request.resume_from)
            )
            yield events
        finally:
            receive.close()
            worker.requests.pop(request_id, None)
            if not events.is_over and not worker.is_dead:
                worker.child.post(Cancel(request_id))

    def _ready_worker(self) -> _Worker:
        worker = self._worker
        if worker is not None and worker.ready is not None and not worker.is_dead:
            return worker
        if self._state == "loading":
            raise RefusedError("the model is being loaded", reason=RefuseReason.LOADING)
        raise EngineDeadError("the inference process is not running" + (f": {self._detail}" if self._detail else ""))

    # --- supervision ---

    async def run(self) -> None:
        """Keep a worker running until cancelled. Never raises."""
        try:
            while await self._prepare():
                worker = await self._one_life()
                self._was_ready |= worker is not None and worker.ready is not None
                fault = self._lasting_fault(worker)
                if fault is not None:
                    self._fail(ModelFileError(fault))
                    break
                await self._pause(worker)
            await trio.sleep_forever()
        finally:
            self._state = "stopped"

    async def _prepare(self) -> bool:
        """Check the file and know its digest; False when it can never be served."""
        while True:
            try:
                if self._spec.backend == "llama":
                    await trio.to_thread.run_sync(check_file, self._spec.source, **ABANDON)
                if not self._spec.digest:  # asked at each start: the operator may have replaced the file
                    self._digest = await file_digest(self._spec.source)
            except EngineDeadError as error:
                self._end = error.message
                await self._pause(None)
            except (ModelFileError, ConfigError) as error:
                self._fail(error)
                return False
            else:
                return True

    def _fail(self, error: McdError) -> None:
        self._state = "failed"
        self._detail = error.message
        self._log.error("engine_failed", alias=self._spec.alias, code=error.code, detail=error.message)

    def _lasting_fault(self, worker: _Worker | None) -> str | None:
        """Why another start would end the same way; None when it may not."""
        if worker is None:
            return None  # the machine could start no process: not the model's fault
        failure = worker.failure
        if failure == FailureCode.UPSTREAM:
            self._end = DETAILS[FailureCode.UPSTREAM]  # a server may come back
            return None
        if failure is not None:
            return DETAILS.get(FailureCode(failure), f"the engine cannot start (code {failure})")
        self._n_bad_starts += worker.ready is None
        if not self._was_ready and self._n_bad_starts >= MAX_START_CRASHES:
            return f"the inference process stops while loading ({self._end}): {BAD_FILE}"
        return None

    async def _pause(self, worker: _Worker | None) -> None:
        now = self._clock.now()
        if worker is not None and worker.ready is not None:
            self._backoff.worked()
        pause_s = self._backoff.crashed(now)
        self._restarts += 1
        self._state = "degraded" if self._backoff.is_degraded(now) else "restarting"
        self._detail = f"the inference process stopped ({self._end}); next start in {pause_s:.1f} s"
        self._log.warning("engine_restarting", alias=self._spec.alias, restarts=self._restarts, reason=self._end)
        await trio.sleep(pause_s)

    async def _one_life(self) -> _Worker | None:
        """Start a worker and stay with it to its end; None when not even a process could be started."""
        try:
            child = await supervise.start()
        except EngineDeadError as error:
            self._end = error.message
            return None
        worker = self._worker = _Worker(child, self._clock.now())
        self._busy = Status(0, 0)
        self._end = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.write)
                nursery.start_soon(child.read_stderr, self._report)
                nursery.start_soon(self._kill_when_late, worker, nursery.cancel_scope)
                nursery.start_soon(self._kill_when_stuck, worker, nursery.cancel_scope)
                child.post(self._hello())
                await child.read(lambda frames: self._handle(worker, frames))
                nursery.cancel_scope.cancel()
        except* Exception as group:  # noqa: BLE001 - supervision: whatever went wrong, the engine is started anew
            self._end = type(group.exceptions[0]).__name__
        finally:
            self._bury(worker)
            status = await child.stop()
            self._end = self._end or supervise.describe_exit(status)
            self._log.info("engine_stopped", alias=self._spec.alias, pid=child.pid, reason=self._end)
        return worker

    def _hello(self) -> Hello:
        return Hello(
            backend=self._spec.backend,
            source=self._spec.source,
            alias=self._spec.alias,
            model_digest=self._digest,
            peer_public_key=self._peer_public_key,
            options=self._options,
        )

    async def _kill_when_late(self, worker: _Worker, scope: trio.CancelScope) -> None:
        await trio.sleep(self._options.start_timeout_s)
        if worker.ready is None:
            self._end = f"not ready after {self._options.start_timeout_s:.0f} s"
            scope.cancel()

    async def _kill_when_stuck(self, worker: _Worker, scope: trio.CancelScope) -> None:
        """A working engine says at least how busy it is; one that computes for minutes without a word never ends."""
        while worker.ready is None or self._clock.now() - worker.heard_at < STUCK_S:  # noqa: ASYNC110 - a watchdog
            await trio.sleep(STUCK_S / 8)
        self._end = f"no sign of life for {STUCK_S:.0f} s"
        scope.cancel()

    def _bury(self, worker: _Worker) -> None:
        """End every request of a dead worker. Its queues' ends are how the consumers learn of it."""
        worker.is_dead = True
        self._state = "restarting"
        self._detail = "the inference process stopped"
        worker.child.gone()
        for channel in worker.requests.values():
            channel.close()
        worker.requests.clear()

    def _report(self, code: str, at: str) -> None:
        self._log.error("engine_code", alias=self._spec.alias, code=code, detail=at)

    # --- frames from the worker ---

    def _handle(self, worker: _Worker, frames: list[ToDaemon]) -> None:
        worker.heard_at = self._clock.now()
        for frame in frames:
            match frame:
                case Started() | Chunk() | Finished() | Refused() | Failed():
                    self._deliver(worker, frame)
                case Status():
                    self._busy = frame
                case CertificateWanted():
                    worker.engine_key = frame.engine_public_key
                    worker.certificate = self._certify(frame.engine_public_key)
                    worker.child.post(Certificate(worker.certificate))
                case Ready():
                    worker.ready = frame
                    worker.configs, worker.key_id = frame.configs, frame.key_id
                    self._set_ready(worker)
                case Rotated():
                    worker.configs, worker.key_id = frame.configs, frame.key_id
                case NotReady():
                    worker.failure = frame.code

    def _set_ready(self, worker: _Worker) -> None:
        self._load_ms = round((self._clock.now() - worker.started_at) * 1000)
        self._state = "ready"
        self._detail = "; ".join(worker.ready.notes) if worker.ready is not None else ""
        self._log.info("engine_ready", alias=self._spec.alias, pid=worker.child.pid, load_ms=self._load_ms)

    def _deliver(self, worker: _Worker, frame: Started | Chunk | Finished | Refused | Failed) -> None:
        channel = worker.requests.get(frame.id)
        if channel is None:
            return
        try:
            channel.send_nowait(frame)
        except trio.WouldBlock:
            raise RemoteProtocolError("the worker sent more chunks than it has credit for") from None
        except trio.BrokenResourceError:
            return

    # --- one request ---
