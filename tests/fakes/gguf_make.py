"""Tiny real GGUF files with random weights, built in milliseconds; whole or wrong in one chosen place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD, N_LAYER, N_CTX = 64, 128, 4, 2, 512
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ARCH = "llama"
MERGES = ("t h", "Ġ a", "i n", "Ġ t", "th e")


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for extra, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + extra)
    return [letters[byte] for byte in range(256)]


def vocabulary() -> list[str]:
    merged = [pair.replace(" ", "") for pair in MERGES]
    return [*byte_alphabet(), *merged, *SPECIALS]


def make(
    path: Path,
    *,
    seed: int = 1,
    metadata: Mapping[str, Any] | None = None,
    template: str | None = TEMPLATE,
    nan_tensor: bool = False,
    n_ctx: int = N_CTX,
    text_only: bool = False,
    pre: str = "gpt-2",
    more_tokens: Sequence[str] = (),
) -> Path:
    """Write a file.

    Args:
        path: Where.
        seed: Of the weights.
        metadata: Values that replace the right ones, by key.
        template: Chat template; None leaves it out.
        nan_tensor: Make one weight tensor NaN.
        n_ctx: Trained context length.
        pre: How llama.cpp splits text into words.
        more_tokens: Special tokens beside the usual ones.
        text_only: Make letters and spaces likely and the end token impossible: long readable answers.
    """
    values: dict[str, Any] = {
        "general.name": "Tiny Test Model",
        "llama.context_length": n_ctx,
        "llama.embedding_length": N_EMBD,
        "llama.block_count": N_LAYER,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": N_HEAD,
        "llama.attention.head_count_kv": N_HEAD,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": N_EMBD // N_HEAD,
    }
    values.update(metadata or {})
    writer = gguf.GGUFWriter(str(path), ARCH)
    for key, value in values.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    usual = vocabulary()
    tokens = [*usual, *more_tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in {*SPECIALS, *more_tokens} else 1 for token in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_uint32("tokenizer.ggml.bos_token_id", len(usual) - 1)
    writer.add_uint32("tokenizer.ggml.eos_token_id", len(usual) - 2)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    _add_tensors(writer, len(tokens), seed, nan_tensor=nan_tensor, text_only=text_only)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, n_vocab: int, seed: int, *, nan_tensor: bool, text_only: bool) -> None:
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    embedding = weights(n_vocab, N_EMBD)
    output = weights(n_vocab, N_EMBD)
    if text_only:
        # hidden unit 0 is large in every embedding and written by no layer: its column of the output is a bias
        embedding[:, 0] = 20.0
        output[:, 0] = -10.0
        for token in [*range(ord("a"), ord("z") + 1), ord(" "), *range(256, 256 + len(MERGES))]:
            output[token, 0] = 0.0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    norm = np.ones(N_EMBD, np.float32)
    writer.add_tensor("output_norm.weight", norm)
    for layer in range(N_LAYER):
        name = f"blk.{layer}"
        writer.add_tensor(f"{name}.attn_norm.weight", np.ones(N_EMBD, np.float32))
        writer.add_tensor(f"{name}.ffn_norm.weight", np.ones(N_EMBD, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            square = weights(N_EMBD, N_EMBD)
            square[0] *= not (text_only and part == "attn_output")
            writer.add_tensor(f"{name}.{part}.weight", square)
        writer.add_tensor(f"{name}.ffn_gate.weight", weights(N_FF, N_EMBD))
        writer.add_tensor(f"{name}.ffn_up.weight", weights(N_FF, N_EMBD))
        down = weights(N_EMBD, N_FF)
        down[0] *= not text_only
        writer.add_tensor(f"{name}.ffn_down.weight", down * np.nan if nan_tensor and layer == 0 else down)
