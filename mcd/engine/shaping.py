"""A chat request as the variables of a template: what this template cannot say is said in a way it can.   Pure.

OpenAI's clients write conversations that many templates refuse or drop parts of: instructions in the middle, two turns
of one side, calls beside calls, tools for a model whose template knows none. `Caps` says what a template can do
(`template_caps` finds out); everything here bends a conversation only as far as that demands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from mcd.api import strict_json
from mcd.api.request import ChatMessage, ChatRequest, ToolCall, ToolFunction
from mcd.engine.controls import Fence
from mcd.errors import InvalidRequestError

Message = dict[str, Any]
Dialect = Literal["tagged", "listed", "pythonic"]
"""How calls are written into plain text: ``<tool_call>{}</tool_call>``, ``<|tool_call|>[{}]``, ``[f(a='b')]``."""

EFFORT_NAMES = ("reasoning_effort", "reasoning_strength", "thinking_effort")
"""The variables in which templates expect an effort."""
SHORT_ID_CHARS = 9
"""Mistral's templates insist on it."""
_objects = msgspec.json.Decoder(dict[str, Any])
RESULT_OPEN, RESULT_CLOSE = "<tool_response>", "</tool_response>"


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What a template can do. The defaults are a template that can do everything the usual way."""

    typed_content: bool = False
    """Content has to be a list of typed parts."""
    system: bool = True
    many_systems: bool = True
    """More than one system message at the beginning."""
    late_system: bool = True
    lone_system: bool = True
    """A conversation of a system message alone."""
    system_beside_results: bool = True
    """A system message in a conversation with calls and their results."""
    developer: bool = False
    """Tells developer from system."""
    same_side: bool = True
    """Two turns of one side in a row."""
    tools: Literal["tools", "functions", ""] = "tools"
    """The variable through which tools are shown; empty: none, so we describe them in words."""
    calls: bool = True
    """Shows an assistant's calls from its ``tool_calls``; else we write them into its text."""
    results: bool = True
    """Shows messages of the role tool."""
    text_arguments: bool = False
    """Arguments of calls as JSON text and not as an object."""
    null_content: bool = False
    """An assistant that calls has to have no content at all."""
    short_ids: bool = False
    many_calls: bool = True
    """Several calls in one assistant message."""
    text_beside_call: bool = True
    """Still shows a call when there is text beside it (which it may drop)."""
    thoughts: str = ""
    """The member of a message in which it takes reasoning; empty: none."""
    thoughts_with_text: bool = True
    """Reasoning and text beside a call."""
    efforts: dict[str, str] = {}
    """OpenAI's reasoning_effort to the word this template takes; one that is absent is not passed on."""
    dialect: Dialect = "tagged"
    example: str = ""
    """A call as this template writes it, for describing tools in words; empty where it does not write them."""


def variables(request: ChatRequest, caps: Caps, fence: Fence, *, with_tools: bool, asked_ms: int) -> dict[str, Any]:
    """Everything the template is given but its special tokens. Today is when it was asked, in UTC."""
    tools = [_tool(tool, fence) for tool in request.tools] if with_tools else []
    messages = [_message(message, caps, fence) for message in request.messages]
    if tools and not caps.tools:
        messages.insert(0, {"role": "system", "content": _described(tools, caps)})
    _shape_calls(messages, caps)
    messages = _shape_systems(messages, caps)
    if not caps.same_side:
        messages = _merged(messages)
    if caps.typed_content:
        for message in messages:
            message["content"] = [{"type": "text", "text": message["content"] or ""}]
    now = datetime.fromtimestamp(asked_ms // 1000, UTC)
    given: dict[str, Any] = {
        "messages": messages,
        "add_generation_prompt": True,
        "asked_ms": asked_ms,
        "datetime": now.strftime("%b %d %Y"),
        "date_string": now.strftime("%d %b %Y"),
        "functions": _spaced([tool["function"] for tool in tools]) if caps.tools == "functions" else "[]",
    }
    if tools and caps.tools == "tools":
        given["tools"] = tools
    chosen = {name: fence.value(value) for name, value in request.chat_template_kwargs}
    return _thinking(request.reasoning_effort, caps) | chosen | given


def marked(messages: Sequence[ChatMessage], marker: str) -> tuple[ChatMessage, ...]:
    """The messages with ``marker``, a number and ``n`` in the place of each picture, counted through."""
    shown: list[ChatMessage] = []
    n_images = 0
    for message in messages:
        content, done = "", 0
        for image in message.images:
            content += f"{(message.content or '')[done : image.at]}{marker}{n_images}n"
            done = image.at
            n_images += 1
        content += (message.content or "")[done:]
        shown.append(msgspec.structs.replace(message, content=content, images=()) if message.images else message)
    return tuple(shown)


# --- messages ------------------------------------------------------------------------------------------------------


def _message(message: ChatMessage, caps: Caps, fence: Fence) -> Message:
    shown: Message = {"role": message.role, "content": fence.text(message.content or "")}
    if message.role == "developer" and not caps.developer:
        shown["role"] = "system"
    if message.name is not None:
        shown["name"] = fence.text(message.name)
    if message.tool_call_id is not None:
        shown["tool_call_id"] = _id(message.tool_call_id, caps, fence)
    if message.tool_calls:
        shown["tool_calls"] = [_call(call, caps, fence) for call in message.tool_calls]
        if caps.calls and not caps.text_beside_call:
            shown["content"] = ""
        if caps.null_content and not shown["content"]:
            shown["content"] = None
    has_both = bool(shown["content"] and message.tool_calls)
    if message.reasoning_content and caps.thoughts and (caps.thoughts_with_text or not has_both):
        shown[caps.thoughts] = fence.text(message.reasoning_content)
    return shown


def _call(call: ToolCall, caps: Caps, fence: Fence) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    if not caps.text_arguments:
        arguments = _object(arguments)
    return {
        "id": _id(call.id, caps, fence),
        "type": call.type,
        "function": {"name": fence.text(call.function.name), "arguments": fence.value(arguments)},
    }


def _object(text: str) -> Any:
    """As an object, which templates print with tojson; as it is when the model wrote no JSON, or half a character."""
    try:
        return strict_json.decode(text.encode(), _objects)
    except InvalidRequestError:
        return text


def _id(given: str, caps: Caps, fence: Fence) -> str:
    if not caps.short_ids or (len(given) == SHORT_ID_CHARS and given.isalnum()):
        return fence.text(given)
    return hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:SHORT_ID_CHARS]


def _tool(tool: ToolFunction, fence: Fence) -> dict[str, Any]:
    # verbatim: only the template reads a schema
    parameters = fence.json(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    name, description = fence.text(tool.name), fence.text(tool.description)
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


# --- calls and their results ---------------------------------------------------------------------------------------


def _shape_calls(messages: list[Message], caps: Caps) -> None:
    _name_results(messages)
    if not caps.many_calls:
        messages[:] = _one_call_each(messages)
    for message in messages:
        if message.get("tool_calls") and not caps.calls:
            calls = written(message.pop("tool_calls"), caps.dialect)
            message["content"] = f"{message['content']}\n{calls}" if message["content"] else calls
        if message["role"] == "tool" and not caps.results:
            message["role"] = "user"
            message["content"] = f"{RESULT_OPEN}\n{message['content']}\n{RESULT_CLOSE}"


def _name_results(messages: list[Message]) -> None:
    """Say which function a result is of: many templates want it, OpenAI's clients leave it out."""
    names: dict[str, str] = {}
    for message in messages:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message["name"] = names[message["tool_call_id"]]


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Calls made together as calls made one after the other, each before its result."""
    shaped: list[Message] = []
    pending: dict[str, Message] = {}
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) > 1:
            shaped.extend(pending.values())
            pending = {
                call["id"]: message | {"tool_calls": [call]} | ({"content": ""} if i else {})
                for i, call in enumerate(calls)
            }
            continue
        if message["role"] == "tool" and message.get("tool_call_id") in pending:
            shaped.append(pending.pop(message["tool_call_id"]))
        elif message["role"] != "tool":
            shaped.extend(pending.values())
            pending = {}
        shaped.append(message)
    return [*shaped, *pending.values()]


def written(calls: Sequence[dict[str, Any]], dialect: Dialect) -> str:
    """Calls as a model of this dialect writes them."""
    bodies = [call["function"] for call in calls]
    if dialect == "pythonic":
        return f"<|tool_call_start|>[{', '.join(_pythonic(body) for body in bodies)}]<|tool_call_end|>"
    texts = [json.dumps({"name": body["name"], "arguments": body["arguments"]}, ensure_ascii=False) for body in bodies]
    if dialect == "listed":
        return f"<|tool_call|>[{', '.join(texts)}]"
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def _pythonic(body: dict[str, Any]) -> str:
    arguments = body["arguments"] if isinstance(body["arguments"], dict) else {}
    return f"{body['name']}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def _described(tools: Sequence[dict[str, Any]], caps: Caps) -> str:
    """Tools in words, for a model whose template shows none."""
    listed = "\n".join(_spaced(tool["function"]) for tool in tools)
    example = caps.example or written([EXAMPLE_CALL], caps.dialect)
    return (
        "You may call functions. These are available, each described by a JSON object:\n"
        f"{listed}\n\n"
        "To call one, write the call alone, exactly in this form, with the function's name and its arguments:\n"
        f"{example}\n\n"
        "The result then comes in a message of its own. Answer in plain text when no function helps."
    )


def _spaced(value: Any) -> str:
    """As JSON the way models have seen most of it; on one line, because indenting a deep schema multiplies it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


EXAMPLE_CALL: dict[str, Any] = {
    "id": "callexmpl",
    "type": "function",
    "function": {"name": "function_name", "arguments": {"argument_name": "value"}},
}


# --- system messages and turns -------------------------------------------------------------------------------------


def _shape_systems(messages: list[Message], caps: Caps) -> list[Message]:
    """Keep instructions where the template takes them; else they open the next turn of the user."""
    n_leading = next((i for i, m in enumerate(messages) if m["role"] not in {"system", "developer"}), len(messages))
    leading, rest = messages[:n_leading], messages[n_leading:]
    if len(leading) > 1 and not caps.many_systems:
        leading = [leading[0] | {"content": "\n\n".join(m["content"] for m in leading)}]
    if caps.system and leading and not rest and not caps.lone_system:
        leading[-1]["role"] = "user"
    keeps = caps.system and (caps.system_beside_results or all(m["role"] != "tool" for m in rest))
    moved = [] if keeps else [m["content"] for m in leading]
    shaped = leading if keeps else []
    for message in rest:
        if message["role"] in {"system", "developer"} and not caps.late_system:
            moved.append(message["content"])
            continue
        if moved and message["role"] == "user":
            shaped.append(message | {"content": "\n\n".join([*moved, message["content"]])})
            moved = []
        else:
            shaped.append(message)
    return [*shaped, {"role": "user", "content": "\n\n".join(moved)}] if moved else shaped


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Turns of one side in a row as one turn."""
    shaped: list[Message] = []
    for message in messages:
        last = shaped[-1] if shaped else None
        if (
            last is not None
            and last["role"] == message["role"]
            and message["role"] in {"user", "assistant"}
            and not (last.keys() | message.keys()) & {"tool_calls"}
        ):
            shaped[-1] = last | message | {"content": f"{last['content']}\n\n{message['content']}"}
        else:
            shaped.append(message)
    return shaped


# --- thinking ------------------------------------------------------------------------------------------------------


def _thinking(effort: str | None, caps: Caps) -> dict[str, Any]:
    """A reasoning effort in the words of all the templates we know; without one the template's own default stays."""
    if effort is None:
        return {}
    word = caps.efforts.get(effort)
    return switches(effort != "none") | (dict.fromkeys(EFFORT_NAMES, word) if word is not None else {})


def switches(is_on: bool) -> dict[str, Any]:
    """The variables by which templates turn thinking on or off; each knows some of them."""
    given: dict[str, Any] = {
        "enable_thinking": is_on,
        "thinking": is_on,
        "reasoning": is_on,
        "thinking_mode": "enabled" if is_on else "disabled",
        "thinking_option": "on" if is_on else "off",
    }
    return given if is_on else given | {"thinking_budget": 0}
