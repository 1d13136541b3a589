"""Where chat templates run: a killable process (`killable`) that compiles one template and renders prompts with it.

Requests are the template's text, once, then JSON objects of its variables; answers a status byte and text.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcd.engine import killable
from mcd.engine.killable import Child, Status, framed, receive, send

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


def start() -> tuple[int, int]:
    """Fork the process; see `killable.start`."""
    return killable.start(b"mcd-templates", _keep)


# --- the keeper ----------------------------------------------------------------------------------------------------


def _keep(requests: int, answers: int, size_bytes: int) -> None:
    import mcd.engine.jinja_sandbox  # noqa: F401 - here, so that every renderer is born with it

    killable.freeze()
    keeper = _Keeper(requests, answers, size_bytes)
    while keeper.serve_one():
        pass


class _Keeper:
    """Owner of the renderer. Lives in the keeper's process."""

    def __init__(self, requests: int, answers: int, size_bytes: int) -> None:
        self._requests = requests
        self._answers = answers
        self._size_bytes = size_bytes
        self._source = b""
        self._renderer: Child | None = None

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
            self._renderer = self._start()
            answer = self._exchange(b"")
            if request is None or answer[0] != Status.DONE:
                return answer
        return self._exchange(framed(request)) if request is not None else bytes([Status.DONE])

    def _start(self) -> Child:
        """A renderer; its first answer tells whether the template compiles."""
        keeper, ceiling = os.getpid(), self._size_bytes and self._size_bytes + MEMORY_BYTES
        source = self._source
        return Child(lambda requests, answers: _work(source, requests, answers, ceiling, keeper), MAX_ANSWER_BYTES)

    def _exchange(self, request: bytes) -> bytes:
        assert self._renderer is not None
        answer = self._renderer.exchange(request, RENDER_WALL_S)
        if answer is None:
            answer = bytes([self._renderer.bury()])
            self._renderer = None
        return answer


# --- the renderer --------------------------------------------------------------------------------------------------


def _work(source: bytes, requests: int, answers: int, ceiling: int, keeper: int) -> None:
    killable.limit_child(keeper, b"mcd-render", ceiling)
    templates: list[CompiledTemplate] = []
    send(answers, _limited(lambda: _compile(source, templates)))
    while templates and _render_one(templates[0], requests, answers):
        gc.collect()  # a rendering leaves cycles, and they hold its messages


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

    with killable.processor_time(RENDER_CPU_S):
        try:
            return bytes([Status.DONE]) + work()
        except TemplateRefusalError as error:
            return bytes([Status.REFUSED]) + str(error).encode("utf-8", "replace")
        except PromptTooLongError:
            return bytes([Status.TOO_LONG])
        except RecursionError:
            return bytes([Status.REFUSED]) + b"the messages are nested too deeply"
