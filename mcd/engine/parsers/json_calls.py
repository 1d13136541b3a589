"""Calls as JSON objects: ``{"name": ..., "arguments": {...}}``, alone, in marks or in a list.   Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from mcd.engine.parsers.call_stream import MAX_NAME_CHARS, MAX_UNDECIDED_CHARS, CallStream
from mcd.engine.parsers.cursor import Cursor, Reader, choose, json_value, skip_space
from mcd.engine.parsers.syntax import JsonCalls

_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")


def read_json_calls(cursor: Cursor, syntax: JsonCalls, opener: str, calls: CallStream) -> Reader[bool]:
    """Read the objects after a mark (or, without one, at the beginning); False when there is no call."""
    n_before = calls.n_begun
    yield from skip_space(cursor)
    if "```json" in syntax.pad:
        yield from choose(cursor, ("```json",))
        yield from skip_space(cursor)
    is_list = (yield from choose(cursor, ("[",))) is not None
    separators = (",",) if is_list else (";", ",", "") if syntax.is_bare_too else ("",)
    while not calls.is_full:
        if calls.n_begun > n_before:
            cursor.keep(cursor.at)
            yield from skip_space(cursor)
            if (yield from choose(cursor, separators)) is None and "" not in separators:
                break
        yield from skip_space(cursor)
        if (yield from choose(cursor, ("{",))) is None or not (
            yield from _json_call(cursor, calls, is_bare=not opener)
        ):
            break
    if calls.n_begun == n_before:
        return False
    if cursor.kept_from >= 0:
        cursor.give_up()
    for _ in range(2):  # a brace too many is a common slip
        yield from skip_space(cursor)
        yield from choose(cursor, ("]", "}") if opener else ())
    yield from skip_space(cursor)
    yield from choose(cursor, (syntax.close,))
    return True


def _json_call(cursor: Cursor, calls: CallStream, *, is_bare: bool) -> Reader[bool]:
    """One object, after its brace."""
    name, early = "", ""
    is_begun = False
    while isinstance(key := (yield from _json_key(cursor)), str):
        if key in _NAMES and not is_begun:
            name = (yield from _quoted(cursor)) or ""
            if not 0 < len(name) <= MAX_NAME_CHARS or (is_bare and not calls.offers(name)):
                return False
            if early:
                calls.begin(cursor, name)
                is_begun = True
                calls.add(early)
        elif key in _ARGUMENTS and name and not is_begun:
            calls.begin(cursor, name)
            is_begun = True
            yield from json_arguments(cursor, calls)
        else:
            value: list[str] = []
            yield from _bounded(cursor, json_value(cursor, value.append))
            early = "".join(value) if key in _ARGUMENTS else early
        if not is_begun and cursor.n_kept > MAX_UNDECIDED_CHARS:
            return False
    if not is_begun:
        if not name or key is None or is_bare:
            return False
        calls.begin(cursor, name)
        calls.add("{}")
    if not cursor.was_cut:
        calls.complete()
    return True


def _json_key(cursor: Cursor) -> Reader[str | Literal[False] | None]:
    """The next key, with its colon; False when the object is closed, None when it is no such object."""
    yield from skip_space(cursor)
    if (yield from choose(cursor, ("}", ","))) == "}":
        return False
    yield from skip_space(cursor)
    key = yield from _quoted(cursor)
    yield from skip_space(cursor)
    if key is None or (yield from choose(cursor, (":",))) is None:
        return None
    yield from skip_space(cursor)
    return key


def json_arguments(cursor: Cursor, calls: CallStream) -> Reader[None]:
    """The value of ``arguments``: an object, or one inside a string, as some write it."""
    while cursor.at >= len(cursor.held) and not cursor.is_end:
        yield
    if not cursor.held.startswith('"', cursor.at):
        yield from json_value(cursor, calls.add)
        return
    quoted: list[str] = []
    yield from json_value(cursor, quoted.append)
    text = "".join(quoted)
    calls.add(_unquoted(text) or text)


def _quoted(cursor: Cursor) -> Reader[str | None]:
    """A JSON string; None when there is none."""
    while cursor.at >= len(cursor.held) and not cursor.is_end:
        yield
    if not cursor.held.startswith('"', cursor.at):
        return None
    text: list[str] = []
    yield from _bounded(cursor, json_value(cursor, text.append))
    return _unquoted("".join(text))


def _unquoted(text: str) -> str | None:
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogatepass"), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _bounded(cursor: Cursor, reader: Reader[None]) -> Reader[None]:
    """Read on while what is held for going back stays small."""
    while cursor.n_kept <= MAX_UNDECIDED_CHARS:
        try:
            next(reader)
        except StopIteration:
            return
        yield
