"""Tiny encoders and rerankers with random weights: BERT and nomic-bert with a word-piece vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.fakes import gguf_make

N_EMBD, N_FF, N_HEAD, N_LAYER, N_CTX = 64, 128, 4, 2, 128
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
WORDS = (
    "mesh", "peer", "seal", "token", "router", "stream", "model", "engine", "price", "voucher", "relay", "gossip",
    "the", "a", "of", "who", "what", "is", "cat", "dog", "pan", "##da", "##s", "##ing",
)  # fmt: skip
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary() -> list[str]:
    """As the converter writes it: words begin with a low block, continuations do not."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = dict.fromkeys([*WORDS, *letters, *(f"##{letter}" for letter in letters), *"0123456789?!.,"])
    return [*SPECIALS, *(piece[2:] if piece.startswith("##") else "\u2581" + piece for piece in pieces)]


def make_encoder(
    path: Path,
    *,
    pooling: int | None = MEAN,
    seed: int = 1,
    arch: str = "bert",
    nan: bool = False,
    n_labels: int = 1,
    name: str = "",
) -> Path:
    """Write one; with ``pooling`` RANK it has a classifier head of ``n_labels`` outputs, with None it says nothing."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name(name or f"Tiny {arch} {pooling}")
    values: dict[str, Any] = {
        "context_length": N_CTX,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
    }
    if pooling is not None:
        values["pooling_type"] = pooling
    for key, value in values.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_epsilon", 1e-12)
    writer.add_bool(f"{arch}.attention.causal", False)
    if arch == "nomic-bert":
        writer.add_float32(f"{arch}.rope.freq_base", 1000.0)
    tokens = vocabulary()
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in tokens])
    writer.add_token_type_count(2)
    for what, token in (("unknown", "[UNK]"), ("seperator", "[SEP]"), ("padding", "[PAD]"), ("mask", "[MASK]")):
        writer.add_uint32(f"tokenizer.ggml.{what}_token_id", tokens.index(token))
    writer.add_uint32("tokenizer.ggml.bos_token_id", tokens.index("[CLS]"))
    if pooling == RANK:
        writer.add_array(f"{arch}.classifier.output_labels", [f"LABEL_{n}" for n in range(n_labels)])
    _add_tensors(writer, len(tokens), np.random.default_rng(seed), arch, pooling, n_labels, nan=nan)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(
    writer: gguf.GGUFWriter, n_vocab: int, random: Any, arch: str, pooling: int | None, n_labels: int, *, nan: bool
) -> None:
    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(N_EMBD, np.float32))

    writer.add_tensor("token_embd.weight", weights(n_vocab, N_EMBD) * (np.nan if nan else 1))
    writer.add_tensor("token_types.weight", weights(2, N_EMBD))
    norm("token_embd_norm")
    if arch == "bert":
        writer.add_tensor("position_embd.weight", weights(N_CTX, N_EMBD))
    for layer in range(N_LAYER):
        name = f"blk.{layer}"
        if arch == "bert":
            for part in ("attn_q", "attn_k", "attn_v"):
                writer.add_tensor(f"{name}.{part}.weight", weights(N_EMBD, N_EMBD))
                writer.add_tensor(f"{name}.{part}.bias", weights(N_EMBD))
            writer.add_tensor(f"{name}.attn_output.bias", weights(N_EMBD))
            writer.add_tensor(f"{name}.ffn_up.bias", weights(N_FF))
            writer.add_tensor(f"{name}.ffn_down.bias", weights(N_EMBD))
        else:
            writer.add_tensor(f"{name}.attn_qkv.weight", weights(3 * N_EMBD, N_EMBD))
            writer.add_tensor(f"{name}.ffn_gate.weight", weights(N_FF, N_EMBD))
        writer.add_tensor(f"{name}.attn_output.weight", weights(N_EMBD, N_EMBD))
        writer.add_tensor(f"{name}.ffn_up.weight", weights(N_FF, N_EMBD))
        writer.add_tensor(f"{name}.ffn_down.weight", weights(N_EMBD, N_FF))
        norm(f"{name}.attn_output_norm")
        norm(f"{name}.layer_output_norm")
    if pooling == RANK:
        writer.add_tensor("cls.weight", weights(N_EMBD, N_EMBD))
        writer.add_tensor("cls.bias", weights(N_EMBD))
        writer.add_tensor("cls.output.weight", weights(n_labels, N_EMBD))
        writer.add_tensor("cls.output.bias", weights(n_labels))


YES_NO_TEMPLATE = "<|im_start|>query {query} document {document}<|im_end|>"


def make_yes_no_ranker(path: Path, *, seed: int = 1) -> Path:
    """A decoder that ranks, as Qwen3-Reranker: two outputs at the last token, and a template of its own."""
    arch, n_head_dim = "qwen3", N_EMBD // N_HEAD
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name("Tiny Yes No")
    for key, value in {
        "context_length": 512,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "attention.key_length": n_head_dim,
        "attention.value_length": n_head_dim,
        "pooling_type": RANK,
    }.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_array(f"{arch}.classifier.output_labels", ["yes", "no"])
    tokens = gguf_make.vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in gguf_make.SPECIALS else 1 for token in tokens])
    writer.add_token_merges(list(gguf_make.MERGES))
    writer.add_uint32("tokenizer.ggml.eos_token_id", len(tokens) - 2)
    writer.add_add_bos_token(False)
    writer.add_string("tokenizer.chat_template.rerank", YES_NO_TEMPLATE)
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    writer.add_tensor("token_embd.weight", weights(len(tokens), N_EMBD))
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    writer.add_tensor("cls.output.weight", weights(2, N_EMBD))
    for layer in range(N_LAYER):
        name = f"blk.{layer}"
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{name}.{part}.weight", np.ones(N_EMBD, np.float32))
        for part in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"{name}.{part}.weight", np.ones(n_head_dim, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{name}.{part}.weight", weights(N_EMBD, N_EMBD))
        writer.add_tensor(f"{name}.ffn_gate.weight", weights(N_FF, N_EMBD))
        writer.add_tensor(f"{name}.ffn_up.weight", weights(N_FF, N_EMBD))
        writer.add_tensor(f"{name}.ffn_down.weight", weights(N_EMBD, N_FF))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
