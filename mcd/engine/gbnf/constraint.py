"""What a request demands of its answer, and from which mark on it is demanded.   Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mcd.api.request import ChatRequest, CompletionRequest, ToolFunction
from mcd.engine.gbnf.calls import CallGrammar, Tool, held_to, held_to_nothing
from mcd.engine.gbnf.rules import Rules, literal
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.parsers.syntax import Family, HarmonyCalls, Think, Thinking
from mcd.errors import InvalidRequestError, UnsupportedError
from mcd.wire.payload import Private

FORCED = "function:"
"""Prefix of a tool_choice that names its function."""
_SPACE = "[ \\n]{0,4}"


class Bound(Private, frozen=True):
    """A grammar without its root: rules, and the expression that begins where the text begins to be bound."""

    expression: str
    definitions: str

    def text(self, before: str = "") -> str:
        """The grammar of ``before``, which has been said, and what follows."""
        root = f"{literal(before)} {self.expression}" if before else self.expression
        return f"root ::= {root}\n{self.definitions}"


class Constraint(Private, frozen=True):
    """What binds one choice's text."""

    think: Think
    thinking: Thinking
    param: str
    """The member of the request that an error names."""
    n_ways: int
    """How many ways a text may go on at once, at most."""
    answer: Bound | None = None
    """The whole answer, from its beginning or from the end of the thoughts."""
    after_thoughts: Bound | None = None
    """The same behind thoughts."""
    head: Bound | None = None
    """Thoughts or the answer, where the model may choose."""
    call: Bound | None = None
    """A call, from its mark."""
    marks: tuple[str, ...] = ()
    head_marks: tuple[str, ...] = ()

    def grammars(self) -> list[str]:
        """Each that may be needed."""
        bounds = (self.answer, self.after_thoughts, self.head, self.call)
        return [bound.text() for bound in bounds if bound is not None]

    @property
    def n_chars(self) -> int:
        """Of its grammars."""
        return sum(map(len, self.grammars()))


def param_of(request: ChatRequest) -> str | None:
    """The member of a request that binds its answer; None when it is free."""
    if isinstance(request, CompletionRequest):
        return None
    is_forced = request.tool_choice == "required" or request.tool_choice.startswith(FORCED)
    if not is_forced and request.response_format.type != "text":
        return "response_format"
    return "tools" if is_forced or (request.tool_choice == "auto" and request.tools) else None


def build(request: ChatRequest, family: Family, thinking: Thinking, *, may_think: bool) -> Constraint | None:
    """What binds the answer to this request; None when it is free.

    Raises:
        UnsupportedError: A schema cannot be enforced; names the keyword.
        InvalidRequestError: tool_choice names no tool that was offered.
    """
    forced = _forced_tools(request)
    offered = request.tools if request.tool_choice == "auto" else ()
    if forced:
        rules = Rules("tools")
        # who names a function wants one call
        may_repeat = request.parallel_tool_calls and request.tool_choice == "required"
        answer = _turn(rules, family, forced, is_strict=True, may_repeat=may_repeat)
    elif request.response_format.type != "text":
        rules = Rules("response_format")
        answer = _formatted(rules, request, family)
        if offered:  # a call is a valid turn too: only the answer proper is bound to the format
            answer = (
                f"{answer} | {_turn(rules, family, offered, is_strict=False, may_repeat=request.parallel_tool_calls)}"
            )
    elif offered:
        return _lazy(request, family, thinking)
    else:
        return None
    return _bound(family, thinking, rules, answer, may_think=may_think)


def _bound(family: Family, thinking: Thinking, rules: Rules, answer: str, *, may_think: bool) -> Constraint:
    think = family.think
    assert think is not None
    answer = rules.rule("answer", answer)
    # harmony: each message begins anew with its author
    between = '"<|start|>assistant"' if isinstance(family.calls, HarmonyCalls) else _SPACE
    head = f"{_SPACE} {literal(think.open)} .* | {_SPACE} {answer}"
    if isinstance(family.calls, HarmonyCalls):
        head = f"{literal(think.open)} .* | {answer}"
    definitions = rules.definitions()
    return Constraint(
        think,
        thinking,
        rules.param,
        rules.n_ways,
        answer=Bound(answer, definitions),
        after_thoughts=Bound(f"{between} {answer}", definitions) if may_think else None,
        head=Bound(head, definitions) if may_think and thinking == "unknown" else None,
    )


def _formatted(rules: Rules, request: ChatRequest, family: Family) -> str:
    wanted = request.response_format
    if wanted.type == "json_schema" and wanted.schema:
        answer = SchemaCompiler(rules).schema(wanted.schema, "json")
    else:
        answer = rules.shared("object")
    if isinstance(family.calls, HarmonyCalls):
        return rules.rule("final", f'"<|channel|>final" (" <|constrain|>json")? "<|message|>" {answer}')
    return answer


def _turn(rules: Rules, family: Family, tools: tuple[ToolFunction, ...], *, is_strict: bool, may_repeat: bool) -> str:
    return CallGrammar(rules, family, held_to(tools, family, is_strict=is_strict)).turn(may_repeat=may_repeat)


def _lazy(request: ChatRequest, family: Family, thinking: Thinking) -> Constraint:
    try:
        return _marked(request, family, thinking, held_to(request.tools, family, is_strict=False))
    except UnsupportedError:
        if any(tool.strict for tool in request.tools):
            raise
        return _marked(request, family, thinking, held_to_nothing(request.tools))


def _marked(request: ChatRequest, family: Family, thinking: Thinking, tools: Sequence[Tool]) -> Constraint:
    rules = Rules("tools")
    calls = CallGrammar(rules, family, tools)
    marks, head_marks = calls.marks()
    # a line end may come with the mark's last character, as one token
    marked = f'{calls.marked(may_repeat=request.parallel_tool_calls)} "\\n"{{0,2}}'
    assert family.think is not None
    call = Bound(marked, rules.definitions())
    return Constraint(family.think, thinking, rules.param, rules.n_ways, call=call, marks=marks, head_marks=head_marks)


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
