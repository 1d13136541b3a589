"""The worker's end of the schema process: what an answer is bound to, compiled once for each conversation.

An agent brings the same tools in every turn, so what was compiled is kept: for requests of the same salt alone, as
prefix caches are, because how soon a first token comes would else tell who else brought these tools.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec

from mcd.api.request import ChatRequest
from mcd.engine import compiler
from mcd.engine.compiler import Compiled, Dialect, Order, Refused
from mcd.engine.gbnf.constraint import param_of
from mcd.engine.killable import Channel, Status
from mcd.engine.parsers.syntax import Thinking
from mcd.engine.slots import MAX_IDLE_CACHE_S
from mcd.errors import InvalidRequestError, McdError, UnsupportedError, UserError
from mcd.units import Seconds

MAX_KEPT = 64
"""Sets of tools and schemas; a few hundred kilobytes each at most, usually a tenth of that."""
MAX_KEPT_CHARS = 16 * 1024 * 1024


class CompilerGoneError(McdError):
    """The keeper of the schema process ended, which only the end of this machine's memory explains; we end as well."""

    code = "engine_compiler_gone"


class Compiling:
    """Owner: LlamaBackend, of the channel to the schema process that the worker started."""

    def __init__(self, ends: tuple[int, int]) -> None:
        """Take over the channel; nothing is sent yet."""
        self._channel = Channel(ends, compiler.MAX_ANSWER_BYTES, CompilerGoneError("the schema process has ended"))
        self._pending: dict[int, tuple[bytes, str]] = {}
        """By request: under which key its result is kept, none if empty, and the member that an error names."""
        self._ready: list[tuple[int, Compiled]] = []
        self.kept = Kept()

    @classmethod
    def start(cls) -> Compiling:
        """Fork the process; call while the worker is confined, and before it has keys.

        Raises:
            OSError: No process can be made.
        """
        return cls(compiler.start())

    def load(self, dialect: Dialect) -> None:
        """Say how the model writes; once, before anything is submitted."""
        self._channel.ask(msgspec.json.encode(dialect))

    def fileno(self) -> int:
        """Readable when an answer is there, or the process has gone."""
        return self._channel.fileno()

    def submit(self, job_id: int, request: ChatRequest, thinking: Thinking, salt: str, now: Seconds) -> None:
        """Queue a request that `param_of` says is bound; `take` will have it."""
        order = msgspec.json.encode(Order(_binding_part(request), thinking))
        key = hashlib.sha256(len(salt).to_bytes(4, "big") + salt.encode() + order).digest() if salt else b""
        known = self.kept.find(key, now) if key else None
        if known is not None:
            self._ready.append((job_id, known))
            return
        self._pending[job_id] = key, param_of(request) or ""
        self._channel.submit(job_id, order)

    def cancel(self, job_id: int) -> None:
        """Forget a request; one being compiled goes on, and nobody will have it."""
        if self._pending.pop(job_id, None) is not None:
            self._channel.cancel(job_id)
        self._ready = [entry for entry in self._ready if entry[0] != job_id]

    def take(self, now: Seconds) -> list[tuple[int, Compiled | UserError]]:
        """What is done.

        Raises:
            CompilerGoneError: The process has ended.
        """
        done: list[tuple[int, Compiled | UserError]] = [*self._ready]
        self._ready.clear()
        answered = self._channel.take()
        if answered is None or answered[0] not in self._pending:
            return done
        key, param = self._pending.pop(answered[0])
        try:
            compiled = _result(answered[1], param)
        except UserError as error:
            return [*done, (answered[0], error.with_traceback(None))]  # whose frames hold the request, and so it them
        if key:
            self.kept.keep(key, compiled, now)
        return [*done, (answered[0], compiled)]

    def close(self) -> None:
        """End the process."""
        self._channel.close()


class Kept:
    """What was compiled, the one used longest ago first. Owner: Compiling."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[Compiled, int, Seconds]] = OrderedDict()
        """By digest of salt and schemas: what, its size, when it was used last."""
        self._n_chars = 0

    def __len__(self) -> int:
        """How many."""
        return len(self._entries)

    @property
    def expires_at(self) -> Seconds | None:
        """When `expire` will have something to do."""
        return next((at + MAX_IDLE_CACHE_S for _, _, at in self._entries.values()), None)

    def find(self, key: bytes, now: Seconds) -> Compiled | None:
        """What is kept under a key."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = entry[0], entry[1], now
        return entry[0]

    def keep(self, key: bytes, compiled: Compiled, now: Seconds) -> None:
        """Keep it, if it is no more than a quarter of all there may be."""
        n_chars = compiled.constraint.n_chars if compiled.constraint is not None else 0
        if n_chars > MAX_KEPT_CHARS // 4:
            return
        self._drop(key)
        self._entries[key] = compiled, n_chars, now
        self._n_chars += n_chars
        while len(self._entries) > MAX_KEPT or self._n_chars > MAX_KEPT_CHARS:
            self._drop(next(iter(self._entries)))

    def expire(self, now: Seconds) -> None:
        """Forget what nobody came back for."""
        while self._entries and now >= next(iter(self._entries.values()))[2] + MAX_IDLE_CACHE_S:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._n_chars -= entry[1]


def _binding_part(request: ChatRequest) -> ChatRequest:
    """Of a request, what its answer is bound to; equal in every turn of a conversation."""
    return ChatRequest(
        model="",
        messages=(),
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format,
    )


def _result(answer: bytes, param: str) -> Compiled:
    try:
        if answer[0] == Status.DONE:
            return msgspec.msgpack.decode(answer[1:], type=Compiled)
        if answer[0] == Status.REFUSED:
            refused = msgspec.msgpack.decode(answer[1:], type=Refused)
            kind = UnsupportedError if refused.is_unsupported else InvalidRequestError
            raise kind(refused.message, param=refused.param or param)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        why = "its compiler answered nonsense"  # a stranger's schemas may have made it do anything
    else:
        why = {
            Status.TOO_SLOW: f"it takes more than {compiler.COMPILE_CPU_S:.0f} s to compile",
            Status.TOO_LARGE: f"it takes more than {compiler.MEMORY_BYTES // 2**20} MiB to compile",
        }.get(Status(answer[0]), "it is more than the parser of grammars can take")
    raise UnsupportedError(f"the JSON schema cannot be enforced: {why}", param=param)
