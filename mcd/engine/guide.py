"""Which grammar binds the next token: none while a model thinks or talks, a call's from its mark on.

A function of the tokens so far, so that an engine which replays another's tokens is bound exactly as that one was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mcd.engine import candidates
from mcd.engine.compiler import unreadable
from mcd.engine.gbnf.constraint import Bound, Constraint
from mcd.engine.model import Model
from mcd.engine.parsers.cursor import Markers

State = Literal["head", "thoughts", "free", "call", "answer"]
"""head: thoughts or a bound answer, as the model likes. free: text in which a call may begin."""
_SPACE = " \t\r\n"


class Grammar:
    """One of llama.cpp's grammars and how far it has come. Owner: a Guide, which must close it."""

    def __init__(self, model: Model, text: str, param: str) -> None:
        """Read it.

        Raises:
            UnsupportedError: llama.cpp does not take it.
        """
        self._lib = model.lib
        self._end = model.end_token
        self._handle: Any = self._lib.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not self._handle:
            raise unreadable(param)

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        one = candidates.single(token)
        self._lib.llama_sampler_apply(self._handle, ctypes.byref(candidates.array(self._lib, one)))
        return bool(np.isfinite(one["logit"][0]))

    def mask(self, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Those of the candidates that may come next."""
        self._lib.llama_sampler_apply(self._handle, ctypes.byref(candidates.array(self._lib, found)))
        # what the grammar forbids is -inf now; dropped, so that no filter has to sort it
        return np.ascontiguousarray(found[np.isfinite(found["logit"])])

    def accept(self, token: int) -> None:
        """Go on by a token that it allows; another would end the process."""
        self._lib.llama_sampler_accept(self._handle, token)

    @property
    def is_complete(self) -> bool:
        """The text may end here."""
        return self._end >= 0 and self.allows(self._end)

    def close(self) -> None:
        """Free it."""
        if self._handle:
            self._lib.llama_sampler_free(self._handle)
            self._handle = None


class _Reading(msgspec.Struct, frozen=True):
    """Where unbound text has led."""

    state: State
    start: int
    """Where in the text marks are looked for from here on."""
    head: int
    """Where the answer began, as long as it is nothing but white space and perhaps the beginning of a mark; else -1."""
    bound: Bound | None = None
    """What binds from ``cut`` on."""
    cut: int = 0


class Guide:
    """The constraint of one choice at work. Owner: its Sampler, which must close it."""

    def __init__(self, model: Model, constraint: Constraint, piece: Callable[[int], bytes]) -> None:
        """Begin. llama.cpp has read all of the grammars before, in another process (`compiler`).

        Raises:
            UnsupportedError: It takes none that begins here after all.
        """
        self._model = model
        self._constraint = constraint
        self._piece = piece
        think = constraint.think
        # bytes as Latin-1: a token may end inside a character, and marks are looked for all the same
        self._open = _latin(think.open)
        self._closing = Markers([_latin(think.close)])
        self._free = Markers([*map(_latin, constraint.marks), *([self._open] if think.anywhere else [])])
        self._head_marks = tuple(map(_latin, constraint.head_marks))
        self._said = ""
        """Text of the newest tokens: those that may hold the beginning of a mark."""
        self._tokens: list[tuple[int, int]] = []
        """These tokens and their sizes."""
        self._reading = _Reading("free", 0, 0)
        self._looked: tuple[int, Grammar | None] | None = None
        self.grammar: Grammar | None = None
        self.state: State = "free"
        self._begin()

    def _begin(self) -> None:
        constraint = self._constraint
        if constraint.thinking == "open":
            self.state = "thoughts"
            self._reading = _Reading("thoughts", 0, -1)
        elif constraint.head is not None or constraint.answer is not None:
            self.state = "answer" if constraint.head is None else "head"
            bound = constraint.head or constraint.answer
            assert bound is not None
            self.grammar = Grammar(self._model, bound.text(), constraint.param)

    def passes(self, token: int) -> bool:
        """Whether this token of unbound text can set no grammar to work: nearly every token."""
        if self._tokens or self._reading.head >= 0:
            return False
        return not self._watched.may_begin_in(self._text(token))

    @property
    def is_near(self) -> bool:
        """A mark may have begun: the next token may complete it and be bound by what it opens."""
        return self.grammar is None and bool(self._tokens)

    def look(self, token: int) -> Grammar | None:
        """The grammar that decides about this token: the one at work, or the one it would set to work."""
        if self.grammar is not None:
            return self.grammar
        if self._looked is None or self._looked[0] != token:
            self._forget()
            text = self._said + self._text(token)
            self._looked = (token, self._opened(text, self._read(text)))
        return self._looked[1]

    def took(self, token: int) -> None:
        """The token was chosen."""
        if self.grammar is None:
            self._took_free(token)
            return
        self.grammar.accept(token)
        if self.state == "call" and self.grammar.is_complete:
            self._release(_Reading("free", 0, -1))
        elif self.state == "head":
            self._took_head(token)

    def close(self) -> None:
        """Free what lies in C."""
        self._forget()
        if self.grammar is not None:
            self.grammar.close()
            self.grammar = None

    # --- inside ---

    def _took_free(self, token: int) -> None:
        if self.passes(token):
            return
        text = self._text(token)
        opened = self.look(token)
        self._said += text
        self._tokens.append((token, len(text)))
        reading = self._read(self._said)
        if opened is not None and opened.allows(token):
            self._looked = None
            opened.accept(token)
            self.grammar = opened
            self.state = reading.state
            self._said, self._tokens = "", []
            if self.state == "call" and opened.is_complete:
                self._release(_Reading("free", 0, -1))
            return
        self._forget()
        while (
            reading.bound is not None
        ):  # a token that holds a mark and what cannot follow it: not to be bound any more
            self._reading = _Reading(self._reading.state, reading.start, -1)
            reading = self._read(self._said)
        self._reading = reading
        self.state = reading.state
        self._trim()

    def _took_head(self, token: int) -> None:
        self._said += (text := self._text(token))
        self._tokens.append((token, len(text)))
        begun = self._said.lstrip(_SPACE)
        if begun.startswith(self._open):
            at = self._said.index(self._open) + len(self._open)
            said, tokens = self._said, self._tokens
            self._release(_Reading("thoughts", at, -1))
            self._said, self._tokens = said, tokens
            self._reading = self._read(said)
            self.state = self._reading.state
            self._trim()
        elif not self._open.startswith(begun):
            self.state = "answer"  # the same grammar's other branch
            self._said, self._tokens = "", []

    def _release(self, reading: _Reading) -> None:
        if self.grammar is not None:
            self.grammar.close()
            self.grammar = None
        self._said, self._tokens = "", []
        self._reading = reading
        self.state = reading.state

    def _forget(self) -> None:
        if self._looked is not None and self._looked[1] is not None:
            self._looked[1].close()
        self._looked = None

    def _text(self, token: int) -> str:
        return self._piece(token).decode("latin-1")

    def _read(self, text: str) -> _Reading:
        """Where this text leads from where we are."""
        reading = self._reading
        while reading.bound is None:
            following = self._mark(text, reading)
            if following is None:
                return reading
            reading = following
        return reading

    def _mark(self, text: str, at: _Reading) -> _Reading | None:
        """Past the next mark in it; None when there is none."""
        if at.state == "thoughts":
            return self._closed(text, at)
        if at.head >= 0:
            return self._at_head(text, at)
        found = self._free.find(text, at.start)
        if found is None:
            return None
        end = found[0] + len(found[1])
        if found[1] == self._open:
            return _Reading("thoughts", end, -1)
        return _Reading("call", end, -1, self._constraint.call, found[0])

    def _closed(self, text: str, at: _Reading) -> _Reading | None:
        closed = self._closing.find(text, at.start)
        if closed is None:
            return None
        end = closed[0] + len(closed[1])
        if self._constraint.after_thoughts is None:
            return _Reading("free", end, end)
        return _Reading("answer", end, -1, self._constraint.after_thoughts, end)

    def _at_head(self, text: str, at: _Reading) -> _Reading | None:
        """What counts only at the beginning: thoughts, and calls without a mark."""
        begun = text[at.head :].lstrip(_SPACE)
        start = len(text) - len(begun)
        if begun.startswith(self._open):
            return _Reading("thoughts", start + len(self._open), -1)
        mark = next((mark for mark in self._head_marks if begun.startswith(mark)), None)
        if mark is not None:
            return _Reading("call", start + len(mark), -1, self._constraint.call, start)
        if any(mark.startswith(begun) for mark in (self._open, *self._head_marks)):
            return None
        return _Reading("free", at.start, -1)

    def _opened(self, text: str, reading: _Reading) -> Grammar | None:
        """A grammar that has taken the tokens before; None when none is opened, or it cannot have taken them."""
        if reading.bound is None:
            return None
        try:
            before = text[: reading.cut].encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            return None  # a token that begins inside a character: no vocabulary has such with a mark in it
        grammar = Grammar(self._model, reading.bound.text(before), self._constraint.param)
        for token, _ in self._tokens:
            if not grammar.allows(token):
                grammar.close()
                return None
            grammar.accept(token)
        return grammar

    @property
    def _watched(self) -> Markers:
        return self._closing if self._reading.state == "thoughts" else self._free

    def _trim(self) -> None:
        """Drop the tokens that no mark can begin in."""
        reading = self._reading
        if reading.head >= 0:
            return
        n_kept = self._watched.overlap(self._said, reading.start)
        dropped = 0
        while self._tokens and len(self._said) - dropped - self._tokens[0][1] >= n_kept:
            dropped += self._tokens.pop(0)[1]
        self._said = self._said[dropped:]
        self._reading = msgspec.structs.replace(reading, start=max(0, reading.start - dropped))


def _latin(text: str) -> str:
    return text.encode("utf-8", "replace").decode("latin-1")
