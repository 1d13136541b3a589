"""Where chat templates run: a small process forked from the worker before it has keys, prompts or a model.

Two processes, in fact. The *keeper* takes one request at a time from the worker and never looks inside a template; the
*renderer*, its child, compiles and runs one and may be killed: by the kernel once a rendering has used its seconds of
processor time, by the keeper when even the wall clock runs out. A fresh renderer then takes over; a request costs its
sender an error and nobody else anything. Both keep the worker's confinement (no files, no network, no programs, not
readable by others) and end with it.

Requests are the template's text, once, then JSON objects of its variables; answers a status byte and text. Each is
prefixed by its length. Nothing that holds text outlives its request: freeing it overwrites it (MALLOC_PERTURB_).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mcd.engine import kernel

if TYPE_CHECKING:
    from mcd.engine.jinja_sandbox import CompiledTemplate

RENDER_CPU_S = 2.0
"""Processor time of one rendering; the largest conversation takes a tenth."""
RENDER_WALL_S = 20.0
"""Its wall clock, for what the kernel does not count: ten renderings' worth on a machine that does much else."""
MEMORY_BYTES = 512 * 1024 * 1024
"""What the renderer may add to what it was forked with: a conversation of the largest size takes a tenth."""
MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""The largest sealed request, its tools and schemas spelled out, twice over."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024 + 1
MAX_INHERITED_FD = 256
"""A worker that starts has a handful."""
LENGTH_BYTES = 4
_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1
_EXIT_MEMORY = 3
_READ_BYTES = 64 * 1024
"""What a pipe holds. A larger buffer is filled with a pattern for each read, as MALLOC_PERTURB_ asks: it costs more."""


class Status(IntEnum):
    """First byte of an answer."""

    DONE = 0
    """The rest is the prompt (nothing for a template that compiled)."""
    REFUSED = 1
    """The rest is the template's reason."""
    TOO_LONG = 2
    """The prompt exceeds what any context holds."""
    TOO_SLOW = 3
    TOO_LARGE = 4
    """It needs more memory than it may have."""
    CRASHED = 5
    """It ended its process some other way."""


def start() -> tuple[int, int]:
    """Fork the keeper; returns where to write requests and where to read answers.

    Call once the worker is confined and while it has neither secrets nor threads that compute.

    Raises:
        OSError: No process can be made.
    """
    size_bytes = _address_space_bytes()  # asked here: a child may not even look at its own /proc
    requests, answers = os.pipe(), os.pipe()
    worker = os.getpid()
    if os.fork() == 0:
        _become_keeper(requests[0], answers[1], size_bytes, worker)
    os.close(requests[0])
    os.close(answers[1])
    return requests[1], answers[0]


def send(fd: int, body: bytes) -> None:
    """Write one frame.

    Raises:
        OSError: The other side has gone.
    """
    unsent = memoryview(_framed(body))
    while unsent:
        unsent = unsent[os.write(fd, unsent) :]


def receive(fd: int, max_bytes: int) -> bytes | None:
    """Read one frame; None when the other side has gone or breaks the rules."""
    size = int.from_bytes(_read(fd, LENGTH_BYTES), "big")
    if not 0 < size <= max_bytes:
        return None
    body = _read(fd, size)
    return body if len(body) == size else None


def _read(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(fd, min(size, _READ_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


# --- the keeper ----------------------------------------------------------------------------------------------------


def _become_keeper(requests: int, answers: int, size_bytes: int, worker: int) -> NoReturn:
    try:
        _end_with(worker, b"mcd-templates")
        _keep_only(requests, answers)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):  # nothing we or a template say reaches the daemon
            os.dup2(null, standard)
        os.close(null)
        import mcd.engine.jinja_sandbox  # noqa: F401 - here, so that every renderer is born with it

        gc.collect()
        gc.freeze()
        keeper = _Keeper(requests, answers, size_bytes)
        while keeper.serve_one():
            pass
    finally:
        os._exit(0)  # whatever happened: the worker sees us gone, and nothing of its stack may run here


class _Keeper:
    """Owner of the renderer. Lives in the keeper's process."""

    def __init__(self, requests: int, answers: int, size_bytes: int) -> None:
        self._requests = requests
        self._answers = answers
        self._size_bytes = size_bytes
        self._source = b""
        self._renderer: _Renderer | None = None

    def serve_one(self) -> bool:
        """Answer one request; False when the worker has gone."""
        request = receive(self._requests, MAX_REQUEST_BYTES)
        if request is None:
            return False
        if not self._source:
            self._source = request
            send(self._answers, self._ask(None))
        else:
            send(self._answers, self._ask(request))
        return True

    def _ask(self, request: bytes | None) -> bytes:
        """The answer to a request; to None, what became of compiling."""
        if self._renderer is None:
            self._renderer = _Renderer(self._source, self._size_bytes)
            answer = self._exchange(b"")
            if request is None or answer[0] != Status.DONE:
                return answer
        return self._exchange(_framed(request)) if request is not None else bytes([Status.DONE])

    def _exchange(self, request: bytes) -> bytes:
        assert self._renderer is not None
        answer = self._renderer.exchange(request)
        if answer is None:
            answer = bytes([self._renderer.bury()])
            self._renderer = None
        return answer


class _Renderer:
    """A renderer's process, seen from the keeper."""

    def __init__(self, source: bytes, size_bytes: int) -> None:
        """Fork it; its first answer tells whether the template compiles."""
        requests, answers = os.pipe(), os.pipe()
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _keep_only(requests[0], answers[1])
            _become_renderer(source, requests[0], answers[1], size_bytes, keeper)
        os.close(requests[0])
        os.close(answers[1])
        self._requests, self._answers = requests[1], answers[0]
        os.set_blocking(self._requests, False)
        self._is_late = False

    def exchange(self, request: bytes) -> bytes | None:
        """Send a frame and wait for an answer; None when it died, broke the rules or used up its time."""
        deadline = time.monotonic() + RENDER_WALL_S
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
                n_wanted = _n_wanted(received)
                if not part or n_received > n_wanted > LENGTH_BYTES:
                    return None
        answer = b"".join(received)[LENGTH_BYTES:]
        return answer if 0 < len(answer) <= MAX_ANSWER_BYTES and answer[0] in set(Status) else None

    def bury(self) -> Status:
        """End it, if it has not ended; what that was."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._requests)
        os.close(self._answers)
        if self._is_late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF):
            return Status.TOO_SLOW
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _EXIT_MEMORY:
            return Status.TOO_LARGE
        return Status.CRASHED


def _n_wanted(received: list[bytes]) -> int:
    """How long the whole frame is; its length alone while that is not known."""
    head = received[0] if len(received[0]) >= LENGTH_BYTES else b"".join(received)
    if len(head) < LENGTH_BYTES:
        return LENGTH_BYTES
    return LENGTH_BYTES + min(int.from_bytes(head[:LENGTH_BYTES], "big"), MAX_ANSWER_BYTES + 1)


# --- the renderer --------------------------------------------------------------------------------------------------


def _become_renderer(source: bytes, requests: int, answers: int, size_bytes: int, keeper: int) -> NoReturn:
    try:
        _end_with(keeper, b"mcd-render")
        ceiling = size_bytes + MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if size_bytes and (hard == resource.RLIM_INFINITY or ceiling < hard):
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends us, whatever a template is in the middle of
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        templates: list[CompiledTemplate] = []
        send(answers, _limited(lambda: _compile(source, templates)))
        while templates and _render_one(templates[0], requests, answers):
            gc.collect()  # a rendering leaves cycles, and they hold its messages
    finally:
        os._exit(1)


def _compile(source: bytes, templates: list[CompiledTemplate]) -> bytes:
    from mcd.engine.jinja_sandbox import CompiledTemplate

    templates.append(CompiledTemplate(source.decode("utf-8", "replace")))
    return b""


def _render_one(template: CompiledTemplate, requests: int, answers: int) -> bool:
    request = receive(requests, MAX_REQUEST_BYTES)
    if request is None:
        return False
    send(answers, _limited(lambda: template.render(json.loads(request))))
    return True


def _limited(work: Callable[[], bytes]) -> bytes:
    """Do what a stranger's template asks for, for as long as it may take."""
    from mcd.engine.jinja_sandbox import PromptTooLongError, TemplateRefusalError

    signal.setitimer(signal.ITIMER_PROF, RENDER_CPU_S)
    try:
        return bytes([Status.DONE]) + work()
    except TemplateRefusalError as error:
        return bytes([Status.REFUSED]) + str(error).encode("utf-8", "replace")
    except PromptTooLongError:
        return bytes([Status.TOO_LONG])
    except RecursionError:
        return bytes([Status.REFUSED]) + b"the messages are nested too deeply"
    except MemoryError:
        os._exit(_EXIT_MEMORY)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


# --- both ----------------------------------------------------------------------------------------------------------


def _keep_only(*kept: int) -> None:
    """Close what we were born with: the worker's link above all, whose end must mean the worker's."""
    for fd in range(3, MAX_INHERITED_FD):
        if fd not in kept:
            with suppress(OSError):
                os.close(fd)


def _end_with(parent: int, name: bytes) -> None:
    """Die when the parent does, at once, whatever we are doing."""
    if kernel.arch() is None:
        return  # elsewhere the end of the pipe has to do
    kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with suppress(OSError):
        kernel.call("prctl", _PR_SET_NAME, name, 0, 0, 0)


def _address_space_bytes() -> int:
    """Of this process; 0 where the system does not say, and then there is no ceiling either."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0
