"""What a chat template can do, found out by trying it on short conversations.   Pure.

Each trial puts a word of its own into every part of a conversation and looks which words come out. That asks less of us
than reading templates and more of them than keeping to a convention: only what a template shows counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from mcd.engine.shaping import EFFORT_NAMES, EXAMPLE_CALL, Caps, Dialect, Message, switches
from mcd.errors import InvalidRequestError

Render = Callable[[Mapping[str, Any]], str]
"""Renders variables; raises InvalidRequestError when the template refuses them."""

_ASKED_MS = 1_767_225_600_000
"""The first of January 2026."""
_SYSTEM, _SYSTEM_2, _USER, _USER_2, _ANSWER = "Qsystem", "Qinstructed", "Quser", "Qagain", "Qanswer"
_TOOL, _WORDS, _KEY, _VALUE, _RESULT, _RESULT_2 = "qtool", "Qwords", "qkey", "Qvalue", "Qresult", "Qother"
_THOUGHT = "Qthought"
_LONG_ID, _SHORT_ID, _SHORT_ID_2 = "call_0123456789abcdef01234567", "qcallid01", "qcallid02"

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_LADDER = ("minimal", "low", "medium", "high")
"""Efforts from least to most that a template may know."""
_USUAL = frozenset({"low", "medium", "high"})
"""Tried on every template; others only where a template names them."""
_OTHER_WORDS = {"none": ("none", "no_think"), "xhigh": ("xhigh", "max")}


def find(source: str, eos: str, render: Render) -> Caps:
    """Try a template.

    Raises:
        InvalidRequestError: It shows not even a user's words.
    """
    trial = _Trial(source, eos, render)
    typed = not trial.shows([_user()], _USER)
    if typed and not trial.typed([_user()], _USER):
        trial.render([_user()])  # for its reason
        raise InvalidRequestError("the model's chat template does not show the messages", param="messages")
    trial.is_typed = typed
    return trial.caps()


class _Trial:
    def __init__(self, source: str, eos: str, render: Render) -> None:
        self._source = source
        self._eos = eos
        self._render = render
        self.is_typed = False

    def render(self, messages: list[Message], **variables: Any) -> str:
        if self.is_typed:
            messages = [_typed(message) for message in messages]
        given = {"functions": "[]", "datetime": "Jan 01 2026", "date_string": "01 Jan 2026", "asked_ms": _ASKED_MS}
        return self._render({"messages": messages, "add_generation_prompt": True, **given, **variables})

    def attempt(self, messages: list[Message], **variables: Any) -> str:
        """What comes out; nothing when the template refuses."""
        try:
            return self.render(messages, **variables)
        except InvalidRequestError:
            return ""

    def shows(self, messages: list[Message], *words: str, **variables: Any) -> bool:
        """Whether all words come out."""
        text = self.attempt(messages, **variables)
        return all(word in text for word in words)

    def typed(self, messages: list[Message], *words: str) -> bool:
        return self.shows([_typed(message) for message in messages], *words)

    def caps(self) -> Caps:
        system, second = {"role": "system", "content": _SYSTEM}, {"role": "system", "content": _SYSTEM_2}
        developer = {"role": "developer", "content": _SYSTEM}
        takes_system = self.shows([system, _user()], _SYSTEM, _USER)
        calls = self._calls()
        thoughts = self._thoughts(calls)
        return Caps(
            typed_content=self.is_typed,
            system=takes_system,
            many_systems=self.shows([system, second, _user()], _SYSTEM, _SYSTEM_2, _USER),
            late_system=self.shows([_user(), _answer(), system, _user(_USER_2)], _USER, _ANSWER, _SYSTEM, _USER_2),
            lone_system=self.shows([system], _SYSTEM),
            system_beside_results=not calls.calls or self._system_beside_results(calls),
            developer=self._names("developer") and self.shows([developer, _user()], _SYSTEM, _USER),
            same_side=self.shows([_user(), _user(_USER_2)], _USER, _USER_2)
            and self.shows([_user(), _answer(), _answer(_SYSTEM), _user(_USER_2)], _ANSWER, _SYSTEM, _USER_2),
            tools=self._tools(),
            calls=calls.calls,
            results=calls.results,
            text_arguments=calls.text_arguments,
            null_content=calls.null_content,
            short_ids=calls.short_ids,
            many_calls=not calls.calls or self._many_calls(calls),
            text_beside_call=not calls.calls or self._text_beside_call(calls),
            thoughts=thoughts,
            thoughts_with_text=self._thoughts_with_text(calls, thoughts),
            efforts=self._efforts(),
            dialect=self._dialect(),
            example=self._example(calls) if calls.calls else "",
        )

    def _system_beside_results(self, style: Caps) -> bool:
        system = {"role": "system", "content": _SYSTEM}
        return self.shows([system, _user(), _calling(style), _result(style)], _SYSTEM, _RESULT, tools=[_tool()])

    def _names(self, word: str) -> bool:
        return f"'{word}'" in self._source or f'"{word}"' in self._source

    # --- tools ---

    def _tools(self) -> Literal["tools", "functions", ""]:
        if self.shows([_user()], _USER, _TOOL, _WORDS, tools=[_tool()]):
            return "tools"
        if self.shows([_user()], _USER, _TOOL, _WORDS, functions=f'[{{"name": "{_TOOL}", "description": "{_WORDS}"}}]'):
            return "functions"
        return ""

    def _calls(self) -> Caps:
        """How an assistant's call, then its result, come out."""
        for short_ids in (False, True):
            for null_content in (False, True):
                for text_arguments in (False, True):
                    style = Caps(text_arguments=text_arguments, null_content=null_content, short_ids=short_ids)
                    text = self.attempt([_user(), _calling(style), _result(style)], tools=[_tool()])
                    # an object printed as Python prints it is none that a model knows
                    if all(word in text for word in (_USER, _TOOL, _VALUE, _RESULT)) and f"'{_KEY}': '" not in text:
                        return style
        style = Caps(calls=False)
        answered = [_user(), _answer(), _result(style)]
        return Caps(calls=False, results=self.shows(answered, _USER, _ANSWER, _RESULT, tools=[_tool()]))

    def _many_calls(self, style: Caps) -> bool:
        both = _calling(style)
        both["tool_calls"] = [*both["tool_calls"], _call(style, _SHORT_ID_2, _RESULT_2)]
        last = _result(style, _SHORT_ID_2, _ANSWER)
        return self.shows([_user(), both, _result(style), last], _VALUE, _RESULT_2, _RESULT, _ANSWER, tools=[_tool()])

    def _text_beside_call(self, style: Caps) -> bool:
        both = _calling(style) | {"content": _ANSWER}
        return self.shows([_user(), both, _result(style)], _VALUE, tools=[_tool()])

    def _dialect(self) -> Dialect:
        if "<|tool_list_start|>" in self._source or "List of tools: [" in self._source:
            return "pythonic"
        return "listed" if "<|tool_call|>" in self._source else "tagged"

    def _example(self, style: Caps) -> str:
        """A call as the template writes it: what it writes for one, less what it writes for any answer."""
        body = EXAMPLE_CALL["function"]
        arguments = '{"argument_name": "value"}' if style.text_arguments else body["arguments"]
        call = EXAMPLE_CALL | {"function": body | {"arguments": arguments}}
        calling = {"role": "assistant", "content": None if style.null_content else "", "tool_calls": [call]}
        called = self.attempt([_user(), calling], add_generation_prompt=False)
        before, found, after = self.attempt([_user(), _answer()], add_generation_prompt=False).partition(_ANSWER)
        if not called or not found:
            return ""
        start = _n_common(before, called)
        end = len(called) - _n_common(after[::-1], called[start:][::-1])
        opened = called.rfind("<", 0, start)  # no marker is cut in two
        if opened > called.rfind(">", 0, start):
            start = opened
        closed = called.find(">", end)
        if closed >= 0 and called.rfind("<", start, end) > called.rfind(">", start, end):
            end = closed + 1
        example = called[start:end]
        return (example.partition(self._eos)[0] if self._eos else example).strip()

    # --- thoughts ---

    def _thoughts(self, style: Caps) -> str:
        for key in _REASONING_KEYS:
            calling = (_calling(style) if style.calls else _answer()) | {key: _THOUGHT}
            if self.shows([_user(), calling, _result(style)], _THOUGHT, tools=[_tool()]):
                return key
        for key in _REASONING_KEYS:
            if self.shows([_user(), _answer() | {key: _THOUGHT}, _user(_USER_2)], _THOUGHT):
                return key
        return ""

    def _thoughts_with_text(self, style: Caps, key: str) -> bool:
        if not key or not style.calls:
            return True
        both = _calling(style) | {"content": _ANSWER, key: _THOUGHT}
        return bool(self.attempt([_user(), both, _result(style)], tools=[_tool()]))

    def _efforts(self) -> dict[str, str]:
        if not any(name in self._source for name in EFFORT_NAMES):
            return {}
        accepted = [word for word in _LADDER if word in _USUAL or self._names_effort(word)]
        accepted = [word for word in accepted if self._takes_effort(word)]
        efforts = {effort: _nearest(effort, accepted) for effort in _LADDER} if accepted else {}
        if accepted:
            efforts["xhigh"] = accepted[-1]
            if not self._has_switch():
                efforts["none"] = accepted[0]  # the least there is
        for effort, words in _OTHER_WORDS.items():
            named = next((word for word in words if self._names_effort(word) and self._takes_effort(word)), None)
            if named is not None:
                efforts[effort] = named
        return efforts

    def _names_effort(self, word: str) -> bool:
        lines = [line for line in self._source.splitlines() if any(name in line for name in EFFORT_NAMES)]
        return any(f"{quote}{word}{quote}" in line for line in lines for quote in "'\"")

    def _has_switch(self) -> bool:
        on, off = (self.attempt([_user()], **switches(is_on)) for is_on in (True, False))
        return on != off

    def _takes_effort(self, word: str) -> bool:
        return self.shows([_user()], _USER, **switches(True), **dict.fromkeys(EFFORT_NAMES, word))


def _nearest(effort: str, accepted: list[str]) -> str:
    wanted = _LADDER.index(effort)
    return min(accepted, key=lambda word: (abs(_LADDER.index(word) - wanted), -_LADDER.index(word)))


def _n_common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- the words of the trials ---------------------------------------------------------------------------------------


def _user(words: str = _USER) -> Message:
    return {"role": "user", "content": words}


def _answer(words: str = _ANSWER) -> Message:
    return {"role": "assistant", "content": words}


def _typed(message: Message) -> Message:
    return message | {"content": [{"type": "text", "text": message["content"] or ""}]}


def _tool() -> dict[str, Any]:
    key = {"type": "string", "description": _WORDS}
    parameters = {"type": "object", "properties": {_KEY: key}, "required": [_KEY]}
    return {"type": "function", "function": {"name": _TOOL, "description": _WORDS, "parameters": parameters}}


def _call(style: Caps, short_id: str = _SHORT_ID, value: str = _VALUE) -> dict[str, Any]:
    arguments: Any = f'{{"{_KEY}": "{value}"}}' if style.text_arguments else {_KEY: value}
    return {"id": _id(style, short_id), "type": "function", "function": {"name": _TOOL, "arguments": arguments}}


def _calling(style: Caps) -> Message:
    return {"role": "assistant", "content": None if style.null_content else "", "tool_calls": [_call(style)]}


def _result(style: Caps, short_id: str = _SHORT_ID, words: str = _RESULT) -> Message:
    return {"role": "tool", "content": words, "tool_call_id": _id(style, short_id), "name": _TOOL}


def _id(style: Caps, short_id: str) -> str:
    return short_id if style.short_ids else f"{_LONG_ID}{short_id}"
