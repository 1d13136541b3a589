"""What a GGUF is for, from its metadata: to generate, to embed or to rank."""

from __future__ import annotations

from typing import Literal

import msgspec

from mcd.engine.backend import StartError
from mcd.engine.messages import FailureCode
from mcd.engine.model import Model
from mcd.engine.purposes import ENCODERS, LAST, RANK, pooling_of

YES_OR_NO = frozenset({"qwen3", "qwen3vl"})
"""Rerankers whose head has two outputs, already a probability."""


class Role(msgspec.Struct, frozen=True):
    """What a model that does not generate does."""

    does: Literal["embeddings", "rerank"]
    pooling: int
    is_whole: bool
    """A text must be computed in one step: its tokens see later ones, or all are averaged."""
    n_numbers: int
    """Of the result of one text."""


def role_of(model: Model) -> Role | None:
    """None for a model that generates.

    Raises:
        StartError: It neither generates nor embeds: an encoder and decoder in one, a classifier of many classes.
    """
    lib = model.lib
    name = model.metadata("general.architecture") or ""
    pooling = _pooling(model, name)
    if pooling is None:
        if lib.llama_model_has_encoder(model.handle) or not lib.llama_model_has_decoder(model.handle):
            raise StartError(FailureCode.MODEL_UNSUPPORTED)
        return None
    is_causal = name not in ENCODERS and model.metadata(f"{name}.attention.causal") != "false"
    is_whole = not is_causal or pooling not in {LAST, RANK}
    if pooling != RANK:
        return Role("embeddings", pooling, is_whole, lib.llama_model_n_embd_out(model.handle))
    n_outputs = lib.llama_model_n_cls_out(model.handle)
    if n_outputs != (2 if name in YES_OR_NO else 1):
        raise StartError(FailureCode.MODEL_UNSUPPORTED)
    return Role("rerank", pooling, is_whole, n_outputs)


def _pooling(model: Model, name: str) -> int | None:
    text = model.metadata(f"{name}.pooling_type")
    return pooling_of(name, int(text) if text is not None and text.isdigit() else None)
