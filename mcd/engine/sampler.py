"""Choosing the next token, in C: one chain a sequence, a grammar beside it when the answer is constrained.

Order: logit_bias, top_k, penalties, top_p, min_p, temperature, then one draw. Two deliberate differences from a
textbook chain: a top_k always comes first (IMPLICIT_TOP_K when the request has none), because top_p over a full
vocabulary of 128 000 costs 12 ms a token; and penalties follow it, over the answer's tokens only, so that a resumed
answer is penalised exactly as the unbroken one.

A grammar (`guide` says which, and when) is tested on the one token that was drawn; only a rejected token makes it
mask the whole vocabulary (37 ms at 128 000 tokens) and draw again. That, and all that a large grammar does, is
`Deferred`: left to a thread, while everybody else's tokens go on. What is chosen is the same wherever it is. Each
accepted token costs exactly one draw of the chain's generator, so replaying k tokens is k draws and a resumed seeded
stream stays on its track.

On a GPU the chain becomes part of the graph (`attach`) and only the chosen token comes back. A chain is attached once:
llama.cpp ends the process at the second time. What a graph cannot do (guides) and what needs the logits (logprobs)
is not attached. Penalties are applied here, to the candidates that top_k left in the graph.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mcd.api.request import ChatRequest
from mcd.engine import candidates
from mcd.engine.candidates import Floats
from mcd.engine.compiler import Compiled
from mcd.engine.guide import Guide
from mcd.engine.model import Model
from mcd.errors import InvalidRequestError

IMPLICIT_TOP_K = 1000
"""Candidates kept at most, also when the request sets no top_k or a larger one: what lies beyond has no weight."""
PENALTY_LAST_N = 4096
"""Tokens of the answer that penalties look back on."""
DEFAULT_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED means "choose one"; a client's seed is never mapped to it."""
LIGHT_READ_S = 0.002
LIGHT_WAYS = 256
"""A grammar that llama.cpp reads faster, with fewer ways to go on at once, is asked about single tokens in the loop: a
fifth of a millisecond at most."""
QUICK_READ_S = 0.1
QUICK_WAYS = 32
"""A mask of 136,000 tokens takes up to 9 ms more for each way: a third of a second at most."""
DEAD_END = -1
"""Instead of a token: none of the vocabulary may come next."""
TOO_SLOW = -2
"""Instead of a token: finding out which may come took too long."""


class Sampling(msgspec.Struct, frozen=True):
    """The parameters of one choice, defaults applied."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    frequency_penalty: float
    presence_penalty: float
    repeat_penalty: float
    logit_bias: tuple[tuple[int, float], ...]

    @property
    def is_greedy(self) -> bool:
        """No draw: the likeliest token."""
        return self.temperature <= 0.0


def parameters(request: ChatRequest, model: Model, choice: int) -> Sampling:
    """What a request asks for, the model's own defaults, then llama.cpp's.

    Raises:
        InvalidRequestError: A logit_bias names no token of this model.
    """
    seed = request.seed if request.seed is not None else int.from_bytes(os.urandom(4), "big")
    seed = (seed + choice) % DEFAULT_SEED

    def pick(value: float | None, name: str) -> float:
        return value if value is not None else model.sampling_default(name)

    top_k = int(pick(request.top_k, "top_k"))
    return Sampling(
        temperature=pick(request.temperature, "temp"),
        top_k=top_k if top_k > 0 else IMPLICIT_TOP_K,
        top_p=pick(request.top_p, "top_p"),
        min_p=pick(request.min_p, "min_p"),
        seed=seed,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        repeat_penalty=request.repeat_penalty,
        logit_bias=tuple((_token(text, model.n_vocab), bias) for text, bias in request.logit_bias),
    )


def _token(text: str, n_vocab: int) -> int:
    token = int(text)
    if token >= n_vocab:
        raise InvalidRequestError("logit_bias names a token id outside the model's vocabulary", param="logit_bias")
    return token


class Deferred:
    """A choice that takes long, for a thread; the sampler is to be lent to it."""

    __slots__ = ("choose", "logits")

    def __init__(self, choose: Callable[[], int], logits: Floats) -> None:
        self.choose = choose
        self.logits = logits
        """A copy of the row it is chosen from."""


class Sampler:
    """One sequence's chain and guide. Owner: its Sequence, which must close it."""

    __slots__ = (
        "_attached", "_chain", "_constraint", "_draw", "_guide", "_is_lent", "_lib", "_model", "is_closed", "is_light",
        "is_quick",
    )  # fmt: skip

    def __init__(self, model: Model, sampling: Sampling, compiled: Compiled | None = None) -> None:
        """Build the chain; `open` has the rest."""
        self._lib = model.lib
        self._model = model
        self._constraint = compiled.constraint if compiled is not None else None
        self.is_light = is_light(compiled)
        """`open` and single tokens may be the loop's."""
        self.is_quick = _is_within(compiled, QUICK_READ_S, QUICK_WAYS)
        """What is left to a thread is soon done."""
        self._is_lent = False
        self.is_closed = False
        self._draw = None if sampling.is_greedy else self._lib.llama_sampler_init_dist(sampling.seed)
        self._chain = self._build(sampling)
        self._attached: tuple[Any, int] | None = None
        self._guide: Guide | None = None

    def open(self) -> None:
        """Set the guide to work, if there is to be one.

        Raises:
            UnsupportedError: llama.cpp does not take a grammar.
        """
        if self._constraint is not None:
            self._guide = Guide(self._model, self._constraint, self._model.written)

    def sample(self, context: Any, row: int) -> int | Deferred:
        """Choose and accept the next token from an output row of the last decode; DEAD_END when there is none."""
        guide = self._guide
        if guide is None:
            return int(self._lib.llama_sampler_sample(self._chain, context, row))
        if guide.grammar is None and not guide.is_near:
            token = int(self._lib.llama_sampler_sample(self._chain, context, row))
            if self.is_light or guide.passes(token):
                guide.took(token)
                return token
            return Deferred(lambda: self._opened(guide, token), self._row(context, row).copy())
        logits = self._row(context, row)
        if not self.is_light:
            logits = logits.copy()
            return Deferred(lambda: self._guided(guide, logits), logits)
        drawn = self._trial(logits)
        if self._takes(guide, drawn):
            return drawn
        logits = logits.copy()
        return Deferred(lambda: self._masked(guide, drawn, logits), logits)

    def lend(self) -> None:
        """A thread has it from now on, until `regain`."""
        self._is_lent = True

    def regain(self) -> bool:
        """The thread is done; False when it was closed meanwhile."""
        self._is_lent = False
        if self.is_closed:
            self.close()
        return not self.is_closed

    def replay(self, tokens: tuple[int, ...]) -> None:
        """Take tokens an earlier provider chose as if they had been sampled here.

        Raises:
            InvalidRequestError: The grammar does not allow them: they are not of this request.
        """
        for token in tokens:
            if self._guide is not None:
                bound = self._guide.grammar
                if bound is not None and not bound.allows(token):
                    raise InvalidRequestError("the tokens to resume after do not fit the schema", param="resume")
                self._guide.took(token)
            self._draw_once()
            self._lib.llama_sampler_accept(self._chain, token)

    def attach(self, context: Any, sequence: int) -> None:
        """Choose this sequence's tokens in the graph from now on, if that can be."""
        if self._constraint is None and self._lib.llama_set_sampler(context, sequence, self._chain):
            self._attached = (context, sequence)

    def close(self) -> None:
        """Free everything in C; once it is regained, if it is lent."""
        self.is_closed = True
        if self._is_lent:
            return
        if self._attached is not None:
            self._lib.llama_set_sampler(*self._attached, None)
            self._attached = None
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None
        if self._guide is not None:
            self._guide.close()
            self._guide = None

    def _build(self, sampling: Sampling) -> Any:
        lib = self._lib
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = lib.llama_sampler_chain_init(params)

        def add(part: Any) -> None:
            lib.llama_sampler_chain_add(chain, part)

        if sampling.logit_bias:
            biases = (lib.llama_logit_bias * len(sampling.logit_bias))()
            for slot, (token, bias) in zip(biases, sampling.logit_bias, strict=True):
                slot.token, slot.bias = token, bias
            add(lib.llama_sampler_init_logit_bias(self._model.n_vocab, len(biases), biases))
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        has_penalty = penalties != (1.0, 0.0, 0.0)
        if not sampling.is_greedy or has_penalty:
            add(lib.llama_sampler_init_top_k(max(1, min(sampling.top_k, IMPLICIT_TOP_K))))
        if has_penalty:
            add(lib.llama_sampler_init_penalties(self._model.n_vocab, PENALTY_LAST_N, *penalties))
        if sampling.is_greedy:
            add(lib.llama_sampler_init_greedy())
            return chain
        if sampling.top_p < 1.0:
            add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        add(lib.llama_sampler_init_temp(sampling.temperature))
        add(self._draw)
        return chain

    # --- under a grammar ---

    def _guided(self, guide: Guide, logits: Floats) -> int:
        drawn = self._trial(logits)
        return drawn if self._takes(guide, drawn) else self._masked(guide, drawn, logits)

    def _trial(self, logits: Floats) -> int:
        """What the chain draws; it has not drawn it yet."""
        trial = self._lib.llama_sampler_clone(self._chain)
        token = self._choose(trial, candidates.every(logits))
        self._lib.llama_sampler_free(trial)
        return token

    def _takes(self, guide: Guide, token: int) -> bool:
        """Accept a token that was drawn, if it may come."""
        bound = guide.look(token)
        if bound is not None and not bound.allows(token):
            return False
        self._draw_once()
        self._accept(guide, token)
        return True

    def _masked(self, guide: Guide, rejected: int, logits: Floats) -> int:
        """Draw among those that may come; only a grammar rejects, so there is one."""
        bound = guide.look(rejected)
        assert bound is not None
        found = bound.mask(candidates.every(logits))
        if not len(found):
            return DEAD_END
        token = self._choose(self._chain, found)
        self._accept(guide, token)
        return token

    def _opened(self, guide: Guide, token: int) -> int:
        """The chain has taken a token that may set a grammar to work."""
        guide.took(token)
        return token

    def _accept(self, guide: Guide, token: int) -> None:
        # the guide first: accepting a token it forbids would end the process, so it was asked before
        guide.took(token)
        self._lib.llama_sampler_accept(self._chain, token)

    def _row(self, context: Any, row: int) -> Floats:
        return row_of_logits(self._lib, context, row, self._model.n_vocab)

    def _choose(self, chain: Any, found: npt.NDArray[Any]) -> int:
        array = candidates.array(self._lib, found)
        self._lib.llama_sampler_apply(chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _draw_once(self) -> None:
        if self._draw is not None:
            self._lib.llama_sampler_apply(self._draw, ctypes.byref(candidates.array(self._lib, candidates.single(0))))


def is_light(compiled: Compiled | None) -> bool:
    """Whether nothing that goes by the size of a grammar, but for a mask, takes long."""
    return _is_within(compiled, LIGHT_READ_S, LIGHT_WAYS)


def _is_within(compiled: Compiled | None, read_s: float, n_ways: int) -> bool:
    if compiled is None or compiled.constraint is None:
        return True
    return compiled.read_s <= read_s and compiled.constraint.n_ways <= n_ways


def row_of_logits(lib: Any, context: Any, row: int, n_vocab: int) -> Floats:
    """A view of one output row's logits, valid until the next decode."""
    pointer = lib.llama_get_logits_ith(context, row)
    return np.ctypeslib.as_array(pointer, shape=(n_vocab,))
