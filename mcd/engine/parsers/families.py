"""Every way of writing thoughts and calls we know, and which of them a chat template uses.   Pure.

One table. A family is recognised by what its template says; the first whose signs are all there is it, so the more
particular ones come first.
"""

from __future__ import annotations

import msgspec

from mcd.engine.parsers.syntax import Family, HarmonyCalls, JsonCalls, NamedCalls, Parameters, Think, Thinking

TAGS = Think("<think>", "</think>")
THINKS = (
    TAGS,
    Think("[THINK]", "[/THINK]", anywhere=True),
    Think("<|START_THINKING|>", "<|END_THINKING|>", anywhere=True),
    Think("<seed:think>", "</seed:think>"),
    Think("<|channel>thought", "<channel|>", anywhere=True),
    Think("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True),
    Think("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
HARMONY_THINK = Think("<|channel|>analysis<|message|>", "<|end|>", anywhere=True)

_XML = Parameters("<parameter=", ">", "</parameter>", pad="\n")
_INVOKE = Parameters('<parameter name="', '">', "</parameter>")
_DSML = Parameters(
    '<｜DSML｜parameter name="',
    ">",
    "</｜DSML｜parameter>",
    string_mark='" string="true"',
    other_mark='" string="false"',
)
_ARG_KEYS = Parameters("<arg_key>", "</arg_key>", "</arg_value>", value_open="<arg_value>")
_BARE = JsonCalls("<|python_tag|>", "", is_bare_too=True, arguments_key="parameters", between="; ")
_HUNYUAN = Parameters(
    "<arg_key:opensource>", "</arg_key:opensource>", "</arg_value:opensource>", value_open="<arg_value:opensource>"
)
_PARAM = Parameters('<param name="', '">', "</param>", between="", wrap=("<![CDATA[", "]]>"))
_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")


def _dsml(section: str) -> NamedCalls:
    return NamedCalls(
        '<｜DSML｜invoke name="',
        '">\n',
        "</｜DSML｜invoke>",
        _DSML,
        f"<｜DSML｜{section}>",
        f"</｜DSML｜{section}>",
        between="\n",
        after_section="\n",
    )


FAMILIES: tuple[Family, ...] = (
    Family("gpt-oss", ("<|channel|>", "<|message|>", "<|call|>"), HarmonyCalls(), HARMONY_THINK),
    Family("gemma 4", ("<|tool_call>", "<tool_call|>"), NamedCalls("<|tool_call>call:", "{", "<tool_call|>", "gemma")),
    Family("deepseek v3.2", ("｜DSML｜", "function_calls>"), _dsml("function_calls")),
    Family("deepseek v4", ("｜DSML｜",), _dsml("tool_calls")),
    Family(
        "deepseek r1",
        ("<｜tool▁calls▁begin｜>", "```json"),
        NamedCalls(
            "<｜tool▁call▁begin｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜>",
            section=_DEEPSEEK[0],
            section_close=_DEEPSEEK[1],
            name_prefix="function<｜tool▁sep｜>",
            between="\n",
        ),
    ),
    Family(
        "deepseek v3.1",
        ("<｜tool▁calls▁begin｜>",),
        NamedCalls(
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            section=_DEEPSEEK[0],
            section_close=_DEEPSEEK[1],
        ),
    ),
    Family(
        "kimi k2",
        ("<|tool_calls_section_begin|>",),
        NamedCalls(
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            section="<|tool_calls_section_begin|>",
            section_close="<|tool_calls_section_end|>",
            name_prefix="functions.",
            has_index=True,
        ),
        ids="own",
    ),
    Family(
        "minimax m2",
        ("<minimax:tool_call>",),
        NamedCalls(
            '<invoke name="',
            '">\n',
            "</invoke>",
            _INVOKE,
            "<minimax:tool_call>",
            "</minimax:tool_call>",
            between="\n",
            after_section="\n",
        ),
    ),
    Family(
        "seed-oss",
        ("<seed:tool_call>",),
        NamedCalls(
            "<function=",
            ">\n",
            "</function>",
            Parameters("<parameter=", ">", "</parameter>"),
            "<seed:tool_call>",
            "</seed:tool_call>",
            between="\n",
            after_section="\n",
        ),
    ),
    Family(
        "glm", ("<arg_key>", "<tool_call>"), NamedCalls("<tool_call>", "\n", "</tool_call>", _ARG_KEYS, between="\n")
    ),
    Family(
        "qwen xml",
        ("<function=", "<parameter=", "<tool_call>"),
        NamedCalls(
            "<function=",
            ">\n",
            "</function>",
            _XML,
            "<tool_call>",
            "</tool_call>",
            between="\n",
            after_section="\n",
        ),
    ),
    Family(
        "lfm 2",
        ("<|tool_call_start|>",),
        NamedCalls("", "(", ")", "python", "<|tool_call_start|>[", "]<|tool_call_end|>", between=", "),
    ),
    Family(
        "hunyuan 3",
        ("<tool_calls{}>", "':opensource'"),
        NamedCalls(
            "<tool_call:opensource>",
            "<tool_sep:opensource>\n",
            "</tool_call:opensource>",
            _HUNYUAN,
            "<tool_calls:opensource>",
            "</tool_calls:opensource>",
            between="\n",
            after_section="\n",
        ),
        Think("<think:opensource>", "</think:opensource>"),
    ),
    Family(
        "solar open",
        ("<|tool_call:begin|>", "<|tool_call:name|>"),
        NamedCalls(
            "<|tool_call:begin|>",
            "<|tool_call:args|>",
            "<|tool_call:end|>",
            section="<|tool_calls|>",
            section_close="<|calls|>",
            id_end="<|tool_call:name|>",
        ),
        Think("<|think|>", "<|end|>"),
        drops=("<|begin|>assistant", "<|content|>"),
        ids="own",
    ),
    Family(
        "apertus",
        ("<|tools_prefix|>",),
        NamedCalls(
            "",
            '": ',
            "}",
            section="<|tools_prefix|>[",
            section_close="]<|tools_suffix|>",
            name_prefix='{"',
            between=", ",
        ),
    ),
    Family(
        "minicpm 5", ('<function name="', '<param name="'), NamedCalls('<function name="', '">', "</function>", _PARAM)
    ),
    Family("functionary 3.1", ("<function=", "</function>"), NamedCalls("<function=", ">", "</function>")),
    Family("nemotron", ("<TOOLCALL>",), JsonCalls("<TOOLCALL>", "</TOOLCALL>", is_list=True, between=", ")),
    Family(
        "minimax m1",
        ("<tool_calls>", "<beginning_of_sentence>"),
        JsonCalls("<tool_calls>", "</tool_calls>", pad="\n", is_run=True),
    ),
    Family(
        "apriel",
        ("<tool_calls>",),
        JsonCalls("<tool_calls>", "</tool_calls>", is_list=True, between=", "),
        drops=("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ),
    Family(
        "phi 4 mini",
        ("<|tool_call|>", "<|/tool_call|>"),
        JsonCalls("<|tool_call|>", "<|/tool_call|>", is_list=True, between=", "),
    ),
    Family(
        "granite 3",
        ("<|tool_call|>",),
        JsonCalls("<|tool_call|>", "", is_list=True, between=", "),
        drops=("<response>", "</response>"),
    ),
    Family("gigachat", ("<|function_call|>",), JsonCalls("<|function_call|>", "")),
    Family("hermes", ("<tool_call>",), JsonCalls("<tool_call>", "</tool_call>", pad="\n")),
    Family(
        "mistral args",
        ("[TOOL_CALLS]", "[ARGS]"),
        NamedCalls("[TOOL_CALLS]", "[ARGS]", "", id_mark="[CALL_ID]"),
        ids="nine",
    ),
    Family(
        "mistral",
        ("[TOOL_CALLS]",),
        JsonCalls(
            "[TOOL_CALLS]",
            "",
            is_list=True,
            between=", ",
            after_arguments='(", \\"id\\": \\"" [a-zA-Z0-9]{9} "\\"")?',
        ),
        ids="nine",
    ),
    Family(
        "command r7b",
        ("<|START_ACTION|>",),
        JsonCalls(
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            is_list=True,
            name_key="tool_name",
            arguments_key="parameters",
            between=",\n    ",
            pad="\n",
            before_name='"\\"tool_call_id\\": \\"" [0-9]{1,3} "\\", "',
        ),
        drops=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Family(
        "command r",
        ("Action:", "```json", '"tool_name"'),
        JsonCalls(
            "Action:",
            "```",
            is_list=True,
            name_key="tool_name",
            arguments_key="parameters",
            between=",\n",
            pad="\n```json\n",
        ),
    ),
    Family("firefunction", ("functools[",), JsonCalls("functools", "", is_list=True, between=", ")),
    Family("llama 3", ("<|start_header_id|>",), _BARE, drops=("<|python_tag|>",)),
    Family("plain", (), _BARE),
)
"""The last one fits every template: a whole answer that is one JSON call, and ``<think>``."""


def family_of(template: str) -> Family:
    """How a model with this template writes; `Family.think` is set."""
    family = next(family for family in FAMILIES if all(sign in template for sign in family.signs))
    if family.think is not None:
        return family
    think = next((think for think in THINKS if think.open in template or think.close in template), TAGS)
    return msgspec.structs.replace(family, think=think)


def may_think(family: Family, template: str) -> bool:
    """Whether the template knows of thoughts at all."""
    assert family.think is not None
    has_own = any(own.name == family.name and own.think is not None for own in FAMILIES)
    return has_own or family.think.open in template or family.think.close in template


def thinking_after(family: Family, prompt: str) -> Thinking:
    """Whether a prompt leaves the model at its thoughts."""
    assert family.think is not None
    end = prompt[-256:].rstrip()
    if end.endswith(family.think.open):
        return "open"
    is_harmony = isinstance(family.calls, HarmonyCalls)  # there the same mark ends every message
    return "closed" if end.endswith(family.think.close) and not is_harmony else "unknown"


def marks(family: Family) -> str:
    """All of its marks in one text: a control token found in it is part of them."""
    assert family.think is not None
    texts = [family.think.open, family.think.close, *family.drops]
    match family.calls:
        case HarmonyCalls():
            texts += ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
        case JsonCalls() as calls:
            texts += [calls.open, calls.close]
        case NamedCalls() as calls:
            texts += [calls.open, calls.after_name, calls.close, calls.section, calls.section_close]
            texts += [calls.name_prefix, calls.id_mark, calls.id_end, '<|"|>' if calls.body == "gemma" else ""]
            if isinstance(calls.body, Parameters):
                texts += [calls.body.open, calls.body.after_key, calls.body.value_open, calls.body.close]
                texts += calls.body.wrap
    return "\0".join(texts)
