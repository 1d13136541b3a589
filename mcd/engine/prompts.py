"""A request to a prompt: its text from the template process, its pictures from theirs, then tokens.

The template sees a word in a picture's place, made up for this request, and thus nothing that a user could have
written. Behind it we know what to put there; what the model wants around a picture is the projector's to say. What
clients wrote is fenced (`controls`): of its text come no control tokens.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from mcd.api.request import ChatRequest, CompletionRequest
from mcd.engine.aside import Aside, Outcome
from mcd.engine.backend import Job, Task, blind
from mcd.engine.chat import Template, no_template
from mcd.engine.controls import NO_FENCE, Fence
from mcd.engine.decoding import Decoding, EncodedPicture, Picture
from mcd.engine.model import MAX_SHALLOW_BYTES, Model
from mcd.engine.rendering import Rendering, TemplateError
from mcd.engine.spans import Span
from mcd.engine.vision import Pictures, Vision
from mcd.errors import InvalidRequestError, UnsupportedError, UserError

MAX_PICTURES = 48
"""Of all requests between their arrival and their end: each may hold ten megabytes or more."""
_NONCE_BYTES = 16


class Written:
    """What the two processes made of a request."""

    __slots__ = ("fence", "marker", "pictures", "text", "tokenized")

    def __init__(self, marker: str, fence: Fence, pictures: tuple[Picture, ...] | None) -> None:
        self.marker = marker
        self.fence = fence
        self.pictures = pictures
        self.text: str | None = None
        self.tokenized: Outcome[Prompt] | None = None
        """Of a long text, which is tokenised beside the decoding."""

    @property
    def is_whole(self) -> bool:
        """Nothing is missing."""
        return self.text is not None and self.pictures is not None


class Prompt:
    """Tokens, and what stands behind those that are pictures. Owner: the request; freed by `close`."""

    __slots__ = ("_pictures", "text", "tokens")

    def __init__(self, text: str, tokens: list[int], pictures: Pictures | None = None) -> None:
        self.text = text
        self.tokens = tokens
        self._pictures = pictures

    @property
    def spans(self) -> Sequence[Span]:
        """Its pictures."""
        return self._pictures.spans if self._pictures is not None else ()

    @property
    def n_picture_tokens(self) -> int:
        """Cells of all pictures."""
        return self._pictures.n_tokens if self._pictures is not None else 0

    def close(self) -> None:
        """Free what C holds of the pictures."""
        if self._pictures is not None:
            self._pictures.close()


class Prompts:
    """Requests whose prompt is being made. Owner: LlamaBackend; itself owner of both processes and the projector."""

    def __init__(self, model: Model, rendering: Rendering, decoding: Decoding | None, vision: Vision | None) -> None:
        """Take over the processes; ``decoding`` and ``vision`` come both or not at all."""
        self._model = model
        self._rendering = rendering
        self._decoding = decoding
        self.vision = vision
        self.template, self.note = _template(model, rendering)
        self._bos = model.special_text(model.lib.llama_vocab_bos(model.vocab))
        """Asked for once: `tokenize` is called in threads too."""
        self._long: Aside[Prompt] = Aside()
        """A text of a megabyte takes a second, and streams would stand still."""
        self._pending: dict[int, tuple[Job | Task, Written]] = {}

    @property
    def n_open(self) -> int:
        """Requests without a prompt yet."""
        return len(self._pending)

    def submit(self, asked: Job | Task, request: ChatRequest, *, with_tools: bool) -> None:
        """Have a prompt written; `take` will have it.

        Raises:
            UserError: The request cannot be served as written.
        """
        if isinstance(request, CompletionRequest):
            self._pending[asked.id] = asked, Written("", NO_FENCE, ())
            self._long.add(asked.id, lambda: self._as_it_is(request.prompt), len(request.prompt))
            return
        if self.template is None:
            raise no_template()
        pictures = _pictures(request)
        if pictures and (self.vision is None or self._decoding is None):
            raise blind()
        if pictures and isinstance(asked, Task):
            raise UnsupportedError("the tokens of pictures cannot be listed; leave the pictures out", param="messages")
        marker = f"picture{secrets.token_hex(_NONCE_BYTES)}n" if pictures else ""
        written = Written(marker, self._model.controls.fence(), None if pictures else ())
        variables = self.template.variables(
            request, asked.asked_ms, with_tools=with_tools, marker=marker, fence=written.fence
        )
        self._rendering.submit(asked.id, variables)
        self._pending[asked.id] = asked, written
        if pictures and self._decoding is not None:
            try:
                self._decoding.submit(asked.id, pictures)
            except UserError:
                self.cancel(asked.id)
                raise

    def _as_it_is(self, prompt: str | tuple[int, ...]) -> Prompt:
        """The prompt of a completion; called in a thread."""
        if isinstance(prompt, str):
            add_special = not (bool(self._bos) and prompt.startswith(self._bos))
            tokens = self._model.tokenize(prompt.encode("utf-8", "replace"), add_special=add_special)
        else:
            tokens = list(prompt)
        if not tokens:
            raise InvalidRequestError("the prompt is empty", param="prompt")
        if max(tokens) >= self._model.n_vocab:
            raise InvalidRequestError("prompt holds token ids that are not of this model", param="prompt")
        return Prompt("", tokens)

    def cancel(self, asked_id: int) -> Job | Task | None:
        """Forget a request; None when its prompt was not being made."""
        asked, _ = self._pending.pop(asked_id, (None, None))
        if asked is not None:
            self._rendering.cancel(asked_id)
            self._long.cancel(asked_id)
            if self._decoding is not None:
                self._decoding.cancel(asked_id)
        return asked

    def take(self) -> list[tuple[Job | Task, Written | UserError]]:
        """Requests of which everything is there, and those that will come to nothing."""
        done: list[tuple[Job | Task, Written | UserError]] = []
        text = self._rendering.take()
        if text is not None and text[0] in self._pending:
            if not isinstance(text[1], UserError):
                self._pending[text[0]][1].text = text[1]
            self._settle(text[0], text[1], done)
        pictures = self._decoding.take() if self._decoding is not None else None
        if pictures is not None and pictures[0] in self._pending:
            if not isinstance(pictures[1], UserError):
                self._pending[pictures[0]][1].pictures = pictures[1]
            self._settle(pictures[0], pictures[1], done)
        while (tokenized := self._long.take()) is not None:
            if tokenized[0] in self._pending:
                asked, written = self._pending.pop(tokenized[0])
                written.tokenized = tokenized[1]
                done.append((asked, written))
        return done

    def _settle(self, asked_id: int, came: object, done: list[tuple[Job | Task, Written | UserError]]) -> None:
        asked, written = self._pending[asked_id]
        if isinstance(came, UserError):
            self.cancel(asked_id)
            done.append((asked, came))
        elif written.is_whole and isinstance(asked, Job) and _is_long(written):
            self._long.add(asked_id, lambda: self.tokenize(written), len(written.text or ""))
        elif written.is_whole:
            del self._pending[asked_id]
            done.append((asked, written))

    def wakers(self) -> tuple[int, ...]:
        """Readable when `take` has something to do."""
        ends = (self._rendering,) if self._decoding is None else (self._rendering, self._decoding)
        return (self._long.fileno(), *(end.fileno() for end in ends))

    def tokenize(self, written: Written) -> Prompt:
        """The prompt.

        Raises:
            InvalidRequestError: It is empty, or the template does not show the pictures.
        """
        if written.tokenized is not None:
            return written.tokenized.take()
        text, fence = written.text or "", written.fence
        add_special = not (bool(self._bos) and text.startswith(self._bos))  # a client's would be fenced
        if written.pictures and self.vision is not None:
            parts = [
                self._model.tokenize_prompt(part, fence, add_special=False) if isinstance(part, str) else part
                for part in _parts(text, written)
            ]
            prompt = Prompt(fence.without(text), *self.vision.tokenize(parts, add_special=add_special))
            if prompt.tokens[-1] < 0:
                prompt.close()
                raise InvalidRequestError("the model's chat template writes nothing behind a picture", param="messages")
            return prompt
        tokens = self._model.tokenize_prompt(text, fence, add_special=add_special)
        if not tokens:
            raise InvalidRequestError("the prompt is empty", param="messages")
        return Prompt(fence.without(text), tokens)

    def close(self) -> None:
        """End the processes, free the projector."""
        self._rendering.close()
        self._long.close()
        if self._decoding is not None:
            self._decoding.close()
        if self.vision is not None:
            self.vision.close()


def _is_long(written: Written) -> bool:
    """Whether tokenising would hold up everybody's next token. Pictures are for the loop: they share the projector."""
    return not written.pictures and len(written.text or "") > MAX_SHALLOW_BYTES


def _pictures(request: ChatRequest) -> list[EncodedPicture]:
    return [
        EncodedPicture(image.data, image.detail == "low", f"messages[{i}].content")
        for i, message in enumerate(request.messages)
        for image in message.images
    ]


def _parts(text: str, written: Written) -> list[str | Picture]:
    """The text with the pictures in the places of their words."""
    pictures = written.pictures or ()
    pieces = re.split(f"{written.marker}([0-9]{{1,3}})n", text)
    shown = [int(number) for number in pieces[1::2]]
    if sorted(shown) != list(range(len(pictures))):
        raise InvalidRequestError("the model's chat template does not show the pictures", param="messages")
    parts: list[str | Picture] = [pieces[0]]
    for number, piece in zip(shown, pieces[2::2], strict=True):
        parts += [pictures[number], piece]
    return [part for part in parts if part != ""]


def _template(model: Model, rendering: Rendering) -> tuple[Template | None, str]:
    """The model's template, or why there is none."""
    source = model.template()
    if not source:
        return None, "the model has no chat template and cannot answer chats"
    lib = model.lib
    bos = model.special_text(lib.llama_vocab_bos(model.vocab))
    eos = model.special_text(lib.llama_vocab_eos(model.vocab))
    try:
        rendering.load(source)
        return Template(source, bos, eos, rendering.render), ""
    except (TemplateError, UserError) as error:
        return None, f"{error.message}; the model cannot answer chats"
