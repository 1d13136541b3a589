"""What a way of writing is made of: the marks of thoughts and of calls, and where names and arguments stand.   Pure.

`families` fills these in; reading, and constraining in `mcd.engine.gbnf.calls`, follow them alike.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Thinking = Literal["open", "closed", "unknown"]
"""What a prompt's end says of thoughts: it opened them, closed them, or left it to the model."""
IdStyle = Literal["call", "nine", "own"]
"""Of a call's id: ``call_`` and 24 hex digits; 9 characters, as Mistral's templates insist; the one the model wrote."""


class Think(msgspec.Struct, frozen=True):
    """How thoughts are marked."""

    open: str
    close: str
    anywhere: bool = False
    """Whether thoughts may begin after text too; safe only where the marks are tokens that text cannot contain."""


class JsonCalls(msgspec.Struct, frozen=True):
    """``OPEN pad {"name": ..., "arguments": {...}} pad CLOSE``, or a list of such objects in one pair of marks."""

    open: str
    close: str
    is_bare_too: bool = False
    """An object without marks is a call too, if the answer begins with it and it names a tool."""
    is_list: bool = False
    pad: str = ""
    """Stands inside both marks."""
    name_key: str = "name"
    arguments_key: str = "arguments"
    between: str = "\n"
    """What separates calls: between closing and opening mark, or between the objects of a list."""
    is_run: bool = False
    """Several objects may follow one another in one pair of marks."""
    before_name: str = ""
    """GBNF of members it writes before the name."""
    after_arguments: str = ""
    """GBNF of members it writes after the arguments."""


class Parameters(msgspec.Struct, frozen=True):
    """Arguments as ``OPEN key AFTER_KEY [VALUE_OPEN] value CLOSE``, one after another, values unquoted."""

    open: str
    after_key: str
    close: str
    value_open: str = ""
    pad: Literal["", "\n"] = ""
    """Stands around each value and is no part of it."""
    between: str = "\n"
    string_mark: str = ""
    """Stands between key and AFTER_KEY for a string and says so."""
    other_mark: str = ""
    """The same for any other value."""
    wrap: tuple[str, str] = ("", "")
    """May stand around a value, and is no part of it."""


class NamedCalls(msgspec.Struct, frozen=True):
    """``[SECTION] OPEN name AFTER_NAME arguments CLOSE ... [SECTION_CLOSE]``."""

    open: str
    after_name: str
    close: str
    body: Literal["json", "gemma", "python"] | Parameters = "json"
    section: str = ""
    section_close: str = ""
    name_prefix: str = ""
    """Written before the name and no part of it."""
    has_index: bool = False
    """The name ends in ``:NUMBER``, and all of it is the call's id."""
    id_end: str = ""
    """Between OPEN and this stands the call's id."""
    id_mark: str = ""
    """Instead of AFTER_NAME this and an id may follow the name, then AFTER_NAME."""
    between: str = ""
    after_section: str = ""
    """White space between SECTION and the first OPEN, and before SECTION_CLOSE."""


class HarmonyCalls(msgspec.Struct, frozen=True):
    """Messages addressed to ``functions.NAME``; see `harmony`."""


class Family(msgspec.Struct, frozen=True):
    """One way of writing."""

    name: str
    signs: tuple[str, ...]
    """All of these are in the template."""
    calls: JsonCalls | NamedCalls | HarmonyCalls
    think: Think | None = None
    """None: whatever of `THINKS` the template mentions."""
    drops: tuple[str, ...] = ()
    """Marks around the answer or between its parts that are nothing to show."""
    ids: IdStyle = "call"
