"""One choice's text, split into thoughts, answer and calls as it comes; nothing ever lost.   Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mcd.api.request import ToolFunction
from mcd.engine.parsers.call_stream import CallStream
from mcd.engine.parsers.calls import read_calls
from mcd.engine.parsers.cursor import MIN_MARKER_CHARS, Cursor, Markers, Reader, choose, run_to_end, skip_space, until
from mcd.engine.parsers.harmony import read_harmony
from mcd.engine.parsers.parsed import Parsed
from mcd.engine.parsers.syntax import Family, HarmonyCalls, JsonCalls, NamedCalls, Think


class MessageParser:
    """Splits one choice's text. Owner: its Sequence."""

    def __init__(
        self,
        family: Family,
        tools: Sequence[ToolFunction] = (),
        *,
        is_thinking: bool = False,
        id_seed: bytes = b"",
    ) -> None:
        """Begin.

        Args:
            family: How the model writes.
            tools: What was offered; without any, a call is text.
            is_thinking: The prompt itself ended with an opened thought.
            id_seed: Makes the ids of calls differ between requests and equal between a request's providers.
        """
        self._cursor = Cursor()
        self._parsed = Parsed()
        self.calls = CallStream(tools, family.ids, id_seed)
        program = read_harmony if isinstance(family.calls, HarmonyCalls) else _read_message
        self._reader = program(
            self._cursor, self._parsed, family, self.calls if tools else None, is_thinking=is_thinking
        )
        self.is_over = False
        """Nothing is looked for any more: whatever comes is text."""

    @property
    def is_thinking(self) -> bool:
        """Whether the model is at its thoughts now."""
        return self._parsed.is_thinking

    def feed(self, text: str, *, is_end: bool = False, is_cut: bool = False) -> Parsed:
        """Add text; what it adds to the answer.

        Args:
            text: What came.
            is_end: Nothing more will come.
            is_cut: The model had more to say: a call that was just begun is no text.
        """
        if self.is_over:
            return Parsed(text)
        self._cursor.add(text)
        self._cursor.is_end, self._cursor.is_cut = is_end, is_cut
        self.is_over = run_to_end(self._reader)
        if self.is_over:
            self._parsed.tell(self._cursor.held[self._cursor.at :])
            self._cursor.held, self._cursor.at = "", 0
        self._parsed.calls = self.calls.take()
        return self._parsed.take()


def _read_message(
    cursor: Cursor, parsed: Parsed, family: Family, calls: CallStream | None, *, is_thinking: bool
) -> Reader[None]:
    """Any family but harmony: thoughts first, then text with calls in it."""
    think = family.think
    assert think is not None
    if is_thinking:
        yield from skip_space(cursor)
        yield from choose(cursor, (think.open,))  # some open again what the prompt has opened
        yield from _thoughts(cursor, parsed, think)
    syntax = family.calls if calls is not None else None
    assert not isinstance(syntax, HarmonyCalls)
    yield from _head(cursor, parsed, think, syntax, calls)
    openers = _openers(syntax)
    markers = Markers([*openers, *family.drops, *((think.open,) if think.anywhere else ())])
    if not markers.texts:
        return
    while True:
        found = yield from until(cursor, markers, parsed.tell, trims=None)
        if found is None:
            return
        if found.marker == think.open:
            yield from _thoughts(cursor, parsed, think)
        elif found.marker in openers and calls is not None and syntax is not None:
            cursor.keep(cursor.at)
            if (yield from read_calls(cursor, syntax, found.marker, calls)):
                yield from skip_space(cursor)
                continue
            if cursor.give_up():
                parsed.tell(found.space + ("" if found.marker in family.drops else found.marker))
        else:
            parsed.tell(found.space)


def _openers(syntax: JsonCalls | NamedCalls | None) -> tuple[str, ...]:
    if syntax is None:
        return ()
    if isinstance(syntax, NamedCalls) and syntax.section:
        return (syntax.section, syntax.open) if syntax.open else (syntax.section,)
    return (syntax.open,)


def _head(
    cursor: Cursor, parsed: Parsed, think: Think, syntax: JsonCalls | NamedCalls | None, calls: CallStream | None
) -> Reader[None]:
    """What may stand only at the beginning: thoughts, and a call without a mark."""
    cursor.keep(cursor.at)
    yield from skip_space(cursor)
    mark = yield from choose(cursor, (think.open, think.close))
    if mark is None and cursor.was_cut and len(cursor.held.strip()) >= MIN_MARKER_CHARS:
        cursor.commit()  # cut off in the mark
        return
    if mark is not None:
        cursor.commit()
        if mark == think.open:
            yield from _thoughts(cursor, parsed, think)
        yield from skip_space(cursor)
        cursor.keep(cursor.at)
    if calls is not None and isinstance(syntax, JsonCalls) and syntax.is_bare_too:
        yield from skip_space(cursor)
        if cursor.held.startswith("{", cursor.at) and (yield from read_calls(cursor, syntax, "", calls)):
            yield from skip_space(cursor)
            return
    cursor.go_back()


def _thoughts(cursor: Cursor, parsed: Parsed, think: Think) -> Reader[None]:
    parsed.is_thinking = True
    yield from skip_space(cursor)
    yield from until(cursor, Markers((think.close,)), parsed.think, trims=None)
    parsed.is_thinking = False
    yield from skip_space(cursor)
