"""What a checked GGUF header says of a model: architecture, context, quantisation, what it costs in memory."""

from __future__ import annotations

import re
from collections import defaultdict

import msgspec

from mcd.engine.fit import Shape
from mcd.engine.ggufcheck import Header
from mcd.engine.known_models import KILO_TOKENS
from mcd.engine.layers import layers_of
from mcd.engine.purposes import does, pooling_of

_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""llama.cpp's llama_ftype, the meaning of general.file_type."""
MAX_ARCHITECTURE_CHARS = 32
INPUT_TENSOR = "token_embd.weight"
LEAST_PATCHES = 4096
"""Projectors that go by a picture's size take more patches than their header's usual size has; 1024 tokens of four."""
OUTPUT_TENSOR = "output.weight"
_BLOCK = re.compile(r"blk\.(\d{1,4})\.")


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """None where the header does not say."""

    architecture: str
    n_ctx: int | None
    quantisation: str | None
    kv_bytes_per_1k: int | None
    """Of the layers that keep every token."""
    has_chat_template: bool
    does: tuple[str, ...]
    """As the list of known models says it."""


def facts_of(header: Header) -> GgufFacts:
    """Read them out of a header that passed the check."""
    architecture = header.text("general.architecture")
    n_ctx = header.number(f"{architecture}.context_length")
    file_type = header.number("general.file_type")
    stated = header.number(f"{architecture}.pooling_type")
    pooling = pooling_of(architecture, None if stated is None else int(stated))
    has_template = bool(header.text("tokenizer.chat_template"))
    return GgufFacts(
        architecture=architecture[:MAX_ARCHITECTURE_CHARS],
        n_ctx=None if n_ctx is None else int(n_ctx),
        quantisation=None if file_type is None else _FILE_TYPES.get(int(file_type)),
        kv_bytes_per_1k=_kv_bytes_per_1k(header, architecture),
        has_chat_template=has_template,
        does=does(pooling, has_template=has_template),
    )


def shape_of(header: Header) -> Shape:
    """What the model of a checked header costs in memory."""
    architecture = header.text("general.architecture")
    blocks: defaultdict[int, int] = defaultdict(int)
    input_bytes = output_bytes = 0
    for name, n_bytes in header.tensors.items():
        block = _BLOCK.match(name)
        if block is not None:
            blocks[int(block[1])] += n_bytes
        elif name == INPUT_TENSOR:
            input_bytes = n_bytes
        else:
            output_bytes += n_bytes
    if OUTPUT_TENSOR not in header.tensors:
        output_bytes += input_bytes  # tied: a GPU gets a copy of the embeddings as its output head
    n_layers = int(header.number(f"{architecture}.block_count") or 0)
    return Shape(
        layers=layers_of(header, tuple(blocks[index] for index in range(n_layers))),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        n_embd=_count(header, f"{architecture}.embedding_length"),
        n_ff=_widest(header, architecture, n_layers),
        n_vocab=header.n_items("tokenizer.ggml.tokens") or _count(header, f"{architecture}.vocab_size"),
        n_ctx_train=_count(header, f"{architecture}.context_length"),
    )


def _widest(header: Header, architecture: str, n_layers: int) -> int:
    """Width of a token inside a block: of its feed-forward part, its experts, or a recurrent one's two halves."""

    def most(name: str) -> int:
        return max(header.per_layer(f"{architecture}.{name}", n_layers), default=0)

    experts = most("expert_feed_forward_length") * most("expert_used_count")
    return max(most("feed_forward_length"), experts, 2 * most("ssm.inner_size"))


def projector_kind(header: Header) -> str:
    """Its type, as mtmd names it, of a projector that passed the check."""
    return header.text("clip.projector_type") or header.text("clip.vision.projector_type")


def projector_bytes(header: Header) -> int:
    """What a projector takes: its weights, and what one picture is computed in."""
    side, patch = (_count(header, f"clip.vision.{name}") for name in ("image_size", "patch_size"))
    n_patches = max((side // max(1, patch)) ** 2, LEAST_PATCHES)
    widths = (_count(header, f"clip.vision.{name}") for name in ("embedding_length", "feed_forward_length"))
    n_embd, n_ff = widths
    return sum(header.tensors.values()) + 4 * n_patches * (12 * n_embd + 2 * n_ff)


def with_projector(shape: Shape, n_bytes: int) -> Shape:
    """The shape of a model that sees; on the GPU with the output head."""
    return msgspec.structs.replace(shape, output_bytes=shape.output_bytes + n_bytes)


def _kv_bytes_per_1k(header: Header, architecture: str) -> int | None:
    layers = layers_of(header, (0,) * _count(header, f"{architecture}.block_count"))
    return KILO_TOKENS * sum(layer.cell_bytes for layer in layers if not layer.window) or None


def _count(header: Header, key: str) -> int:
    return int(header.number(key) or 0)
