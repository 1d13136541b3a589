"""JSON from strangers: every limit is checked by one cheap scan before anything is built.

Decoders differ in what they do with the same name twice, with a million brackets or with a body of nothing but
``{}``. One regular expression walks the bytes and keeps a stack of open brackets; strings are skipped whole. Only
then does msgspec build typed structs, which is also what rejects wrong syntax and wrong types. Messages name the
place and the rule, never a value: values are the user's text.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from mcd.errors import InvalidRequestError

MAX_JSON_BYTES = 8 * 1024 * 1024
"""Equals the wire's MAX_BODY_BYTES: what is larger could not be sealed anyway."""
MAX_JSON_DEPTH = 64
"""Tool schemas of real agents stay below 20."""
MAX_JSON_TOKENS = 400_000
"""Brackets, strings, colons and commas; 2,048 messages and 128 tools have about 60,000. A scan costs 0.2 s at most."""

T = TypeVar("T")

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\],:]', re.DOTALL)
_PLAIN = re.compile(rb'"[a-z_]{1,32}"')
_WRONG_TYPE = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`")
_KINDS = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "object": "an object",
    "str": "a string",
}
"""msgspec's words, which are partly Python's, in JSON's."""
_NO_NAMES: frozenset[bytes] = frozenset()
_PAIR = re.compile(rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""A surrogate without its other half, once pairs and escaped backslashes are out."""
_PATH = re.compile(r" - at `\$\.?(.*)`\Z")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode one JSON document into the decoder's type.   [GW-10]

    Raises:
        InvalidRequestError: A limit is exceeded, a name occurs twice, or syntax or a type is wrong; ``param`` names it.
    """
    scan(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        raise _explain(str(problem)) from None
    except RecursionError:
        raise InvalidRequestError("the JSON body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        if _HALF.search(_PAIR.sub(b"", body)):
            raise InvalidRequestError(
                "a string in the body holds half a character (\\ud800 to \\udfff alone): a text was cut within an emoji"
            ) from None
        raise InvalidRequestError(f"the body is not valid JSON{_position(str(problem))}") from None


def scan(body: bytes) -> None:
    """Check size, depth, number of tokens and duplicate names, without building anything.   [GW-11]

    Raises:
        InvalidRequestError: One of them is exceeded or found.
    """
    if len(body) > MAX_JSON_BYTES:
        raise InvalidRequestError(f"the JSON body has {len(body)} bytes; at most {MAX_JSON_BYTES} are accepted")
    # One entry an open bracket: None in an array, else the names seen; a set is made for an object that has some.
    names: list[set[bytes] | frozenset[bytes] | None] = []
    last = b""
    for n_before, match in enumerate(_TOKEN.finditer(body)):
        if n_before >= MAX_JSON_TOKENS:
            raise InvalidRequestError(f"the JSON body has more than {MAX_JSON_TOKENS} values")
        token = match[0]
        if token == b",":
            continue
        if token == b":":
            _note(names, last)
        elif token == b"{":
            names.append(_NO_NAMES)
        elif token == b"[":
            names.append(None)
        elif token in b"}]" and names:
            names.pop()
        last = token
        if len(names) > MAX_JSON_DEPTH:
            raise InvalidRequestError(f"the JSON body is nested more than {MAX_JSON_DEPTH} levels deep")


def _note(names: list[set[bytes] | frozenset[bytes] | None], last: bytes) -> None:
    """Remember a name of the innermost object; ``last`` is the string before the colon, quotes included."""
    seen = names[-1] if names else None
    if seen is None:
        return  # not an object: the decoder will say so
    if isinstance(seen, frozenset):
        names[-1] = seen = set()
    if b"\\" in last:
        last = _unescaped(last)
    if last in seen:
        param = last.strip(b'"').decode() if len(names) == 1 and _PLAIN.fullmatch(last) else None
        raise InvalidRequestError(f"{param or 'a name'} occurs twice in one JSON object", param=param)
    seen.add(last)


def _unescaped(name: bytes) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(name, type=str))
    except (msgspec.DecodeError, UnicodeError):
        return name  # not a string: the decoder will say so


def _explain(problem: str) -> InvalidRequestError:
    """Turn msgspec's message into ours: it may quote the input, so only known parts of it are kept."""
    path = _PATH.search(problem)
    param = path[1].replace("[...]", "") if path is not None and path[1] else None
    where = param or "the JSON body"
    wrong = _WRONG_TYPE.match(problem)
    if wrong is not None:
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in wrong[1].replace(" | null", "").split(" | "))
        got = "a fraction" if wrong[2] == "float" else _KINDS.get(wrong[2], wrong[2])
        return InvalidRequestError(f"{where} must be {wanted}, not {got}", param=param)
    return InvalidRequestError(f"{where} is out of range or malformed", param=param)


def _position(problem: str) -> str:
    match = re.search(r"\(byte (\d+)\)", problem)
    if match is not None:
        return f" at byte {match[1]}"
    return ": it ends too early" if "truncated" in problem else ""
