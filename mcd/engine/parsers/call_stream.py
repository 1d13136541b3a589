"""The calls of one choice, as the pieces that a reader gets.   Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mcd.api.request import ToolFunction
from mcd.engine.parsers.cursor import Cursor
from mcd.engine.parsers.kinds import ParameterKinds
from mcd.engine.parsers.syntax import IdStyle
from mcd.wire.payload import MAX_TOOL_CALLS, ToolCallDelta

MAX_NAME_CHARS = 256
MAX_UNDECIDED_CHARS = 65_536
"""Held until a call is committed; what grows beyond is text."""


class CallStream:
    """The calls of one choice, as the pieces a reader gets. Owner: a MessageParser."""

    def __init__(self, tools: Sequence[ToolFunction], ids: IdStyle, id_seed: bytes) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._kinds: dict[str, ParameterKinds] = {}
        """Of the tools called so far: to read a schema takes a while."""
        self._ids = ids
        self._id_seed = id_seed
        self._pieces: list[ToolCallDelta] = []
        self._fragments: list[str] = []
        self.n_begun = 0
        self.n_complete = 0

    @property
    def is_full(self) -> bool:
        """No more calls are taken; further ones are text."""
        return self.n_begun >= MAX_TOOL_CALLS

    def offers(self, name: str) -> bool:
        """Whether it is the name of a tool."""
        return name in self._tools

    def kinds(self, name: str) -> ParameterKinds:
        """Of the parameters of a tool."""
        if name not in self._kinds:
            self._kinds[name] = ParameterKinds(self._tools.get(name))
        return self._kinds[name]

    def begin(self, cursor: Cursor, name: str, own_id: str = "") -> None:
        """A call of this name comes: no way back to text."""
        cursor.commit()
        self._flush()
        self._pieces.append(ToolCallDelta(self.n_begun, self._id(name, own_id), name))
        self.n_begun += 1

    def add(self, fragment: str) -> None:
        """More of its arguments."""
        self._fragments.append(fragment)

    def complete(self) -> None:
        """Its arguments are whole."""
        self.n_complete += 1

    def take(self) -> tuple[ToolCallDelta, ...]:
        """The pieces since the last time."""
        if not self._pieces and not self._fragments:
            return ()
        self._flush()
        taken, self._pieces = tuple(self._pieces), []
        return taken

    def _flush(self) -> None:
        arguments = "".join(self._fragments)
        self._fragments.clear()
        if arguments:
            self._pieces.append(ToolCallDelta(self.n_begun - 1, arguments=arguments))

    def _id(self, name: str, own_id: str) -> str:
        if self._ids == "own" and own_id:
            return own_id
        # a function of request and call, so that a resumed answer goes on with the same id
        digest = hashlib.sha256(self._id_seed + f"{self.n_begun}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
        return digest[:9] if self._ids == "nine" else f"call_{digest[:24]}"
