"""Tool calls, read as they come: the name once it is whole, the arguments in fragments.   Pure.

A call is committed when its name is known and arguments begin: from then on it is a call, whatever comes. What turns
out to be none before that goes back to the text.
"""

from __future__ import annotations

from mcd.engine.parsers.call_stream import CallStream
from mcd.engine.parsers.cursor import Cursor, Reader
from mcd.engine.parsers.json_calls import read_json_calls
from mcd.engine.parsers.named_calls import read_named_calls
from mcd.engine.parsers.syntax import JsonCalls, NamedCalls


def read_calls(cursor: Cursor, syntax: JsonCalls | NamedCalls, opener: str, calls: CallStream) -> Reader[bool]:
    """Read the calls after an opening mark; False when it opened none, with the cursor anywhere."""
    if calls.is_full:
        return False
    if isinstance(syntax, JsonCalls):
        return (yield from read_json_calls(cursor, syntax, opener, calls))
    return (yield from read_named_calls(cursor, syntax, opener, calls))
