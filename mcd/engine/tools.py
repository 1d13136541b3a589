"""What a model's text means: thoughts, answer, tool calls; split incrementally, nothing ever lost.   Pure.

Families by their markers: ``<tool_call>{json}</tool_call>`` (Hermes, Qwen), ``[TOOL_CALLS] [json]`` (Mistral) and a
whole answer that is one JSON call (Llama 3). Text that looks like a call and is none is shown as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from mcd.wire.payload import MAX_TOOL_CALLS, ToolCallDelta

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
MAX_CALL_CHARS = 1024 * 1024
"""A call is held back until it is complete; one that grows beyond this is text."""

Family = Literal["tagged", "mistral", "plain"]
CALL_OPEN: dict[Family, str] = {"tagged": "<tool_call>", "mistral": "[TOOL_CALLS]", "plain": "{"}
CALL_CLOSE: dict[Family, str] = {"tagged": "</tool_call>", "mistral": "", "plain": ""}


def family_of(template: str) -> Family:
    """How a model with this template writes tool calls."""
    if "[TOOL_CALLS]" in template:
        return "mistral"
    return "tagged" if "<tool_call>" in template else "plain"


class Parsed:
    """What one piece of text added."""

    __slots__ = ("calls", "reasoning", "text")

    def __init__(self, text: str = "", reasoning: str = "", calls: tuple[ToolCallDelta, ...] = ()) -> None:
        self.text = text
        self.reasoning = reasoning
        self.calls = calls


class MessageParser:
    """Splits one choice's text. Owner: its Sequence."""

    def __init__(self, family: Family | None, *, may_think: bool, is_thinking: bool = False) -> None:
        """Begin.

        Args:
            family: How calls are written; None when no tools were offered.
            may_think: Whether ``<think>`` at the beginning opens thoughts.
            is_thinking: The prompt itself ended with ``<think>``.
        """
        self._family = family
        self._state: Literal["start", "think", "text", "call"] = "think" if is_thinking else "start"
        self._may_think = may_think
        self._held = ""
        self._skips_space = is_thinking
        self.n_calls = 0

    def feed(self, text: str, *, is_end: bool = False) -> Parsed:
        """Add text; what it adds to the answer."""
        self._held += text
        out = Parsed()
        while self._advance(out, is_end=is_end):
            pass
        return out

    def _advance(self, out: Parsed, *, is_end: bool) -> bool:
        if self._skips_space:  # after a tag, however the white space behind it is cut
            self._held = self._held.lstrip()
            self._skips_space = not self._held
        match self._state:
            case "start":
                return self._start(is_end=is_end)
            case "think":
                return self._think(out, is_end=is_end)
            case "text":
                return self._text(out, is_end=is_end)
            case "call":
                return self._call(out, is_end=is_end)

    def _start(self, *, is_end: bool) -> bool:
        seen = self._held.lstrip()
        if self._may_think and seen.startswith(THINK_OPEN):
            self._enter("think", seen[len(THINK_OPEN) :])
            return True
        if self._may_think and THINK_OPEN.startswith(seen) and not is_end:
            return False
        if self._family == "plain" and seen.startswith("{"):
            self._state = "call"
            return True
        if not seen and not is_end and (self._may_think or self._family == "plain"):
            return False
        self._state = "text"
        return True

    def _think(self, out: Parsed, *, is_end: bool) -> bool:
        at = self._held.find(THINK_CLOSE)
        if at >= 0:
            out.reasoning += self._held[:at].rstrip()
            self._may_think = False
            self._enter("start", self._held[at + len(THINK_CLOSE) :])
            return True
        out.reasoning += self._release(THINK_CLOSE, is_end=is_end)
        return False

    def _text(self, out: Parsed, *, is_end: bool) -> bool:
        opener = CALL_OPEN[self._family] if self._family in ("tagged", "mistral") else ""
        at = self._held.find(opener) if opener else -1
        if at >= 0:
            out.text += self._held[:at].rstrip()
            self._held = self._held[at:]
            self._state = "call"
            return True
        out.text += self._release(opener, is_end=is_end)
        return False

    def _call(self, out: Parsed, *, is_end: bool) -> bool:
        assert self._family is not None
        closer = CALL_CLOSE[self._family]
        at = self._held.find(closer) if closer else -1
        if at < 0 and not is_end:
            if len(self._held) > MAX_CALL_CHARS:
                self._give_up(out)
            return False
        body = self._held[: at if at >= 0 else len(self._held)]
        if self._family != "plain":
            body = body[len(CALL_OPEN[self._family]) :]
        calls = parse_calls(body)
        if calls is None or self.n_calls + len(calls) > MAX_TOOL_CALLS:
            self._give_up(out)
            return False
        out.calls += tuple(self._deltas(calls))
        self._enter("text", self._held[at + len(closer) :] if at >= 0 else "")
        return bool(self._held)

    def _enter(self, state: Literal["start", "think", "text"], rest: str) -> None:
        self._state = state
        self._held = rest
        self._skips_space = True

    def _release(self, marker: str, *, is_end: bool) -> str:
        """Take what can be shown: all but a beginning of the marker and the white space before it."""
        keep = 0
        if marker and not is_end:
            keep = _overlap(self._held, marker)
            keep += _n_trailing_space(self._held[: len(self._held) - keep])
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def _give_up(self, out: Parsed) -> None:
        out.text += self._held
        self._held = ""
        self._family = None
        self._state = "text"

    def _deltas(self, calls: list[tuple[str, str]]) -> Iterable[ToolCallDelta]:
        for name, arguments in calls:
            index = self.n_calls
            self.n_calls += 1
            # the id is a function of the call, so that a resumed answer repeats it
            digest = hashlib.sha256(f"{index}\0{name}\0{arguments}".encode("utf-8", "surrogatepass"))
            yield ToolCallDelta(index, f"call_{digest.hexdigest()[:24]}", name, arguments)


def parse_calls(body: str) -> list[tuple[str, str]] | None:
    """(name, arguments as JSON text) of each call in a model's JSON; None when it is no call."""
    try:
        value: Any = msgspec.json.decode(body.strip())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    calls: list[tuple[str, str]] = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            return None
        arguments = item.get("arguments", item.get("parameters", {}))
        calls.append(
            (item["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
        )
    return calls or None


def _overlap(text: str, marker: str) -> int:
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0


def _n_trailing_space(text: str) -> int:
    return len(text) - len(text.rstrip())
