"""gpt-oss: everything is a message with a header that names its channel and its addressee.   Pure.

``<|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>``; a call
is a message ``to=functions.NAME``, and may name it before or after the channel.
"""

from __future__ import annotations

import re

from mcd.engine.parsers.call_stream import CallStream
from mcd.engine.parsers.cursor import Cursor, Markers, Reader, skip_space, until
from mcd.engine.parsers.parsed import Parsed
from mcd.engine.parsers.syntax import Family

MESSAGE = "<|message|>"
ENDS = Markers(("<|end|>", "<|return|>", "<|call|>", "<|start|>"))
MAX_HEADER_CHARS = 512
_BEGINNINGS = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    MESSAGE,
    "to=",
    "assistant",
    "commentary",
    "final",
    "analysis",
)
_HEADER = Markers((MESSAGE,))
_TO = re.compile(r"\bto=(?:functions\.)?([\w.:/-]+)")
"""A name may hold what `mcd.api.validate` lets a tool's name hold."""
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def read_harmony(
    cursor: Cursor, parsed: Parsed, family: Family, calls: CallStream | None, *, is_thinking: bool
) -> Reader[None]:
    """Message after message, until the text ends."""
    del family
    if is_thinking:
        yield from until(cursor, ENDS, parsed.think)
    while True:
        header = yield from _header(cursor)
        if header is None:
            if cursor.is_end and cursor.at >= len(cursor.held):
                return
            yield from until(cursor, ENDS, parsed.tell)
            continue
        channel = _CHANNEL.search(header)
        to = _TO.search(header)
        if to is not None and calls is not None and not calls.is_full and _is_call(header, to, calls):
            calls.begin(cursor, to[1])
            yield from skip_space(cursor)
            yield from until(cursor, ENDS, calls.add)
            calls.complete()
        elif to is not None or (channel is not None and channel[1] == "analysis"):
            parsed.is_thinking = True  # what goes to a tool nobody offered is no answer either
            yield from until(cursor, ENDS, parsed.think)
            parsed.is_thinking = False
        else:
            yield from until(cursor, ENDS, parsed.tell)


def _is_call(header: str, to: re.Match[str], calls: CallStream) -> bool:
    return "functions." in header[to.start() :] or calls.offers(to[1])


def _header(cursor: Cursor) -> Reader[str | None]:
    """A message's header, up to where its body begins; None when what follows is no header: then it is text."""
    cursor.keep(cursor.at)
    yield from skip_space(cursor)
    if not (yield from _is_header(cursor)):
        return None
    parts: list[str] = []
    reader = until(cursor, _HEADER, parts.append)
    while True:
        try:
            next(reader)
        except StopIteration as stop:
            if stop.value is not None:
                break
            said = "".join(parts)
            if "<|" in said or said.startswith("to="):  # cut off in a header: no text
                cursor.commit()
            else:
                cursor.go_back()
            return None
        if cursor.n_kept > MAX_HEADER_CHARS:
            cursor.go_back()
            return None
        yield
    cursor.commit()
    return "".join(parts)


def _is_header(cursor: Cursor) -> Reader[bool]:
    """Whether what follows begins as headers do; goes back where it does not."""
    while True:
        rest = cursor.held[cursor.at :]
        if rest.startswith(_BEGINNINGS):
            return True
        if cursor.is_end or not any(beginning.startswith(rest) for beginning in _BEGINNINGS):
            break
        yield
    if cursor.is_cut and any(beginning.startswith(rest) for beginning in _BEGINNINGS):
        cursor.at = len(cursor.held)
        cursor.commit()
    else:
        cursor.go_back()
    return False
