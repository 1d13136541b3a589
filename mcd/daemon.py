"""The composition root: the only module that builds adapters and hands them to rooms; one nursery, one order to stop.

Start: key, mesh, engines, then the API; a mesh nobody answers in or an engine that fails never keeps the API down.
Stop: the API refuses and ends its streams, a goodbye leaves, engines stop, the mesh closes. Under three seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Any

import trio

from mcd import __version__
from mcd.cards import Check, ModelCard, PeerCard, RouteTerm
from mcd.config import Config, control_path, parse_http
from mcd.engine import gpu
from mcd.engine.catalogue import resolve
from mcd.engine.client import EngineProcess
from mcd.engine.fleet import Fleet
from mcd.engine.messages import EngineOptions
from mcd.entry.failover import Failover
from mcd.entry.keyring import Keyring
from mcd.entry.probe import Probe
from mcd.entry.router import Router
from mcd.entry.session import Session
from mcd.entry.view import MeshEntry
from mcd.errors import ConfigError
from mcd.gateway.app import Gateway
from mcd.gateway.bridge import Bridge, Started
from mcd.gateway.control import Control
from mcd.gateway.loops import run_loops
from mcd.gateway.metrics import Metrics
from mcd.gateway.server import remove_stale
from mcd.log import Log, on_stderr
from mcd.mesh.network import Libp2pMesh
from mcd.ports import DaemonStatus
from mcd.provider.announce import Announcer
from mcd.provider.serve import Provider
from mcd.routing.directory import Directory
from mcd.store import keys
from mcd.store.measured import MeasuredFile
from mcd.units import Seconds, UnixMs, unix_ms
from mcd.wire.discovery import MAX_RECORDS
from mcd.wire.keyconfig import certify
from mcd.wire.messages import EXCHANGE_PROTOCOL, INFO_PROTOCOL
from mcd.wire.signing import SigningKey

FAREWELL_S = 1.0
"""The longest a goodbye may delay the end."""
MAX_OPEN_FILES = 65_536
"""Ten times what the limits of mesh and gateway allow together; some systems call any number unlimited."""
LARGE_BLOCK_BYTES = 65_536
"""What a stream brings at once; smaller pieces are cheaper kept."""
M_MMAP_THRESHOLD = -3
"""glibc's number of the setting."""
MIN_OPEN_FILES = 256
"""Twenty to start, the rest for 64 kept links, connections in their handshake and clients."""


class SystemClock:
    """The machine's clocks, as ports.Clock."""

    now = staticmethod(time.monotonic)
    """Read a dozen times a request: no call of ours around the system's, and none of trio's four."""

    def unix_ms(self) -> UnixMs:
        """The wall clock."""
        return unix_ms(time.time())


class Daemon:
    """Everything one `mcd run` consists of. Also answers the control socket's questions."""

    def __init__(self, config: Config, key: SigningKey, log: Log) -> None:
        self._config = config
        self._log = log
        self._clock = clock = SystemClock()
        self._started_at = time.monotonic()
        self._http = ""
        self._mesh = mesh = Libp2pMesh(
            key.seed,
            listen=config.listen,
            network=config.network,
            bootstrap=config.bootstrap,
            use_lan=config.use_lan,
            log=log,
            clock=clock,
        )
        self._directory = Directory(mesh.peer_id, config.network)
        self._engines = _engines(config, key, clock, log)
        self._fleet = Fleet(self._engines, clock=clock, use_gpu=config.device == "gpu")
        self._provider = Provider(self._engines, clock, mesh)
        self._announcer = Announcer(
            config, key, mesh, self._engines, clock, self._directory.set_own, self._provider.statuses
        )
        self._probe = Probe(mesh, self._directory, config.network, clock, log)
        self._router = Router(self._directory, mesh, clock, SystemRandom())
        self._session = Session(mesh, Keyring(self._probe, clock), clock)
        self._failover = Failover(self._router, self._session, self._search, clock, log)
        self._entry = MeshEntry(
            self._failover,
            self._router,
            self._directory,
            mesh,
            clock,
            self._probe.n_running,
            self._provider.statuses,
        )
        self._bridge = Bridge(self._entry, lambda name: log.error("request_failed", reason=name))
        self._gateway = Gateway(bridge=self._bridge, entry=self._entry, status=self.status, metrics=Metrics(), log=log)
        self._control = Control(self, log)

    # --- running ---------------------------------------------------------------------------------------------

    async def run_mesh(self, ready: Callable[[None], None]) -> None:
        """Trio's main task: the mesh, the engines and everything between, until cancelled."""
        async with trio.open_nursery() as outer:
            mesh_life = trio.CancelScope(shield=True)
            self._mesh.serve(EXCHANGE_PROTOCOL, self._provider.serve)
            self._mesh.serve(INFO_PROTOCOL, self._announcer.serve_info)
            self._mesh.on_records_wanted(self._newest_records)
            await outer.start(self._run_mesh, mesh_life)  # type: ignore[arg-type]  # libp2p's stubs' TaskStatus
            try:
                await self._run_rooms(ready)
            finally:
                self._provider.leave()
                with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_S):
                    await self._announcer.withdraw()
                mesh_life.cancel()

    async def _run_mesh(self, life: trio.CancelScope, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        with life:
            await self._mesh.run(task_status=task_status)

    async def _run_rooms(self, ready: Callable[[None], None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._bridge.run)  # type: ignore[arg-type]  # libp2p's stubs' TaskStatus
            nursery.start_soon(self._fleet.run)
            nursery.start_soon(self._probe.run)
            nursery.start_soon(self._session.run)
            nursery.start_soon(self._announcer.run)
            ready(None)

    async def run_gateway(self, on_up: Callable[[DaemonStatus], None], _: None, stop: Any) -> None:
        """Asyncio's main task: the API and the control socket, until ``stop`` is set."""
        host, port = parse_http(self._config.http)
        await self._control.listen(control_path(self._config.home))
        try:
            self._http = await self._gateway.listen(host, port)
            on_up(self.status())
            await stop.wait()
        finally:
            self._log.info("stopping", uptime_s=round(time.monotonic() - self._started_at, 1))
            await self._gateway.stop()
            await self._control.stop()

    async def _search(self, alias: str) -> bool:
        """Look for providers that no record told us of: our own engine first, which may be ready since a moment."""
        self._announcer.signed_record()
        return alias in self._directory.snapshot(self._clock.unix_ms()).by_alias or await self._probe.search(alias)

    def _newest_records(self) -> Sequence[bytes]:
        """What a peer that just met us may learn: us, and whom we heard of last."""
        others = self._directory.newest_first(self._clock.unix_ms(), MAX_RECORDS - 1)
        return [self._announcer.signed_record(), *(signed.raw for signed in others)]

    # --- ControlSource ---------------------------------------------------------------------------------------

    def peers(self) -> Sequence[PeerCard]:
        """See ports.Entry.peers."""
        return self._entry.peers()

    def models(self) -> Sequence[ModelCard]:
        """See ports.Entry.models."""
        return self._entry.models()

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        """See ports.Entry.route."""
        return self._entry.route(model, n_prompt_tokens, n_output_tokens)

    def doctor(self) -> Sequence[Check]:
        """What only the running daemon knows: its engines' isolation, its mesh."""
        n_known = len(self._directory.peers(self._clock.unix_ms()))
        mesh = _mesh_check(len(self._mesh.links()), n_known, self._config.network, self._mesh.unreached())
        checks = [mesh, _clock_check(self._directory.counters)]
        checks += [Check(name, "ok", words) for name, words in self._fleet.describe()]
        for engine in self._engines:
            status = engine.status()
            state = {"ready": "ok", "asleep": "ok", "failed": "fail"}.get(status.state, "warn")
            words = ", ".join(part for part in (status.state, status.fit, status.detail) if part)
            checks.append(Check(f"engine {status.alias}", state, words))  # type: ignore[arg-type]  # the three literals above
            checks += [_isolation(line) for line in engine.sandbox_report()]
        return checks

    def status(self) -> DaemonStatus:
        """The whole daemon in one struct."""
        answered, served, now_ms = self._failover.answered, self._provider.served, self._clock.unix_ms()
        ttfts = sorted(self._router.ttfts)
        counters = {f"record_{why}": count for why, count in self._directory.counters.items()}
        counters["request_failovers"] = answered.n_failovers
        counters["request_cancelled"] = answered.n_cancelled
        counters |= {f"exchange_{outcome}": count for outcome, count in served.outcomes.items()}
        return DaemonStatus(
            version=__version__,
            peer_id=self._mesh.peer_id,
            name=self._config.name,
            network=self._config.network,
            roles=("entry", "provider") if self._engines else ("entry",),
            uptime_s=time.monotonic() - self._started_at,
            http=self._http,
            addresses=tuple(self._mesh.addresses()),
            n_links=len(self._mesh.links()),
            n_peers=len(self._directory.peers(now_ms)),
            n_models=len(self._directory.snapshot(now_ms).by_alias),
            engines=tuple(self._provider.statuses()),
            n_requests=answered.n_requests,
            n_failed=answered.n_failed,
            n_served=served.n_finished,
            n_prompt_tokens=answered.n_prompt_tokens,
            n_output_tokens=answered.n_output_tokens,
            ttft_p50_s=_percentile(ttfts, 0.50),
            ttft_p95_s=_percentile(ttfts, 0.95),
            warnings=(*_details(self._engines), *self._announcer.warnings, *_unreached(self._mesh.unreached())),
            counters={**self._mesh.counters(), **counters},
        )


def run(config: Config, on_up: Callable[[DaemonStatus], None]) -> int:
    """Run a peer until SIGINT or SIGTERM; ``on_up`` is called once when the API listens. Returns the exit code.

    Raises:
        ConfigError: Something in ``config`` cannot be used; nothing was left running.
    """
    if config.device == "gpu" and config.engine == "llama":
        _need_gpus()
    allow_open_files()
    return_large_blocks()
    keys.open_home(config.home)
    remove_stale(control_path(config.home))  # before the ports: a second daemon in one home is told just that
    with on_stderr(config.log_level) as log:
        daemon = Daemon(config, keys.load_or_create(config.home), log)
        run_loops(daemon.run_mesh, partial(daemon.run_gateway, on_up))
    return 0


def _need_gpus() -> None:
    try:
        gpu.gpus()
    except ConfigError as problem:
        raise ConfigError(f"--gpu: {problem.message}") from None


def allow_open_files() -> None:
    """Let this process have as many files and sockets open as it may; many systems begin with 256 or 1,024.

    Raises:
        ConfigError: That is too few to run.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS grants less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    granted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if granted != resource.RLIM_INFINITY and granted < MIN_OPEN_FILES:
        raise ConfigError(f"only {granted} files may be open here, a peer needs {MIN_OPEN_FILES}; run: ulimit -n 4096")


def return_large_blocks() -> None:
    """Have the C library take what arrives in large pieces from the system and give it back, where it is glibc.

    By itself it keeps such pieces once the first was freed, and after a flood of streams their holes are ours for good:
    three times what the limits of the mesh allow.
    """
    with contextlib.suppress(AttributeError):  # another C library has no such call and no such habit
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _engines(config: Config, key: SigningKey, clock: SystemClock, log: Log) -> list[EngineProcess]:
    if config.device == "none":
        return []
    options = EngineOptions(gpu=config.device == "gpu")
    measured = MeasuredFile(config.home)
    return [
        EngineProcess(
            spec,
            certify=lambda engine_key: certify(engine_key, clock.unix_ms(), key),
            peer_public_key=key.public_key,
            clock=clock,
            log=log,
            options=options,
            measured=measured,
        )
        for spec in resolve(config.models, config.home, config.engine)
    ]


def _mesh_check(n_links: int, n_known: int, network: str, unreached: Sequence[str]) -> Check:
    """Whether there is anybody, and else what to do."""
    if not n_links:
        remedy = "; ".join(_unreached(unreached))
        remedy = remedy or "start another mcd on this network or join one with --bootstrap"
        return Check("mesh", "warn", f"no peer linked; {remedy}")
    if not n_known:
        words = f"peers linked: {n_links}, none of network {network}; those that are to meet need the same --network"
        return Check("mesh", "warn", words)
    return Check("mesh", "ok", f"peers linked: {n_links}; known: {n_known}")


def _clock_check(counters: Mapping[str, int]) -> Check:
    """What time it is elsewhere, as records say; a warning at most, because anybody can send old ones."""
    n_ours = counters.get("accepted", 0)
    n_others = sum(counters.get(f"dropped_{why}", 0) for why in ("future", "expired"))
    if n_others > n_ours:
        return Check("peers' clocks", "warn", f"{n_others} records are of another time; run: timedatectl set-ntp true")
    return Check("peers' clocks", "ok", f"{n_ours} records are of our time, {n_others} are not")


def _details(engines: Sequence[EngineProcess]) -> Iterator[str]:
    """What each engine has to say for itself."""
    for status in (engine.status() for engine in engines):
        if status.detail:
            yield f"{status.alias}: {status.detail}"


def _unreached(addresses: Sequence[str]) -> list[str]:
    """What to say of bootstrap peers that do not answer."""
    return [f"no answer at --bootstrap {at}; does that peer run, and does its `mcd id` say so?" for at in addresses]


def _isolation(line: str) -> Check:
    name, _, rest = line.partition(": ")
    return Check(f"isolation {name}", "ok" if rest.startswith("holds") else "warn", rest)


def _percentile(ordered: Sequence[Seconds], fraction: float) -> Seconds | None:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else None


__all__ = ["Daemon", "run"]
