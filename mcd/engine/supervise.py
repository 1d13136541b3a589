"""One inference process: start it with nothing but a socket, notice its end, stop it within two seconds."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

import mcd
from mcd.engine import messages
from mcd.engine.messages import ToDaemon, ToWorker
from mcd.errors import EngineDeadError, system_reason
from mcd.units import Seconds

STOP_GRACE_S = 1.0
"""SIGTERM to SIGKILL; the worker keeps nothing on disk, so nothing needs longer."""
MAX_CRASHES = 3
CRASH_WINDOW_S = 600.0
"""Three crashes in ten minutes make an engine degraded: it goes on restarting, but slowly."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
DEGRADED_BACKOFF_S = 60.0
MAX_OUTBOUND_BYTES = 32 * 1024 * 1024
"""Sealed requests waiting for the worker to read them; three of the largest."""
READ_BYTES = 64 * 1024
"""As in `mcd.engine.link`."""
MAX_STDERR_LINE_BYTES = 256

PASSED_ENV = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "TZ")
"""All a worker inherits of our environment: where GPU libraries and devices are. No HOME, no tokens, no proxies."""
WORKER_ENV = {
    "GGML_NO_BACKTRACE": "1",  # ggml_abort would fork a debugger onto the live process and print its stack
    "MALLOC_PERTURB_": "85",  # glibc overwrites freed memory, so a finished request leaves no residue
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # but not what its cache of small blocks takes: no such cache
    "PYTHONMALLOC": "malloc",  # and Python's own allocator does not keep it from doing so
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "CUDA_CACHE_DISABLE": "1",  # GPU drivers would write compiled kernels to a home that the sandbox closes
    "MESA_SHADER_CACHE_DISABLE": "true",
    "OMP_WAIT_POLICY": "passive",  # a waiting compute thread sleeps instead of spinning
}

OWN_GROUP: Final[dict[str, Any]] = {"process_group": 0}
"""Within our session: when we are killed while it is stopped and cannot notice, the kernel sends an orphaned, stopped
group SIGHUP and SIGCONT. A session of its own would not have that. (trio's stubs do not know the keyword.)"""

_STDERR_LINE = re.compile(rb"code=(E_[A-Z_]{1,40})(?: at=([a-z_]{1,24}:\d{1,5}))?\Z")


class Backoff:
    """How long to wait before the next start. Pure; owner: EngineProcess."""

    def __init__(self) -> None:
        self._crashes: list[Seconds] = []
        self._streak = 0

    def crashed(self, now: Seconds) -> Seconds:
        """Count a crash; return the pause before the next start."""
        self._crashes = [at for at in self._crashes if now - at < CRASH_WINDOW_S] + [now]
        self._streak += 1
        if self.is_degraded(now):
            return DEGRADED_BACKOFF_S
        return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 4.0 ** (self._streak - 1))

    def is_degraded(self, now: Seconds) -> bool:
        """True after MAX_CRASHES within CRASH_WINDOW_S."""
        return sum(now - at < CRASH_WINDOW_S for at in self._crashes) >= MAX_CRASHES

    def worked(self) -> None:
        """A start succeeded: the next crash is again the first of its streak."""
        self._streak = 0


class Child:
    """A started worker: frames in and out. Owner: one run of EngineProcess."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self._stream = stream
        self._outbound: deque[bytes] = deque()
        self._outbound_bytes = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._is_gone = False
        self.pid = process.pid

    async def post_large(self, frame: ToWorker) -> None:
        """Queue a frame once there is room. Safe to cancel: a frame is queued whole or not at all.

        Raises:
            EngineDeadError: The process has gone.
        """
        while self._outbound_bytes > MAX_OUTBOUND_BYTES and not self._is_gone:
            await self._changed.park()
        self.post(frame)

    def post(self, frame: ToWorker) -> None:
        """Queue a small frame; these are bounded by the requests under way, so there is always room.

        Raises:
            EngineDeadError: The process has gone.
        """
        if self._is_gone:
            raise EngineDeadError("the inference process has stopped; it is being restarted")
        data = messages.encode_to_worker(frame)
        self._outbound.append(data)
        self._outbound_bytes += len(data)
        self._changed.unpark_all()

    async def write(self) -> None:
        """Send queued frames until the process has gone."""
        while not self._is_gone:
            while self._outbound:
                data = self._outbound.popleft()
                self._outbound_bytes -= len(data)
                self._changed.unpark_all()
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.gone()
                    return
            await self._changed.park()

    def gone(self) -> None:
        """From now on every post fails. Idempotent."""
        self._is_gone = True
        self._changed.unpark_all()

    async def read(self, handle: Callable[[list[ToDaemon]], None]) -> None:
        """Pass on every batch until end of file.

        Raises:
            RemoteProtocolError: The worker sent garbage.
        """
        inbound = messages.FrameBuffer(messages.MAX_FRAME_TO_DAEMON_BYTES)
        while True:
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            for body in inbound.feed(bytes(data)):
                handle(messages.decode_to_daemon(body))

    async def read_stderr(self, report: Callable[[str, str], None]) -> None:
        """Pass on whitelisted codes until the process closes its end."""
        await read_codes(self._process, report)

    async def stop(self) -> int | None:
        """End the process: close the socket, SIGTERM, after a grace SIGKILL. Returns the exit status."""
        with trio.CancelScope(shield=True):
            await self._stream.aclose()
            self._signal(signal.SIGTERM)
            with trio.move_on_after(STOP_GRACE_S):
                await self._process.wait()
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)
                with trio.move_on_after(STOP_GRACE_S):  # what a GPU driver holds does not end before it lets go
                    await self._process.wait()
            if self._process.stdout is not None:
                await self._process.stdout.aclose()
        return self._process.returncode

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return


async def read_codes(process: trio.Process, report: Callable[[str, str], None]) -> None:
    """Pass on the codes a process writes; everything else it writes is dropped."""
    pipe = process.stdout
    assert pipe is not None
    rest = b""
    async for data in pipe:
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[-MAX_STDERR_LINE_BYTES:]
        for line in lines:
            match = _STDERR_LINE.match(line)
            if match:
                report(match[1].decode(), (match[2] or b"").decode())


def describe_exit(status: int | None) -> str:
    """How a process ended, in words: ``exit status 1`` or ``SIGKILL``."""
    if status is None or status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


async def start() -> Child:
    """Start a worker process; it waits for its Hello.

    The socket becomes its standard input: an inherited number could be one that its select cannot wait for.

    Raises:
        EngineDeadError: The system cannot start a process.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise EngineDeadError(f"cannot start an inference process: {system_reason(error)}") from None
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-s", "-m", "mcd.engine.worker"],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            cwd="/",
            **OWN_GROUP,
        )
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise EngineDeadError(f"cannot start an inference process: {system_reason(error)}") from None
        raise
    finally:
        theirs.close()
    return Child(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in PASSED_ENV if name in os.environ}
    package_root = str(Path(mcd.__file__).resolve().parent.parent)
    return {"LANG": "C.UTF-8", "PYTHONPATH": package_root, **inherited, **WORKER_ENV}
