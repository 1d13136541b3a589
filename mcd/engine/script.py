"""The file format of the scripted engine (docs/scripted-engine.md): read, check with words, choose a rule.   Pure."""

from __future__ import annotations

import re
import zlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcd.errors import ConfigError
from mcd.wire.messages import Capability, RefuseReason

MAX_SCRIPT_BYTES = 16 * 1024 * 1024
N_TOKEN_IDS = 1 << 20
"""Scripted token ids lie below this: as real vocabularies do, so that encodings have realistic sizes."""
MAX_TOKEN_CHARS = 4096
"""Of one token; real ones have a few hundred bytes at most."""
_PIECE = re.compile(r"\s{0,2048}\S{1,2048}|\s{1,2048}")

Positive = Annotated[float, Meta(gt=0, le=1e9)]
Delay = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=0, le=1_048_576)]


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call of a scripted answer."""

    name: str
    arguments: str = "{}"
    """JSON text, streamed in pieces of 16 characters."""
    id: str = ""
    """Empty: ``call_`` and its index."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to answer when the last user message matches."""

    match: str = "*"
    """A substring of the last user message; ``*`` matches everything."""
    regex: str | None = None
    """A regular expression searched for in the last user message, instead of ``match``."""
    text: str | None = None
    """The answer; each word with the white space before it is one token."""
    deltas: tuple[Annotated[str, Meta(max_length=MAX_TOKEN_CHARS)], ...] | None = None
    """The answer, one token an item; instead of ``text``."""
    echo: bool = False
    """Answer with the last user message; instead of ``text``."""
    repeat: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Say the answer this many times over."""
    reasoning: str = ""
    """Thoughts streamed before the answer, as reasoning text."""
    tool_calls: tuple[ScriptedCall, ...] = ()
    """Calls after the text; the finish reason is then ``tool_calls`` unless given."""
    tokens_per_s: Positive | None = None
    """Pace; absent: as fast as it is read."""
    delay_first_s: Delay = 0.0
    """Time before the first token, as if prefilling."""
    stall_at_token: Count = 0
    """Number of tokens delivered before the stall."""
    stall_s: Delay = 0.0
    """Length of the stall; 86400 never ends within a test."""
    die_at_token: Count | None = None
    """The engine process kills itself after delivering this many tokens."""
    break_at_token: Count | None = None
    """The request is broken off as by an engine fault after this many tokens; the process lives."""
    refuse: str | None = None
    """A RefuseReason by name, e.g. ``BUSY``."""
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. The first rule that matches answers."""

    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=10_000)]
    n_ctx: Annotated[int, Meta(ge=16, le=16_777_216)] = 32_768
    n_slots: Annotated[int, Meta(ge=1, le=4096)] = 128
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=16)] = ("chat", "tools")
    prefill_tokens_per_s: Positive = 10_000.0
    """What the engine claims; it does not pace by it."""
    output_tokens_per_s: Positive = 50.0
    """What the engine claims for one stream; rules have their own pace."""
    alias: str = "scripted"


def parse(data: bytes, name: str) -> Script:
    """Read a script; ``name`` is what the messages call it.

    Raises:
        ConfigError: Not a script; says where and why.
    """
    if len(data) > MAX_SCRIPT_BYTES:
        raise ConfigError(f"{name} has more than {MAX_SCRIPT_BYTES} bytes")
    try:
        if data.lstrip().startswith(b"["):
            script = Script(rules=msgspec.json.decode(data, type=tuple[Rule, ...]))
        else:
            script = msgspec.json.decode(data, type=Script)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} is not a script: {error}; see docs/scripted-engine.md") from None
    if not script.rules:
        raise ConfigError(f"{name} is not a script: it has no rules")
    for index, rule in enumerate(script.rules):
        fault = _fault(rule)
        if fault is not None:
            raise ConfigError(f"{name}, rule {index}: {fault}")
    return script


def choose(script: Script, last_user_text: str) -> Rule | None:
    """The first rule that matches, or None."""
    for rule in script.rules:
        if rule.regex is not None:
            if re.search(rule.regex, last_user_text):
                return rule
        elif rule.match in ("*", "") or rule.match in last_user_text:
            return rule
    return None


def pieces(text: str) -> list[str]:
    """Split into scripted tokens: each word with the white space before it."""
    return _PIECE.findall(text)


def token_id(piece: str) -> int:
    """The id of a scripted token: a function of its text alone, so that a resume can be checked."""
    return zlib.crc32(piece.encode("utf-8", "surrogatepass")) % N_TOKEN_IDS


def _fault(rule: Rule) -> str | None:
    answers = sum((rule.text is not None, rule.deltas is not None, rule.echo))
    if answers > 1:
        return "give one of text, deltas and echo"
    if not answers and not rule.tool_calls and rule.refuse is None and rule.die_at_token is None:
        return "give text, deltas, echo, tool_calls, refuse or die_at_token"
    if rule.refuse is not None and rule.refuse not in RefuseReason.__members__:
        return f"refuse must be one of {', '.join(RefuseReason.__members__)}"
    if rule.regex is not None:
        try:
            re.compile(rule.regex)
        except re.error as error:
            return f"regex does not compile: {error}"
    return None
