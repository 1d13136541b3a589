"""What a chat template writes for an assistant's turn: the best example there is of how its model writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import msgspec

from mcd.api.request import ToolFunction
from mcd.engine.parsers.families import THINKS, family_of
from mcd.engine.parsers.syntax import Family, Think
from tests.fakes import templates

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "description": "d"},
        "s": {"type": "string", "description": "d"},
        "o": {"type": "object", "description": "d"},
        "l": {"type": "array", "description": "d", "items": {"type": "string"}},
        "b": {"type": "boolean", "description": "d"},
    },
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = (ToolFunction(name="add", description="d", parameters=msgspec.Raw(json.dumps(PARAMETERS).encode())),)
ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>", "<EOS>", "<turn|>",
    "<|tool_response>", "[e~[", "<seed:eos>", "<end_of_sentence>", "<SPECIAL_12>", "<|role_end|>", "<|end|>\n<EOS>",
    "<｜end▁of▁sentence｜>", "<|message_sep|>", "<sep>", "<|user|>", "</assistant>", "<｜hy_eos:opensource｜>",
)  # fmt: skip


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what training learns from; it renders its body."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation], autoescape=False
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals.update(
        strftime_now=lambda layout: datetime(2026, 1, 2, tzinfo=UTC).strftime(layout), raise_exception=_refuse
    )
    return environment.from_string(templates.source(name))


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class Turn:
    """An assistant's turn as its template writes it."""

    def __init__(self, family: Family, text: str, *, is_thinking: bool, source: str) -> None:
        self.family = family
        self.text = text
        self.is_thinking = is_thinking
        self.source = source


def turn(
    name: str,
    *,
    content: str = "",
    reasoning: str = "",
    calls: tuple[dict[str, Any], ...] = (),
    as_text: bool = False,
    **switches: Any,
) -> Turn:
    """Render a conversation that ends in this turn, and cut out what came after the generation prompt.

    Args:
        name: The template.
        content: The answer.
        reasoning: The thoughts.
        calls: The arguments of each call of ``add``.
        as_text: Give arguments as JSON text, which some templates want.
        switches: More variables, e.g. ``enable_thinking``.
    """
    template = _compile(name)
    tools = [{"type": "function", "function": {"name": "add", "description": "d", "parameters": PARAMETERS}}]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning, "thinking": reasoning}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"functions.add:{index}"
                if "tool_calls_section" in templates.source(name)
                else f"abcdefgh{index}",
                "type": "function",
                "function": {"name": "add", "arguments": json.dumps(arguments) if as_text else arguments},
            }
            for index, arguments in enumerate(calls)
        ]

    def render(messages: list[dict[str, Any]], *, wants_more: bool) -> str:
        variables = {
            "tools": tools,
            "bos_token": "<BOS>",
            "eos_token": "<EOS>",
            "functions": "",
            "datetime": "Jan 02 2026",
            **switches,
        }
        return template.render(messages=messages, add_generation_prompt=wants_more, **variables)

    user = {"role": "user", "content": "Q"}
    prompt = render([user], wants_more=True)
    whole = render([user, message], wants_more=False)
    family = family_of(templates.source(name))
    assert family.think is not None
    is_thinking = prompt.rstrip().endswith(family.think.open)
    if not whole.startswith(prompt):
        prompt, is_thinking = _without_thoughts(prompt, family.think), False
    assert whole.startswith(prompt), (prompt[-80:], whole[-400:])
    text = whole[len(prompt) :]
    end = min((at for mark in ENDS if (at := text.find(mark)) >= 0), default=len(text))
    return Turn(family, text[:end], is_thinking=is_thinking, source=templates.source(name))


def _without_thoughts(prompt: str, own: Think) -> str:
    """The generation prompt up to where it opens, or opens and closes, thoughts."""
    starts = [at for think in (*THINKS, own) if (at := prompt.rfind(think.open)) >= max(0, len(prompt) - 60)]
    return prompt[: min(starts)].rstrip("\n") if starts else prompt
