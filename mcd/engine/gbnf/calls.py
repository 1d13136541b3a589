"""How a family writes calls of given tools, as a grammar: names, and arguments that follow their schemas.   Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from mcd.api.request import ToolFunction
from mcd.engine.gbnf.notation import GEMMA, JSON, PYTHON, TAGGED, bare
from mcd.engine.gbnf.rules import Effort, Rules, any_of, literal, text_until
from mcd.engine.gbnf.schema import SchemaCompiler
from mcd.engine.parsers.kinds import kinds_of
from mcd.engine.parsers.syntax import Family, HarmonyCalls, JsonCalls, NamedCalls, Parameters
from mcd.errors import UnsupportedError

ANY_OBJECT = msgspec.Raw(b'{"type":"object"}')
MAX_CALLS = 16
"""Of one turn, where several are asked for."""
HARMONY_STARTS = ("<|channel|>commentary to=functions.", "<|channel|>analysis to=functions.")
HARMONY_ROLE = "<|start|>assistant to=functions."
_HARMONY_TAIL = '(" <|constrain|>json" | "<|constrain|>json" | " json" | " code")? "<|message|>"'


class Tool(msgspec.Struct, frozen=True):
    """A tool and the schema its arguments are held to."""

    name: str
    schema: msgspec.Raw


class CallGrammar:
    """Compiles calls of some tools into one set of rules. Owner: one request's compilation."""

    def __init__(self, rules: Rules, family: Family, tools: Sequence[Tool]) -> None:
        self._rules = rules
        self._compiler = SchemaCompiler(rules)
        self._family = family
        self._tools = tools
        rules.shared("ws")

    def turn(self, *, may_repeat: bool) -> str:
        """One or more calls, from the first mark to the last."""
        match self._family.calls:
            case HarmonyCalls():
                options = [f"{literal(HARMONY_STARTS[0])} {self._harmony(role_first=False)}"]
                options.append(f'" to=functions." {self._harmony(role_first=True)}')
                return self._rules.rule("calls", " | ".join(options))
            case JsonCalls() as syntax:
                return self._rules.rule("calls", self._json_turn(syntax, may_repeat=may_repeat))
            case NamedCalls() as syntax:
                return self._rules.rule("calls", self._named_turn(syntax, may_repeat=may_repeat))

    def marked(self, *, may_repeat: bool) -> str:
        """What begins at one of `marks`, up to the end of what that mark opened."""
        match self._family.calls:
            case HarmonyCalls():
                after, first = self._harmony(role_first=False), self._harmony(role_first=True)
                options = [f"{literal(start)} {after}" for start in HARMONY_STARTS]
                options += [f"{literal(HARMONY_ROLE)} {first}", f'"to=functions." {first}']
                return self._rules.rule("marked", " | ".join(options))
            case JsonCalls() as syntax if syntax.is_bare_too:
                return self._rules.rule("marked", f"({literal(syntax.open)} ws)? {self._json_object(syntax)}")
            case JsonCalls() as syntax:
                return self._rules.rule("marked", self._json_marked(syntax, may_repeat=may_repeat))
            case NamedCalls() as syntax if syntax.section and syntax.open:
                whole = self._named_turn(syntax, may_repeat=may_repeat)
                return self._rules.rule("marked", f"{whole} | {self._named(syntax)}")
            case NamedCalls() as syntax:
                return self._named_turn(syntax, may_repeat=may_repeat) if syntax.section else self._named(syntax)

    def marks(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Texts that begin a call: anywhere, and only at the very beginning."""
        match self._family.calls:
            case HarmonyCalls():
                return (*HARMONY_STARTS, HARMONY_ROLE), ("to=functions.",)
            case JsonCalls() as syntax if syntax.is_bare_too:
                # a bare object is an answer until it names a tool and has arguments
                heads = []
                for tool in self._tools:
                    name = json.dumps(tool.name, ensure_ascii=False)
                    for colon, comma in ((": ", ", "), (":", ",")):
                        heads.append(f'{{"name"{colon}{name}{comma}"{syntax.arguments_key}":')
                return tuple(f"{syntax.open}{head}" for head in heads), tuple(heads)
            case JsonCalls() as syntax:
                return (syntax.open,), ()
            case NamedCalls() as syntax if syntax.section:
                # a call outside its section counts once it names a tool
                names = [f"{syntax.open}{syntax.name_prefix}{tool.name}" for tool in self._tools if syntax.open]
                return (syntax.section, *names), ()
            case NamedCalls() as syntax:
                return (syntax.open,), ()

    # --- JSON ---

    def _json_turn(self, syntax: JsonCalls, *, may_repeat: bool) -> str:
        one = self._json_object(syntax)
        repeat = f"{{0,{MAX_CALLS - 1}}}"
        opening = f"{literal(syntax.open + syntax.pad)}" if "`" in syntax.pad else f"{literal(syntax.open)} ws"
        closing = f"ws {literal(syntax.close)}" if syntax.close else ""
        if syntax.is_list:
            more = f' (ws "," ws {one}){repeat}' if may_repeat else ""
            return f'{opening} "[" ws {one}{more} ws "]" {closing}'.strip()
        if syntax.is_bare_too:
            return one
        more = f" (ws {one}){repeat}" if syntax.is_run and may_repeat else ""
        block = self._rules.rule("block", f"{opening} {one}{more} {closing}".strip())
        return f"{block} (ws {block}){repeat}" if may_repeat and not syntax.is_run else block

    def _json_marked(self, syntax: JsonCalls, *, may_repeat: bool) -> str:
        return self._json_turn(syntax, may_repeat=may_repeat and (syntax.is_list or syntax.is_run))

    def _json_object(self, syntax: JsonCalls) -> str:
        bodies = []
        for tool in self._tools:
            arguments = self._compiler.arguments(tool.schema, f"args-{tool.name}")
            name = literal(json.dumps(tool.name, ensure_ascii=False))
            before = f"{syntax.before_name} " if syntax.before_name else ""
            body = (
                f'"{{" ws {before}{literal(json.dumps(syntax.name_key) + ":")} ws {name} ws "," ws '
                f'{literal(json.dumps(syntax.arguments_key) + ":")} ws {arguments} {syntax.after_arguments} ws "}}"'
            )
            bodies.append(self._rules.rule(f"call-{tool.name}", body))
        return self._rules.rule("call", " | ".join(bodies))

    # --- a name, then arguments ---

    def _named_turn(self, syntax: NamedCalls, *, may_repeat: bool) -> str:
        one = self._named(syntax)
        comma = '"," ' if syntax.between.startswith(",") else ""
        more = f" ({comma}ws {one}){{0,{MAX_CALLS - 1}}}" if may_repeat else ""
        if not syntax.section:
            return f"{one}{more}"
        return f"{literal(syntax.section)} ws {one}{more} ws {literal(syntax.section_close)}"

    def _named(self, syntax: NamedCalls) -> str:
        bodies = []
        for tool in self._tools:
            head = literal(syntax.open + syntax.name_prefix + tool.name)
            if syntax.id_end:
                head = f"{literal(syntax.open)} [a-zA-Z0-9_-]{{1,32}} {literal(syntax.id_end + tool.name)}"
            if syntax.has_index:
                head += ' ":" [0-9]{1,3}'
            if syntax.id_mark:
                head += f" ({literal(syntax.id_mark)} [a-zA-Z0-9]{{9}})?"
            bodies.append(self._rules.rule(f"call-{tool.name}", f"{head} {self._arguments(syntax, tool)}"))
        return self._rules.rule("call", " | ".join(bodies))

    def _arguments(self, syntax: NamedCalls, tool: Tool) -> str:
        closing = literal(syntax.close) if syntax.close else ""
        if isinstance(syntax.body, Parameters):
            return f"{self._parameters(syntax, syntax.body, tool)} ws {closing}"
        if syntax.body == "python":
            return f'"(" {self._keywords(tool)} {closing}'
        if syntax.body == "gemma":
            return f"{self._compiler.arguments(tool.schema, f'args-{tool.name}', GEMMA)} {closing}"
        arguments = self._compiler.arguments(tool.schema, f"args-{tool.name}")
        return f"{literal(syntax.after_name)} ws {arguments} {closing}".strip()

    def _keywords(self, tool: Tool) -> str:
        """Arguments as in a call of Python: each value as JSON or as Python writes it."""
        root = self._compiler.load(tool.schema)
        properties, needed, is_open = self._declared(self._compiler.object_of(root))
        pairs = {key: f"{literal(key + '=')} {self._either(sub, key)}" for key, sub in properties.items()}
        extra = ""
        if is_open:
            values = f"({self._rules.shared(JSON.value)} | {self._rules.shared(PYTHON.value)})"
            extra = self._rules.rule("keyword", f'[a-zA-Z_] [a-zA-Z0-9_]{{0,63}} "=" {values}')
        required = [pair for key, pair in pairs.items() if key in needed]
        return self._compiler.members(
            required, [pair for key, pair in pairs.items() if key not in needed], extra, tool.name
        )

    def _either(self, schema: Any, key: str) -> str:
        return f"({any_of([self._compiler.node(schema, f'value-{key}', each) for each in (JSON, PYTHON)])})"

    def _declared(self, node: dict[str, Any]) -> tuple[dict[str, Any], set[str], bool]:
        """(schema of each property, names of those required, whether it names none and takes any)."""
        properties = node.get("properties", {})
        required = node.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise self._rules.fault("properties must be an object and required a list")
        others = node.get("additionalProperties", True)
        undeclared = {key: others for key in required if key not in properties}
        return {**properties, **undeclared}, set(required), not properties and others is not False

    def _parameters(self, syntax: NamedCalls, form: Parameters, tool: Tool) -> str:
        root = self._compiler.load(tool.schema)
        properties, needed, is_open = self._declared(self._compiler.object_of(root))
        parts = []
        for key, sub in properties.items():
            part = self._rules.rule(f"{tool.name}-{key}", self._parameter(form, key, sub, root))
            parts.append(f"ws {part}" if key in needed else f"(ws {part})?")
        if is_open:
            parts.append(f"(ws {self._free_parameter(form)}){{0,64}}")
        after_name = literal(syntax.after_name.rstrip()) if syntax.after_name.rstrip() else '"\\n"?'
        return f"{after_name} {' '.join(parts)}".strip()

    def _parameter(self, form: Parameters, key: str, schema: Any, root: Any) -> str:
        kinds = kinds_of(schema, root)
        is_marked = bool(form.string_mark)
        options = []
        if "string" in kinds and not (kinds - {"string"} and is_marked):
            options.append((form.string_mark, schema))
        elif is_marked and "string" in kinds:
            options.append((form.string_mark, {"allOf": [schema, {"type": "string"}]}))
            options.append((form.other_mark, {"allOf": [schema, {"type": sorted(kinds - {"string"})}]}))
        else:
            options.append((form.other_mark, schema))
        closing = form.pad + form.close
        written = []
        for mark, node in options:
            notation = bare(closing) if mark != form.other_mark or not is_marked else TAGGED
            value = self._compiler.node(node, f"value-{key}", notation)
            opening = self._opening(form, literal(form.open + key + mark + form.after_key))
            written.append(f"{opening} {value} {literal(closing)}")
        return any_of(written)

    def _opening(self, form: Parameters, head: str) -> str:
        return (
            f"{head} ws {literal(form.value_open)}"
            if form.value_open
            else f"{head} {literal(form.pad)}".replace(' ""', "")
        )

    def _free_parameter(self, form: Parameters) -> str:
        """Of a tool whose schema names none."""
        head = f"{literal(form.open)} [a-zA-Z_] [a-zA-Z0-9_-]{{0,63}} {literal(form.string_mark + form.after_key)}"
        closing = form.pad + form.close
        return self._rules.rule(
            "parameter", f"{self._opening(form, head)} {text_until(self._rules, closing)} {literal(closing)}"
        )

    # --- gpt-oss ---

    def _harmony(self, *, role_first: bool) -> str:
        bodies = []
        for tool in self._tools:
            arguments = self._compiler.arguments(tool.schema, f"args-{tool.name}")
            channel = '("<|channel|>commentary" | "<|channel|>analysis")? ' if role_first else ""
            bodies.append(
                self._rules.rule(f"call-{tool.name}", f"{literal(tool.name)} {channel}{_HARMONY_TAIL} {arguments}")
            )
        return self._rules.rule("call", " | ".join(bodies))


def held_to(tools: Sequence[ToolFunction], family: Family, *, is_strict: bool) -> list[Tool]:
    """Tools with their own schemas; with any object's, where one cannot be enforced and nobody insists on it.

    Raises:
        UnsupportedError: One cannot be enforced; names the keyword.
    """
    effort = Effort()  # of all: a hundred small schemas may each unfold into a large one
    held = []
    for tool in tools:
        schema = tool.parameters if tool.parameters else ANY_OBJECT
        assert isinstance(schema, msgspec.Raw)
        one = Tool(tool.name, schema)
        try:
            CallGrammar(Rules("tools", effort), family, (one,)).turn(may_repeat=False)
        except UnsupportedError:
            if is_strict or tool.strict:
                raise
            one = Tool(tool.name, ANY_OBJECT)
        held.append(one)
    return held


def held_to_nothing(tools: Sequence[ToolFunction]) -> list[Tool]:
    """Tools that take any object: what is left where all their schemas together are too large."""
    return [Tool(tool.name, ANY_OBJECT) for tool in tools]
