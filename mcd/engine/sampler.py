"""Choosing the next token, in C: one chain a sequence, a grammar beside it when the answer is constrained.

Order: logit_bias, top_k, penalties, top_p, min_p, temperature, then one draw. Two deliberate differences from a
textbook chain: a top_k always comes first (IMPLICIT_TOP_K when the request has none), because top_p over a full
vocabulary of 128 000 costs 12 ms a token; and penalties follow it, over the answer's tokens only, so that a resumed
answer is penalised exactly as the unbroken one.

A grammar (`guide` says which, and when) is tested on the one token that was drawn; only a rejected token makes it
mask the whole vocabulary (37 ms at 128 000 tokens) and draw again. Each accepted token costs exactly one draw of the
chain's generator, so replaying k tokens is k draws and a resumed seeded stream stays on its track.

On a GPU the chain becomes part of the graph (`attach`) and only the chosen token comes back. A chain is attached once:
llama.cpp ends the process at the second time. What a graph cannot do (guides) and what needs the logits (logprobs)
is not attached. Penalties are applied here, to the candidates that top_k left in the graph.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mcd.api.request import ChatRequest
from mcd.engine import candidates
from mcd.engine.candidates import Floats
from mcd.engine.gbnf.constraint import Constraint
from mcd.engine.guide import Guide
from mcd.engine.model import Model
from mcd.errors import InvalidRequestError, UserError

IMPLICIT_TOP_K = 1000
"""Candidates kept at most, also when the request sets no top_k or a larger one: what lies beyond has no weight."""
PENALTY_LAST_N = 4096
"""Tokens of the answer that frequency and presence penalties look back on."""
DEFAULT_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED means "choose one"; a client's seed is never mapped to it."""


class Sampling(msgspec.Struct, frozen=True):
    """The parameters of one choice, defaults applied."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    frequency_penalty: float
    presence_penalty: float
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
        logit_bias=tuple((_token(text, model.n_vocab), bias) for text, bias in request.logit_bias),
    )


def _token(text: str, n_vocab: int) -> int:
    token = int(text)
    if token >= n_vocab:
        raise InvalidRequestError("logit_bias names a token id outside the model's vocabulary", param="logit_bias")
    return token


class Sampler:
    """One sequence's chain and guide. Owner: its Sequence, which must close it."""

    def __init__(self, model: Model, sampling: Sampling, constraint: Constraint | None = None) -> None:
        """Build the chain.

        Raises:
            UnsupportedError: llama.cpp does not take a grammar (too large).
        """
        self._lib = model.lib
        self._model = model
        self._draw = None if sampling.is_greedy else self._lib.llama_sampler_init_dist(sampling.seed)
        self._chain = self._build(sampling)
        self._attached: tuple[Any, int] | None = None
        self._guide: Guide | None = None
        if constraint is not None:
            try:
                self._guide = Guide(model, constraint, model.written)
            except UserError:
                self.close()
                raise

    def sample(self, context: Any, row: int) -> int:
        """Choose and accept the next token from an output row of the last decode."""
        guide = self._guide
        if guide is None or (guide.grammar is None and not guide.is_near):
            token = int(self._lib.llama_sampler_sample(self._chain, context, row))
            if guide is not None:
                guide.took(token)
            return token
        return self._sample_guided(guide, context, row)

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
        if self._guide is None and self._lib.llama_set_sampler(context, sequence, self._chain):
            self._attached = (context, sequence)

    def close(self) -> None:
        """Free everything in C."""
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
        has_penalty = bool(sampling.frequency_penalty or sampling.presence_penalty)
        if not sampling.is_greedy or has_penalty:
            add(lib.llama_sampler_init_top_k(max(1, min(sampling.top_k, IMPLICIT_TOP_K))))
        if has_penalty:
            add(
                lib.llama_sampler_init_penalties(
                    self._model.n_vocab, PENALTY_LAST_N, 1.0, sampling.frequency_penalty, sampling.presence_penalty
                )
            )
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

    def _sample_guided(self, guide: Guide, context: Any, row: int) -> int:
        lib = self._lib
        logits = row_of_logits(lib, context, row, self._model.n_vocab)
        trial = lib.llama_sampler_clone(self._chain)
        token = self._choose(trial, candidates.every(logits))
        lib.llama_sampler_free(trial)
        bound = guide.look(token)
        if bound is not None and not bound.allows(token):
            found = bound.mask(candidates.every(logits))
            if not len(found):
                return -1
            token = self._choose(self._chain, found)
        else:
            self._draw_once()
        # the guide first: accepting a token it forbids would end the process, so it was asked before
        guide.took(token)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _choose(self, chain: Any, found: npt.NDArray[Any]) -> int:
        array = candidates.array(self._lib, found)
        self._lib.llama_sampler_apply(chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _draw_once(self) -> None:
        if self._draw is not None:
            self._lib.llama_sampler_apply(self._draw, ctypes.byref(candidates.array(self._lib, candidates.single(0))))


def row_of_logits(lib: Any, context: Any, row: int, n_vocab: int) -> Floats:
    """A view of one output row's logits, valid until the next decode."""
    pointer = lib.llama_get_logits_ith(context, row)
    return np.ctypeslib.as_array(pointer, shape=(n_vocab,))
