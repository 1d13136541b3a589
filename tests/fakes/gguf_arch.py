"""Tiny real GGUF files of models whose memory cannot be cut anywhere: windows, recurrent states, and both at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.fakes.gguf_make import MERGES, SPECIALS, TEMPLATE, vocabulary

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_LAYER = 64, 128, 4, 2, 4
WINDOW = 64
D_INNER, D_STATE, D_CONV, DT_RANK = 2 * N_EMBD, 16, 4, 4
END_TOKEN = len(vocabulary()) - 2
KINDS = ("gemma3", "mamba", "lfm2", "lfm2-window")
"""A sliding window, a recurrent state, a hybrid, and a hybrid whose attention has a window."""


class Weights:
    """Random tensors by name; hidden unit 0 is large in every embedding and written by no layer (see gguf_make)."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def add(self, name: str, *shape: int, scale: float = 0.3, writes_hidden: bool = False) -> None:
        data = (self._random.standard_normal(shape) * scale).astype(np.float32)
        if writes_hidden:
            data[0] = 0.0
        self._writer.add_tensor(name, data)

    def ones(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.ones(size, np.float32))

    def put(self, name: str, data: np.ndarray) -> None:
        self._writer.add_tensor(name, data.astype(np.float32))

    def embeddings(self, n_vocab: int, scale: float) -> None:
        embedding = (self._random.standard_normal((n_vocab, N_EMBD)) * 0.3).astype(np.float32)
        output = (self._random.standard_normal((n_vocab, N_EMBD)) * 0.3).astype(np.float32)
        embedding[:, 0] = 20.0 / scale
        output[:, 0] = -10.0
        for token in [*range(ord("a"), ord("z") + 1), ord(" "), *range(256, 256 + len(MERGES))]:
            output[token, 0] = 0.0
        self._writer.add_tensor("token_embd.weight", embedding)
        self._writer.add_tensor("output.weight", output)


def make(path: Path, kind: str, *, seed: int = 1, n_ctx: int = 2048) -> Path:
    """Write a file that talks on in lower-case letters and never ends by itself."""
    arch = kind.removesuffix("-window")
    writer = gguf.GGUFWriter(str(path), arch)
    values: dict[str, Any] = {
        "context_length": n_ctx,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": 0 if arch == "mamba" else N_FF,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    values |= {"gemma3": _gemma3_values, "mamba": _mamba_values, "lfm2": _lfm2_values}[arch]()
    if kind == "lfm2-window":
        values["attention.sliding_window"] = WINDOW
    for key, value in values.items():
        name = f"{arch}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    add_vocabulary(writer)
    weights = Weights(writer, seed)
    weights.embeddings(len(vocabulary()), N_EMBD**0.5 if arch == "gemma3" else 1.0)
    weights.ones("token_embd_norm.weight" if arch == "lfm2" else "output_norm.weight", N_EMBD)
    for layer in range(N_LAYER):
        {"gemma3": _gemma3_layer, "mamba": _mamba_layer, "lfm2": _lfm2_layer}[arch](weights, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_uint32("tokenizer.ggml.bos_token_id", len(tokens) - 1)
    writer.add_uint32("tokenizer.ggml.eos_token_id", END_TOKEN)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _gemma3_values() -> dict[str, Any]:
    return {
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.key_length": N_EMBD // N_HEAD,
        "attention.value_length": N_EMBD // N_HEAD,
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": 2,
    }


def _gemma3_layer(weights: Weights, layer: int) -> None:
    name, head = f"blk.{layer}", N_EMBD // N_HEAD
    _attention(weights, name)
    weights.ones(f"{name}.attn_q_norm.weight", head)
    weights.ones(f"{name}.attn_k_norm.weight", head)
    for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        weights.ones(f"{name}.{norm}.weight", N_EMBD)
    feed_forward(weights, name)


def _mamba_values() -> dict[str, Any]:
    return {
        "ssm.conv_kernel": D_CONV,
        "ssm.inner_size": D_INNER,
        "ssm.state_size": D_STATE,
        "ssm.time_step_rank": DT_RANK,
    }


def _mamba_layer(weights: Weights, layer: int) -> None:
    name = f"blk.{layer}"
    weights.ones(f"{name}.attn_norm.weight", N_EMBD)
    weights.add(f"{name}.ssm_in.weight", 2 * D_INNER, N_EMBD)
    weights.add(f"{name}.ssm_conv1d.weight", D_INNER, D_CONV)
    weights.add(f"{name}.ssm_conv1d.bias", D_INNER)
    weights.add(f"{name}.ssm_x.weight", DT_RANK + 2 * D_STATE, D_INNER)
    weights.add(f"{name}.ssm_dt.weight", D_INNER, DT_RANK)
    weights.add(f"{name}.ssm_dt.bias", D_INNER)
    weights.put(f"{name}.ssm_a", -np.tile(np.arange(1, D_STATE + 1) / D_STATE, (D_INNER, 1)))
    weights.ones(f"{name}.ssm_d", D_INNER)
    weights.add(f"{name}.ssm_out.weight", N_EMBD, D_INNER, scale=0.05, writes_hidden=True)


def _lfm2_values() -> dict[str, Any]:
    return {
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": [0, N_HEAD_KV] * (N_LAYER // 2),
        "shortconv.l_cache": 3,
        "vocab_size": len(vocabulary()),
    }


def _lfm2_layer(weights: Weights, layer: int) -> None:
    name, head = f"blk.{layer}", N_EMBD // N_HEAD
    weights.ones(f"{name}.attn_norm.weight", N_EMBD)
    weights.ones(f"{name}.ffn_norm.weight", N_EMBD)
    if layer % 2:
        _attention(weights, name)
        # sharp attention: what the answer is depends on far tokens too
        weights.put(f"{name}.attn_q_norm.weight", np.full(head, 2.0))
        weights.put(f"{name}.attn_k_norm.weight", np.full(head, 2.0))
    else:
        weights.add(f"{name}.shortconv.conv.weight", N_EMBD, 3)
        weights.add(f"{name}.shortconv.in_proj.weight", 3 * N_EMBD, N_EMBD)
        weights.add(f"{name}.shortconv.out_proj.weight", N_EMBD, N_EMBD, writes_hidden=True)
    feed_forward(weights, name)


def _attention(weights: Weights, name: str) -> None:
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    weights.add(f"{name}.attn_q.weight", N_EMBD, N_EMBD)
    weights.add(f"{name}.attn_k.weight", n_kv, N_EMBD)
    weights.add(f"{name}.attn_v.weight", n_kv, N_EMBD)
    weights.add(f"{name}.attn_output.weight", N_EMBD, N_EMBD, writes_hidden=True)


def feed_forward(weights: Weights, name: str) -> None:
    weights.add(f"{name}.ffn_gate.weight", N_FF, N_EMBD)
    weights.add(f"{name}.ffn_up.weight", N_FF, N_EMBD)
    weights.add(f"{name}.ffn_down.weight", N_EMBD, N_FF, writes_hidden=True)
