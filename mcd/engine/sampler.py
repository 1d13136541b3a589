"""Choosing the next token, in C: one chain a sequence, a grammar beside it when the answer is constrained.

Order: logit_bias, top_k, penalties, top_p, min_p, temperature, then one draw. Two deliberate differences from a
textbook chain: a top_k always comes first (IMPLICIT_TOP_K when the request has none), because top_p over a full
vocabulary of 128 000 costs 12 ms a token; and penalties follow it, over the answer's tokens only, so that a resumed
answer is penalised exactly as the unbroken one.

A grammar is tested on the one token that was drawn; only a rejected token makes it mask the whole vocabulary
(37 ms at 128 000 tokens) and draw again. Each accepted token costs exactly one draw of the chain's generator, so
replaying k tokens is k draws and a resumed seeded stream stays on its track.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mcd.api.request import ChatRequest
from mcd.engine.model import Model
from mcd.errors import InvalidRequestError, UnsupportedError

IMPLICIT_TOP_K = 1000
"""Candidates kept at most, also when the request sets no top_k or a larger one: what lies beyond has no weight."""
PENALTY_LAST_N = 4096
"""Tokens of the answer that frequency and presence penalties look back on."""
DEFAULT_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED means "choose one"; a client's seed is never mapped to it."""

Floats = npt.NDArray[np.float32]
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


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
    """One sequence's chain and grammar. Owner: its Sequence, which must close it."""

    def __init__(self, model: Model, sampling: Sampling, grammar: str | None = None) -> None:
        """Build the chain.

        Raises:
            UnsupportedError: llama.cpp does not take the grammar (too large).
        """
        self._lib = model.lib
        self._model = model
        self._draw = None if sampling.is_greedy else self._lib.llama_sampler_init_dist(sampling.seed)
        self._chain = self._build(sampling)
        self._grammar: Any = None
        if grammar is not None:
            self._grammar = self._lib.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
            if not self._grammar:
                self.close()
                raise UnsupportedError("the schema is too large for a grammar", param="response_format")

    def sample(self, context: Any, row: int) -> int:
        """Choose and accept the next token from an output row of the last decode."""
        if self._grammar is None:
            return int(self._lib.llama_sampler_sample(self._chain, context, row))
        return self._sample_constrained(context, row)

    def replay(self, tokens: tuple[int, ...]) -> None:
        """Take tokens an earlier provider chose as if they had been sampled here.

        Raises:
            InvalidRequestError: The grammar does not allow them: they are not of this request.
        """
        one = np.zeros(1, _CANDIDATE)
        for token in tokens:
            if self._grammar is not None and not self._allows(token):
                raise InvalidRequestError("the tokens to resume after do not fit the schema", param="resume")
            if self._draw is not None:
                self._lib.llama_sampler_apply(self._draw, ctypes.byref(_array(self._lib, one)))
            self._accept(token)

    def close(self) -> None:
        """Free everything in C."""
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            self._lib.llama_sampler_free(self._grammar)
            self._grammar = None

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

    def _sample_constrained(self, context: Any, row: int) -> int:
        lib = self._lib
        logits = row_of_logits(lib, context, row, self._model.n_vocab)
        trial = lib.llama_sampler_clone(self._chain)
        token = self._choose(trial, _candidates(logits))
        lib.llama_sampler_free(trial)
        if not self._allows(token):
            candidates = _candidates(logits)
            lib.llama_sampler_apply(self._grammar, ctypes.byref(_array(lib, candidates)))
            # what the grammar forbids is -inf now; dropped, so that no filter has to sort it
            candidates = candidates[np.isfinite(candidates["logit"])]
            if not len(candidates):
                return -1
            token = self._choose(self._chain, np.ascontiguousarray(candidates))
        elif self._draw is not None:
            one = np.zeros(1, _CANDIDATE)
            lib.llama_sampler_apply(self._draw, ctypes.byref(_array(lib, one)))
        self._accept(token)
        return token

    def _choose(self, chain: Any, candidates: npt.NDArray[Any]) -> int:
        array = _array(self._lib, candidates)
        self._lib.llama_sampler_apply(chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allows(self, token: int) -> bool:
        one = np.zeros(1, _CANDIDATE)
        one["id"] = token
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(_array(self._lib, one)))
        return math.isfinite(float(one["logit"][0]))

    def _accept(self, token: int) -> None:
        # the grammar first: accepting a token it forbids would end the process, so _allows was asked before
        if self._grammar is not None:
            self._lib.llama_sampler_accept(self._grammar, token)
        self._lib.llama_sampler_accept(self._chain, token)


def row_of_logits(lib: Any, context: Any, row: int, n_vocab: int) -> Floats:
    """A view of one output row's logits, valid until the next decode."""
    pointer = lib.llama_get_logits_ith(context, row)
    return np.ctypeslib.as_array(pointer, shape=(n_vocab,))


def _candidates(logits: Floats) -> npt.NDArray[Any]:
    candidates = np.zeros(len(logits), _CANDIDATE)
    candidates["id"] = np.arange(len(logits), dtype=np.int32)
    candidates["logit"] = logits
    return candidates


def _array(lib: Any, candidates: npt.NDArray[Any]) -> Any:
    pointer = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
