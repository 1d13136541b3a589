"""The grammar a request's answer must follow, if any: response format, forced tool calls, or either.   Pure."""

from __future__ import annotations

from mcd.api.request import ChatRequest, ToolFunction
from mcd.engine.schema import Grammar, literal
from mcd.engine.tools import Family
from mcd.errors import InvalidRequestError

FORCED = "function:"
"""Prefix of a tool_choice that names its function."""
_ANY_OBJECT = b'{"type":"object"}'


def build(request: ChatRequest, family: Family) -> str | None:
    """GBNF for this request, or None when the answer is free.

    Raises:
        UnsupportedError: A schema cannot be enforced; names the keyword.
        InvalidRequestError: tool_choice names no tool that was offered.
    """
    calls = _forced_tools(request)
    if calls:
        grammar = Grammar("tools")
        return grammar.text(_calls(grammar, calls, family, may_repeat=request.parallel_tool_calls))
    wanted = request.response_format
    if wanted.type == "text":
        return None
    grammar = Grammar("response_format")
    if wanted.type == "json_schema" and wanted.schema:
        answer = grammar.schema(wanted.schema, "answer")
    else:
        answer = grammar.shared("object")
    if request.tools and request.tool_choice == "auto":
        # a call is a valid turn too: only the answer proper is bound to the format
        answer = f"{answer} | {_calls(grammar, request.tools, family, may_repeat=request.parallel_tool_calls)}"
    return grammar.text(answer)


def _forced_tools(request: ChatRequest) -> tuple[ToolFunction, ...]:
    if request.tool_choice == "required":
        return request.tools
    if not request.tool_choice.startswith(FORCED):
        return ()
    name = request.tool_choice.removeprefix(FORCED)
    chosen = tuple(tool for tool in request.tools if tool.name == name)
    if not chosen:
        raise InvalidRequestError("tool_choice names a function that is not in tools", param="tool_choice")
    return chosen


def _calls(grammar: Grammar, tools: tuple[ToolFunction, ...], family: Family, *, may_repeat: bool) -> str:
    grammar.shared("ws")
    key = "parameters" if family == "plain" else "arguments"
    bodies = []
    for tool in tools:
        arguments = grammar.schema(tool.parameters or _ANY_OBJECT, f"args-{tool.name}"[:40])
        head = literal(f'{{"name": "{tool.name}", "{key}": ')
        bodies.append(grammar.rule(f"call-{tool.name}"[:40], f'{head} {arguments} "}}"'))
    one = grammar.rule("call", " | ".join(bodies))
    if family == "tagged":
        tagged = grammar.rule("tagged-call", f'"<tool_call>\\n" {one} "\\n</tool_call>"')
        return grammar.rule("calls", f'{tagged} ("\\n" {tagged}){{0,15}}' if may_repeat else tagged)
    if family == "mistral":
        more = f' (", " {one}){{0,15}}' if may_repeat else ""
        return grammar.rule("calls", f'"[TOOL_CALLS] [" {one}{more} "]"')
    return one
