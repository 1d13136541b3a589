"""Write a model of Llama 3.2 1B's shape with random weights, for benchmarks: the real cost, no download.

``python -m scripts.make_big_gguf --layers 16`` prints where the file lies (.cache/, outside git). The same arguments
give the same bytes. It answers gibberish: what it measures is the engine.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "models"
SEED = 20_260_925
N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_CTX = 2048, 8192, 32, 8, 131_072
N_KV = N_EMBD // N_HEAD * N_HEAD_KV
NORM_EPS, ROPE_BASE = 1e-5, 500_000.0
N_LAYERS = 16
MAX_LAYERS = 64
"""More than any model of this width has; the file grows by 34 MB a layer."""

N_PLAIN, N_SPECIAL = 128_000, 256
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""The commonest first."""
NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
TEMPLATE = (
    "<|begin_of_text|>{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

Bytes = npt.NDArray[np.uint8]
Q4_0, Q8_0, F32 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32


def vocabulary() -> tuple[list[str], list[str]]:
    """(tokens, merges) of a byte-level BPE: every byte, letter pairs, triples, the likeliest quadruples, specials."""
    tokens = _byte_alphabet()
    space = tokens[ord(" ")]
    rank = {letter: place for place, letter in enumerate(LETTERS)} | {space: 0}

    def likeliest_first(pairs: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
        return sorted(pairs, key=lambda pair: (sum(map(rank.__getitem__, pair[0] + pair[1])), pair))

    seconds = likeliest_first(product((space, *LETTERS), LETTERS))
    pieces = [left + right for left, right in seconds]
    merges = seconds + likeliest_first(product(pieces, LETTERS))
    merges += likeliest_first(product(pieces, (piece for piece in pieces if piece[0] != space)))
    del merges[N_PLAIN - len(tokens) :]
    tokens += [left + right for left, right in merges]
    tokens += [NAMED.get(i, f"<|reserved_special_token_{i}|>") for i in range(N_SPECIAL)]
    return tokens, [f"{left} {right}" for left, right in merges]


def _byte_alphabet() -> list[str]:
    """The printable character that stands for each byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    extras = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(extras)) for byte in range(256)]


def shapes(n_layers: int) -> Iterator[tuple[str, int, int]]:
    """(name, rows, columns) of each tensor; one row means a norm."""
    yield "token_embd.weight", N_PLAIN + N_SPECIAL, N_EMBD
    yield "output_norm.weight", 1, N_EMBD
    for layer in range(n_layers):
        for name, n_rows, n_columns in (
            ("attn_norm", 1, N_EMBD), ("attn_q", N_EMBD, N_EMBD), ("attn_k", N_KV, N_EMBD), ("attn_v", N_KV, N_EMBD),
            ("attn_output", N_EMBD, N_EMBD), ("ffn_norm", 1, N_EMBD), ("ffn_gate", N_FF, N_EMBD),
            ("ffn_up", N_FF, N_EMBD), ("ffn_down", N_EMBD, N_FF),
        ):  # fmt: skip
            yield f"blk.{layer}.{name}.weight", n_rows, n_columns


def _kind(name: str, n_rows: int) -> gguf.GGMLQuantizationType:
    if n_rows == 1:
        return F32
    return Q8_0 if name == "token_embd.weight" else Q4_0


def _blocks(bits: np.random.PCG64, n_rows: int, n_columns: int, kind: gguf.GGMLQuantizationType) -> Bytes:
    """Random quantised rows whose values have a spread of about 0.022 = 1/sqrt(N_EMBD): activations stay finite."""
    n_weights, n_block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = n_rows * n_columns // n_weights
    scale = np.float16(0.0048 if kind is Q4_0 else 0.0003)
    blocks = np.empty((n_blocks, n_block_bytes), np.uint8)
    blocks[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    n_bytes = n_blocks * (n_block_bytes - 2)
    noise = bits.random_raw(-(-n_bytes // 8)).view(np.uint8)[:n_bytes]
    blocks[:, 2:] = noise.reshape(n_blocks, n_block_bytes - 2)
    return blocks.reshape(n_rows, -1)


def _head(out: gguf.GGUFWriter, n_layers: int) -> None:
    tokens, merges = vocabulary()
    out.add_name(f"Llama 1B shape, random, {n_layers} layers")
    out.add_context_length(N_CTX)
    out.add_embedding_length(N_EMBD)
    out.add_block_count(n_layers)
    out.add_feed_forward_length(N_FF)
    out.add_head_count(N_HEAD)
    out.add_head_count_kv(N_HEAD_KV)
    out.add_layer_norm_rms_eps(NORM_EPS)
    out.add_rope_freq_base(ROPE_BASE)
    out.add_rope_dimension_count(N_EMBD // N_HEAD)
    out.add_vocab_size(len(tokens))
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("llama-bpe")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.NORMAL] * N_PLAIN + [gguf.TokenType.CONTROL] * N_SPECIAL)
    out.add_token_merges(merges)
    out.add_bos_token_id(N_PLAIN)
    out.add_eos_token_id(N_PLAIN + 1)
    out.add_eot_token_id(N_PLAIN + 9)
    out.add_chat_template(TEMPLATE)


def write(path: Path, n_layers: int) -> None:
    """Write the file, one tensor in memory at a time."""
    out = gguf.GGUFWriter(str(path), "llama")
    _head(out, n_layers)
    for name, n_rows, n_columns in shapes(n_layers):
        kind = _kind(name, n_rows)
        n_weights, n_block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = n_rows * n_columns // n_weights * n_block_bytes
        if kind is F32:
            out.add_tensor_info(name, [n_columns], np.dtype(np.float32), n_bytes)
        else:
            row_bytes = n_columns // n_weights * n_block_bytes
            out.add_tensor_info(name, [n_rows, row_bytes], np.dtype(np.uint8), n_bytes, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    bits = np.random.PCG64(SEED)
    for name, n_rows, n_columns in shapes(n_layers):
        kind = _kind(name, n_rows)
        out.write_tensor_data(np.ones(n_columns, np.float32) if kind is F32 else _blocks(bits, n_rows, n_columns, kind))
    out.close()


def ensure(n_layers: int = N_LAYERS, folder: Path = FOLDER) -> Path:
    """Where the model lies; written now if it never was."""
    path = folder / f"llama-1b-shape-{n_layers}-layers.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write(unfinished, n_layers)
        unfinished.replace(path)
    return path


def main() -> None:
    """Make the model and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=N_LAYERS, choices=range(1, MAX_LAYERS + 1), metavar="N")
    print(ensure(parser.parse_args().layers))


if __name__ == "__main__":
    main()
