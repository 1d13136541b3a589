"""Where schemas become grammars, and llama.cpp reads them first: a process for each request, killed after it.

What a schema unfolds to is bounded where it is compiled (`gbnf`), in counts, so that every engine takes the same ones.
This is the wall behind it: a schema for which those bounds do not hold, or one that finds a fault in llama.cpp's
parser, costs its own request. What passed here may be read in the worker, which can neither be killed nor wait.

The first request says how the model writes (`Dialect`), later ones what an answer is bound to (`Order`).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mcd.api.request import ChatRequest
from mcd.engine import abi, killable
from mcd.engine.gbnf import constraint
from mcd.engine.gbnf.constraint import Constraint
from mcd.engine.killable import Child, Status, framed, receive, send
from mcd.engine.parsers import families
from mcd.engine.parsers.syntax import Family, Thinking
from mcd.errors import UnsupportedError, UserError
from mcd.wire.payload import Private

COMPILE_CPU_S = 2.0
"""Processor time of one request's schemas and grammars; a hundred tools take a tenth."""
COMPILE_WALL_S = 20.0
"""Its wall clock, as for `renderer.RENDER_WALL_S`."""
MEMORY_BYTES = 512 * 1024 * 1024
"""The largest grammars take a quarter."""
MAX_REQUEST_BYTES = 32 * 1024 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Three grammars of the largest size, in any encoding."""


class Dialect(msgspec.Struct, frozen=True):
    """How a model writes."""

    text: str
    """Its marks, among other things: `chat.Template.dialect`."""
    may_think: bool


class Order(Private, frozen=True):
    """What to compile."""

    request: ChatRequest
    """Without its messages."""
    thinking: Thinking


class Compiled(Private, frozen=True):
    """What became of it."""

    constraint: Constraint | None
    read_s: float = 0.0
    """Processor time that llama.cpp takes to read the largest grammar."""


class Refused(Private, frozen=True):
    """Why nothing did."""

    is_unsupported: bool
    message: str
    param: str


def start() -> tuple[int, int]:
    """Fork the process; see `killable.start`."""
    return killable.start(b"mcd-schemas", _keep)


def _keep(requests: int, answers: int, size_bytes: int) -> None:
    """Serve until the worker has gone; llama.cpp's library is loaded once there is a model to serve."""
    first = receive(requests, MAX_REQUEST_BYTES)
    if first is None:
        return
    dialect = msgspec.json.decode(first, type=Dialect)
    family = families.family_of(dialect.text)
    reader = _Reader(ctypes.CDLL(abi.library_path()))
    killable.freeze()
    send(answers, bytes([Status.DONE]))
    keeper, ceiling = os.getpid(), size_bytes and size_bytes + MEMORY_BYTES

    def work(inward: int, outward: int) -> None:
        killable.limit_child(keeper, b"mcd-schema", ceiling)
        request = receive(inward, MAX_REQUEST_BYTES)
        if request is not None:
            with killable.processor_time(COMPILE_CPU_S):
                order = msgspec.json.decode(request, type=Order)
                send(outward, _compile(order, family, dialect.may_think, reader))

    while _serve_one(requests, answers, work):
        pass


def _serve_one(requests: int, answers: int, work: Callable[[int, int], None]) -> bool:
    """Answer one request and forget it; False when the worker has gone."""
    request = receive(requests, MAX_REQUEST_BYTES)
    if request is None:
        return False
    child = Child(work, MAX_ANSWER_BYTES)
    answer = child.exchange(framed(request), COMPILE_WALL_S)
    end = child.bury()  # also one that answered: it has seen a stranger's schemas
    send(answers, answer if answer is not None else bytes([end]))
    return True


def _compile(order: Order, family: Family, may_think: bool, reader: _Reader) -> bytes:
    try:
        made = constraint.build(order.request, family, order.thinking, may_think=may_think)
        if made is not None:
            for text in made.grammars():
                reader.read(text, made.param)
    except UserError as error:
        refused = Refused(isinstance(error, UnsupportedError), error.message, error.param or "")
        return bytes([Status.REFUSED]) + msgspec.msgpack.encode(refused)
    except RecursionError:
        refused = Refused(True, "the JSON schema cannot be enforced: it is nested too deeply", "")
        return bytes([Status.REFUSED]) + msgspec.msgpack.encode(refused)
    return bytes([Status.DONE]) + msgspec.msgpack.encode(Compiled(made, reader.slowest_s))


class _Reader:
    """llama.cpp's parser of grammars, which needs neither a model nor the rest of the package."""

    def __init__(self, library: Any) -> None:
        self._init, self._free = library.llama_sampler_init_grammar, library.llama_sampler_free
        self._init.restype = ctypes.c_void_p
        self._init.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        self._free.argtypes = [ctypes.c_void_p]
        self.slowest_s = 0.0

    def read(self, text: str, param: str) -> None:
        """Read a grammar and forget it.

        Raises:
            UnsupportedError: llama.cpp does not take it.
        """
        began = time.process_time()
        handle = self._init(None, text.encode(), b"root")
        self.slowest_s = max(self.slowest_s, time.process_time() - began)
        if not handle:
            raise unreadable(param)
        self._free(handle)


def unreadable(param: str) -> UnsupportedError:
    """The error of a grammar that llama.cpp refuses."""
    return UnsupportedError(
        "the schema makes no grammar: it is too large, or refers to itself with nothing between", param=param
    )
