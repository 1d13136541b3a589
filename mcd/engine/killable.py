"""Processes for what strangers wrote and code has to run over: templates, pictures. Forked from the worker, killable.

Two processes, in fact. A *keeper*, forked before the worker has keys, prompts or a model, takes one request at a time
and never looks inside; its *child* does the work and may be killed: by the kernel once it has used its seconds of
processor time, by the keeper when even the wall clock runs out. A fresh child then takes over; a request costs its
sender an error and nobody else anything. Both keep the worker's confinement (no files, no network, no programs, not
readable by others) and end with it.

Frames are prefixed by their length; the first byte of an answer is a `Status`. Nothing that holds what a user sent
outlives its request: freeing it overwrites it (MALLOC_PERTURB_).
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from mcd.engine import kernel
from mcd.errors import McdError

MAX_INHERITED_FD = 256
"""A worker that starts has a handful."""
LENGTH_BYTES = 4
EXIT_MEMORY = 3
"""Exit code of a child that may allocate no more."""
_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1
_READ_BYTES = 64 * 1024
"""What a pipe holds. A larger buffer is filled with a pattern for each read, as MALLOC_PERTURB_ asks: it costs more."""


class Status(IntEnum):
    """First byte of an answer."""

    DONE = 0
    """The rest is the result."""
    REFUSED = 1
    """The rest says why."""
    TOO_LONG = 2
    """The result exceeds what anybody could use."""
    TOO_SLOW = 3
    TOO_LARGE = 4
    """It needs more memory than it may have."""
    CRASHED = 5
    """It ended its process some other way."""


def start(name: bytes, keep: Callable[[int, int, int], None]) -> tuple[int, int]:
    """Fork a keeper; returns where to write requests and where to read answers.

    Call once the worker is confined and while it has neither secrets nor threads that compute.

    Args:
        name: Of the keeper's process, for people.
        keep: What it does with its two ends and the size of the worker's data; it ends when this returns.

    Raises:
        OSError: No process can be made.
    """
    size_bytes = _data_bytes()  # asked here: a child may not even look at its own /proc
    requests, answers = os.pipe(), os.pipe()
    worker = os.getpid()
    if os.fork() == 0:
        _become_keeper(name, lambda: keep(requests[0], answers[1], size_bytes), worker, (requests[0], answers[1]))
    os.close(requests[0])
    os.close(answers[1])
    return requests[1], answers[0]


def _become_keeper(name: bytes, keep: Callable[[], None], worker: int, ends: tuple[int, int]) -> NoReturn:
    try:
        end_with(worker, name)
        keep_only(*ends)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):  # nothing we or a stranger's code say reaches the daemon
            os.dup2(null, standard)
        os.close(null)
        keep()
    finally:
        os._exit(0)  # whatever happened: the worker sees us gone, and nothing of its stack may run here


# --- the worker's end ----------------------------------------------------------------------------------------------


class Channel:
    """One request under way, the others in order behind it. Owner: who asks."""

    def __init__(self, ends: tuple[int, int], max_answer_bytes: int, gone: McdError) -> None:
        """Take over the ends that `start` gave; nothing is sent yet. ``gone`` is raised once the keeper has ended."""
        self._requests, self._answers = ends
        self._max_answer_bytes = max_answer_bytes
        self._gone = gone
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._current: int | None = None

    def fileno(self) -> int:
        """Readable when an answer is there, or the process has gone."""
        return self._answers

    @property
    def n_waiting(self) -> int:
        """Requests not answered yet."""
        return len(self._waiting) + (self._current is not None)

    def ask(self, body: bytes) -> bytes:
        """Ask at once and wait for the answer, while nothing else is under way."""
        assert self._current is None
        self._send(body)
        return self._receive()

    def submit(self, job_id: int, body: bytes) -> None:
        """Queue a request; `take` will have its answer."""
        self._waiting.append((job_id, body))
        self._advance()

    def cancel(self, job_id: int) -> None:
        """Forget a request; one under way goes on, and nobody will have its answer."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != job_id)

    def take(self) -> tuple[int, bytes] | None:
        """One answer, if there is one, and whose it is."""
        if not select.select([self._answers], [], [], 0)[0]:
            return None
        answer = self._receive()  # all of it is on its way
        job_id, self._current = self._current, None
        if job_id is None:
            raise self._gone  # it spoke unasked
        self._advance()
        return job_id, answer

    def close(self) -> None:
        """End the process: it ends when its channel does."""
        os.close(self._requests)
        os.close(self._answers)

    def _advance(self) -> None:
        if self._current is None and self._waiting:
            self._current, body = self._waiting.popleft()
            self._send(body)  # the keeper is waiting for it, so this is as quick as copying

    def _send(self, body: bytes) -> None:
        try:
            send(self._requests, body)
        except OSError:
            raise self._gone from None

    def _receive(self) -> bytes:
        answer = receive(self._answers, self._max_answer_bytes)
        if answer is None:
            raise self._gone
        return answer


# --- frames --------------------------------------------------------------------------------------------------------


def send(fd: int, body: bytes) -> None:
    """Write one frame.

    Raises:
        OSError: The other side has gone.
    """
    unsent = memoryview(framed(body))
    while unsent:
        unsent = unsent[os.write(fd, unsent) :]


def receive(fd: int, max_bytes: int) -> bytes | None:
    """Read one frame; None when the other side has gone or breaks the rules."""
    size = int.from_bytes(_read(fd, LENGTH_BYTES), "big")
    if not 0 < size <= max_bytes:
        return None
    body = _read(fd, size)
    return body if len(body) == size else None


def framed(body: bytes) -> bytes:
    """One frame."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def _read(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(fd, min(size, _READ_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- the child, seen from its keeper -------------------------------------------------------------------------------


class Child:
    """A process that works. Owner: the keeper."""

    def __init__(self, work: Callable[[int, int], None], max_answer_bytes: int) -> None:
        """Fork it; ``work`` is given its two ends, and it ends when that returns."""
        requests, answers = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                keep_only(requests[0], answers[1])
                work(requests[0], answers[1])
            finally:
                os._exit(1)
        os.close(requests[0])
        os.close(answers[1])
        self._requests, self._answers = requests[1], answers[0]
        self._max_answer_bytes = max_answer_bytes
        os.set_blocking(self._requests, False)
        self._is_late = False

    def exchange(self, request: bytes, wall_s: float) -> bytes | None:
        """Send a frame and wait for an answer; None when it died, broke the rules or used up its time."""
        deadline = time.monotonic() + wall_s
        unsent = memoryview(request)
        received: list[bytes] = []
        n_received, n_wanted = 0, LENGTH_BYTES
        while n_received < n_wanted:
            left_s = deadline - time.monotonic()
            wants_write = [self._requests] if unsent else []
            readable, writable, _ = select.select([self._answers], wants_write, [], max(0.0, left_s))
            if not readable and not writable:
                self._is_late = True
                return None
            try:
                if writable:
                    unsent = unsent[os.write(self._requests, unsent) :]
                part = os.read(self._answers, _READ_BYTES) if readable else None
            except OSError:
                return None
            if part is not None:
                received.append(part)
                n_received += len(part)
                n_wanted = self._n_wanted(received)
                if not part or n_received > n_wanted > LENGTH_BYTES:
                    return None
        answer = b"".join(received)[LENGTH_BYTES:]
        return answer if 0 < len(answer) <= self._max_answer_bytes and answer[0] in set(Status) else None

    def bury(self) -> Status:
        """End it, if it has not ended; what that was."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._requests)
        os.close(self._answers)
        if self._is_late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF):
            return Status.TOO_SLOW
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_MEMORY:
            return Status.TOO_LARGE
        return Status.CRASHED

    def _n_wanted(self, received: list[bytes]) -> int:
        """How long the whole frame is; its length alone while that is not known."""
        head = received[0] if len(received[0]) >= LENGTH_BYTES else b"".join(received)
        if len(head) < LENGTH_BYTES:
            return LENGTH_BYTES
        return LENGTH_BYTES + min(int.from_bytes(head[:LENGTH_BYTES], "big"), self._max_answer_bytes + 1)


# --- within the processes ------------------------------------------------------------------------------------------


def freeze() -> None:
    """All that was imported stays as it is in every child."""
    gc.collect()
    gc.freeze()


def limit_child(keeper: int, name: bytes, ceiling_bytes: int) -> None:
    """End with the keeper; bound our memory, unless ``ceiling_bytes`` is 0; let the kernel end us when time is up."""
    end_with(keeper, name)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)  # not of addresses: a GPU's libraries take gigabytes of those
    if ceiling_bytes and (hard == resource.RLIM_INFINITY or ceiling_bytes < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling_bytes, ceiling_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends us, whatever we are in the middle of
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})


@contextmanager
def processor_time(limit_s: float) -> Iterator[None]:
    """Give the block so much of it; memory that ran out ends the process too."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    except MemoryError:
        os._exit(EXIT_MEMORY)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def keep_only(*kept: int) -> None:
    """Close what we were born with: the worker's link above all, whose end must mean the worker's."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = max(first, fd + 1)
    os.closerange(first, MAX_INHERITED_FD)


def end_with(parent: int, name: bytes) -> None:
    """Die when the parent does, at once, whatever we are doing."""
    if kernel.arch() is None:
        return  # elsewhere the end of the pipe has to do
    kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with suppress(OSError):
        kernel.call("prctl", _PR_SET_NAME, name, 0, 0, 0)


def _data_bytes() -> int:
    """What this process may write to; 0 where the system does not say, and then there is no ceiling either."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
