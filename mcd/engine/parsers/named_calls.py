"""Calls as a name and arguments behind it: JSON, tagged parameters or Gemma's notation.   Pure."""

from __future__ import annotations

import json

from mcd.engine.parsers.call_stream import MAX_NAME_CHARS, CallStream
from mcd.engine.parsers.cursor import Cursor, Markers, Reader, choose, run_to_end, skip_space, until
from mcd.engine.parsers.json_calls import json_arguments
from mcd.engine.parsers.kinds import ParameterKinds, python_to_json, to_json
from mcd.engine.parsers.syntax import NamedCalls, Parameters

MAX_VALUE_CHARS = 1024 * 1024
"""A value that must be whole before it can be told; a longer one is a string."""
_QUOTE = '<|"|>'


def read_named_calls(cursor: Cursor, syntax: NamedCalls, opener: str, calls: CallStream) -> Reader[bool]:
    """Read the calls after a mark; False when it opened none."""
    n_before = calls.n_begun
    needs_open = bool(syntax.section) and opener == syntax.section
    while not calls.is_full:
        if calls.n_begun > n_before:
            cursor.keep(cursor.at)
        if needs_open and not (yield from _opens(cursor, syntax)):
            break
        # a call outside its section is believed if it names a tool: its mark may be a word in a text about calls
        is_sure = not syntax.section or needs_open
        if not (yield from _named_call(cursor, syntax, calls, is_sure=is_sure)):
            break
        if not syntax.section:
            return True
        needs_open = True
    if calls.n_begun == n_before:
        return False
    if cursor.kept_from >= 0:
        cursor.give_up()
    if syntax.section_close:
        yield from skip_space(cursor)
        yield from choose(cursor, (syntax.section_close,))
    return True


def _opens(cursor: Cursor, syntax: NamedCalls) -> Reader[bool]:
    """Whether another call follows; takes its mark, or the comma of a list of them."""
    yield from skip_space(cursor)
    if syntax.open:
        return (yield from choose(cursor, (syntax.open,))) is not None
    yield from choose(cursor, (",",))
    yield from skip_space(cursor)
    return not cursor.held.startswith("]", cursor.at)


def _named_call(cursor: Cursor, syntax: NamedCalls, calls: CallStream, *, is_sure: bool) -> Reader[bool]:
    header = yield from _name(cursor, syntax)
    if header is None or not (is_sure or calls.offers(header[0])):
        return False
    name, own_id = header
    calls.begin(cursor, name, own_id)
    if syntax.body == "json":
        yield from skip_space(cursor)
        yield from json_arguments(cursor, calls)
    elif syntax.body == "python":
        yield from _python_arguments(cursor, calls, calls.kinds(name))
    elif syntax.body == "gemma":
        yield from _gemma_value(cursor, calls)
    else:
        yield from _parameters(cursor, syntax, syntax.body, calls, calls.kinds(name))
    if not cursor.was_cut:
        calls.complete()
    if syntax.close:
        yield from skip_space(cursor)
        yield from choose(cursor, (syntax.close.strip(), syntax.close.strip().removeprefix("```")))
    return True


def _name(cursor: Cursor, syntax: NamedCalls) -> Reader[tuple[str, str] | None]:
    """Name and, where one is written, id of a call."""
    own_id = yield from _id_before(cursor, syntax)
    ends = [syntax.after_name.strip() or syntax.after_name, syntax.id_mark]
    if isinstance(syntax.body, Parameters):
        ends += [syntax.body.open, syntax.close]
    markers = Markers(ends)
    parts: list[str] = []
    yield from skip_space(cursor)
    reader = until(cursor, markers, parts.append)
    while True:
        try:
            next(reader)
        except StopIteration as stop:
            found = stop.value
            break
        if sum(map(len, parts)) > MAX_NAME_CHARS:
            return None
        yield
    written = "".join(parts).strip()
    if found is None or len(written) > MAX_NAME_CHARS:
        return None
    own_id = own_id or written
    if found.marker == syntax.id_mark and syntax.id_mark:
        ids: list[str] = []
        yield from until(cursor, Markers([syntax.after_name]), ids.append)
        own_id = "".join(ids)[:MAX_NAME_CHARS]
    elif found.marker in ("{", syntax.close) or (
        isinstance(syntax.body, Parameters) and found.marker == syntax.body.open
    ):
        cursor.at -= len(found.marker)  # it belongs to the arguments
    name = written.removeprefix(syntax.name_prefix)
    if syntax.has_index:
        name = name.rpartition(":")[0] or name
    return (name, own_id) if name and not any(char.isspace() for char in name) else None


def _id_before(cursor: Cursor, syntax: NamedCalls) -> Reader[str]:
    """The id that stands before the name, where one does."""
    if not syntax.id_end:
        return ""
    parts: list[str] = []
    reader = until(cursor, Markers((syntax.id_end,)), parts.append)
    while not run_to_end(reader):
        if sum(map(len, parts)) > MAX_NAME_CHARS:
            return ""
        yield
    return "".join(parts).strip()[:MAX_NAME_CHARS]


def _parameters(
    cursor: Cursor, syntax: NamedCalls, form: Parameters, calls: CallStream, kinds: ParameterKinds
) -> Reader[None]:
    calls.add("{")
    n_told = 0
    while True:
        yield from skip_space(cursor)
        if (yield from choose(cursor, (form.open,))) is None:
            break
        parts: list[str] = []
        if (yield from until(cursor, Markers([form.after_key]), parts.append)) is None:
            break
        key, admitted = _key(form, "".join(parts), kinds)
        if form.value_open:
            yield from skip_space(cursor)
            yield from choose(cursor, (form.value_open,))
        calls.add(f"{', ' if n_told else ''}{json.dumps(key, ensure_ascii=False)}: ")
        n_told += 1
        yield from _unquoted_value(cursor, form, calls, admitted)
    if not cursor.was_cut:
        calls.add("}")


def _key(form: Parameters, written: str, kinds: ParameterKinds) -> tuple[str, frozenset[str]]:
    if form.string_mark and written.endswith(form.string_mark):
        return written.removesuffix(form.string_mark), frozenset({"string"})
    if form.other_mark and written.endswith(form.other_mark):
        key = written.removesuffix(form.other_mark)
        return key, (kinds.of(key) - {"string"}) or kinds.of(key)
    key = written.strip().removesuffix('"')
    return key, kinds.of(key)


def _unquoted_value(cursor: Cursor, form: Parameters, calls: CallStream, kinds: frozenset[str]) -> Reader[None]:
    """A string leaves as it comes; another value once it is whole, as only then its kind is sure."""
    if form.pad:
        yield from choose(cursor, (form.pad,))
    is_wrapped = bool(form.wrap[0]) and (yield from choose(cursor, form.wrap[:1])) is not None
    close = Markers((form.wrap[1] + form.close if is_wrapped else form.close,))
    if kinds == {"string"}:
        calls.add('"')
        found = yield from until(cursor, close, lambda text: calls.add(_escaped(text)), trims=form.pad)
        if found is not None or not cursor.is_cut:
            calls.add('"')
        return
    parts: list[str] = []
    found = yield from until(cursor, close, parts.append, trims=form.pad)
    text = "".join(parts)
    if found is not None or not cursor.is_cut:
        calls.add(to_json(text, kinds) if len(text) <= MAX_VALUE_CHARS else json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# --- Gemma's: {key:<|"|>text<|"|>,n:1} ---


def _gemma_value(cursor: Cursor, calls: CallStream) -> Reader[None]:
    """One value, from its first character to its last, told as JSON."""
    depth = 0
    is_key = False
    while True:
        yield from skip_space(cursor)
        mark = yield from choose(cursor, (_QUOTE, "{", "[", "}", "]", ",", ":"))
        match mark:
            case None:
                if cursor.at >= len(cursor.held):
                    return
                yield from _gemma_word(cursor, calls, is_key=is_key)
            case '<|"|>':
                calls.add('"')
                found = yield from until(cursor, Markers((_QUOTE,)), lambda text: calls.add(_escaped(text)))
                if found is not None or not cursor.is_cut:
                    calls.add('"')
            case _:
                calls.add(mark)
                depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(mark, 0)
                is_key = mark in ("{", ",")
        if depth <= 0:
            return


def _gemma_word(cursor: Cursor, calls: CallStream, *, is_key: bool) -> Reader[None]:
    """A bare word: a key, a number, true, false, null, or a text without its quotes."""
    parts: list[str] = []
    ends = Markers((":", ",", "}", "]") if is_key else (",", "}", "]"))
    found = yield from until(cursor, ends, parts.append)
    word = "".join(parts).strip()
    if found is not None:
        cursor.at -= 1
        if found.marker == ":":
            calls.add(json.dumps(word, ensure_ascii=False))
            return
    if word and (found is not None or not cursor.is_cut):
        calls.add(to_json(word, frozenset({"null", "boolean", "number", "integer", "string"})))


# --- Python's: (key='text', n=1) ---


def _python_arguments(cursor: Cursor, calls: CallStream, kinds: ParameterKinds) -> Reader[None]:
    """Keyword arguments up to the closing bracket, which stays; told as JSON, each value once it is whole."""
    calls.add("{")
    n_told = 0
    while True:
        yield from skip_space(cursor)
        yield from choose(cursor, (",",))
        yield from skip_space(cursor)
        if cursor.at >= len(cursor.held) or cursor.held[cursor.at] == ")":
            break
        parts: list[str] = []
        found = yield from until(cursor, Markers(("=", ")")), parts.append)
        if found is None or found.marker == ")":
            cursor.at -= found is not None
            break
        key = "".join(parts).strip()
        value = yield from _python_value(cursor)
        if cursor.was_cut:
            break
        calls.add(
            f"{', ' if n_told else ''}{json.dumps(key, ensure_ascii=False)}: {python_to_json(value, kinds.of(key))}"
        )
        n_told += 1
    if not cursor.was_cut:
        calls.add("}")


def _python_value(cursor: Cursor) -> Reader[str]:
    """The text of a value: up to a comma or bracket that is in no string and no other bracket."""
    text: list[str] = []
    depth, quote, is_escaped = 0, "", False
    while True:
        while cursor.at < len(cursor.held):
            char = cursor.held[cursor.at]
            if not quote and depth == 0 and char in ",)":
                return "".join(text)
            cursor.at += 1
            text.append(char)
            if quote:
                quote = "" if char == quote and not is_escaped else quote
                is_escaped = char == "\\" and not is_escaped
            elif char in "'\"":
                quote = char
            else:
                depth += (char in "([{") - (char in ")]}")
        if cursor.is_end:
            return "".join(text)
        yield
