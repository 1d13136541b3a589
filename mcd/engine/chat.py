"""A conversation to a prompt, through the model's own template: what it can do, and how it is asked.

The template comes with the model file: code of a stranger that sees prompts. It runs in a process of its own
(`renderer`); here are only its text and the variables it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mcd.api.request import ChatRequest
from mcd.engine import shaping, template_caps
from mcd.engine.controls import NO_FENCE, Fence
from mcd.engine.shaping import Caps
from mcd.errors import UnsupportedError


class Template:
    """A model's chat template. Owner: LlamaBackend."""

    def __init__(self, source: str, bos: str, eos: str, render: Callable[[bytes], str]) -> None:
        """Try what it can do, through ``render``.

        Raises:
            UserError: It refuses even a plain conversation.
            TemplateError: As ``render`` does.
        """
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self.caps: Caps = template_caps.find(source, eos, lambda given: render(self._encoded(given)))

    @property
    def dialect(self) -> str:
        """Text with the markers that the model writes calls and thoughts with: the template's, and our words'."""
        if self.caps.tools and self.caps.calls:
            return self.source
        return self.source + (self.caps.example or shaping.written([shaping.EXAMPLE_CALL], self.caps.dialect))

    def variables(
        self, request: ChatRequest, asked_ms: int, *, with_tools: bool, marker: str = "", fence: Fence = NO_FENCE
    ) -> bytes:
        """What the template is given for a request; ``marker`` and a number stand for each of its pictures.

        All that the client wrote is fenced; what we write is not, nor what is taken from the template.
        """
        messages = shaping.marked(request.messages, marker)
        request = msgspec.structs.replace(request, messages=messages) if marker else request
        return self._encoded(shaping.variables(request, self.caps, fence, with_tools=with_tools, asked_ms=asked_ms))

    def _encoded(self, given: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode({**given, **self._tokens})


def no_template() -> UnsupportedError:
    """The error of a chat with a model that has no template."""
    return UnsupportedError(
        "this model's file has no chat template that can be used, so it cannot answer chats; choose an "
        "instruction-tuned model",
        param="messages",
    )
