"""Tiny real projectors with random weights, and a language model for each, built in milliseconds.

Four kinds that differ in what an engine must get right: ``llava`` (a picture is decoded like words), ``gemma3`` (its
cells see one another, behind a sliding window), ``qwen2vl`` (a picture takes fewer positions than cells, and as many
cells as its size demands) and ``idefics3`` (a picture is cut into tiles with words between them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from tests.fakes import gguf_arch, gguf_make
from tests.fakes.gguf_make import N_EMBD, N_FF, N_HEAD, N_LAYER


class Encoder(NamedTuple):
    """Shape of what looks at a picture."""

    n_embd: int = 32
    n_ff: int = 64
    n_head: int = 2
    n_layer: int = 2
    image_side: int = 32
    patch_side: int = 4

    @property
    def n_patches(self) -> int:
        return (self.image_side // self.patch_side) ** 2


TINY = Encoder()
MERGE = 2
IMAGE_SIDE, N_PATCHES = TINY.image_side, TINY.n_patches
KINDS = ("llava", "gemma3", "qwen2vl", "idefics3")
TILE_TOKENS = (
    "\n", "\n\n", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
)  # fmt: skip
"""What idefics3 puts between its tiles."""
PICTURE_TOKENS = {"llava": N_PATCHES, "gemma3": N_PATCHES // MERGE**2}
"""Cells of any picture."""
_PROJECTOR = {"llava": "mlp", "gemma3": "gemma3", "qwen2vl": "qwen2vl_merger", "idefics3": "idefics3"}


def make(folder: Path, kind: str, *, seed: int = 1, n_ctx: int = 1024, **projector: Any) -> Path:
    """Write a model and, beside it, its projector."""
    path = folder / f"tiny-{kind}.gguf"
    if kind in {"llava", "idefics3"}:
        gguf_make.make(path, seed=seed, n_ctx=n_ctx, more_tokens=TILE_TOKENS if kind == "idefics3" else ())
    elif kind == "gemma3":
        gguf_arch.make(path, "gemma3", seed=seed, n_ctx=n_ctx)
    else:
        _qwen2vl(path, seed, n_ctx)
    make_projector(path.with_suffix(".mmproj.gguf"), kind, seed=seed, **projector)
    return path


def make_projector(
    path: Path,
    kind: str,
    *,
    seed: int = 1,
    metadata: dict[str, Any] | None = None,
    without: str = "",
    encoder: Encoder = TINY,
) -> Path:
    """Write a projector alone; ``metadata`` replaces values, None removes them; ``without`` leaves out a tensor."""
    values: dict[str, Any] = {
        "clip.has_vision_encoder": True,
        "clip.projector_type": _PROJECTOR[kind],
        "clip.use_gelu": True,
        "clip.vision.embedding_length": encoder.n_embd,
        "clip.vision.feed_forward_length": encoder.n_ff,
        "clip.vision.block_count": encoder.n_layer,
        "clip.vision.attention.head_count": encoder.n_head,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.projection_dim": N_EMBD,
        "clip.vision.image_size": encoder.image_side,
        "clip.vision.patch_size": encoder.patch_side,
        "clip.vision.image_mean": [0.0, 0.0, 0.0],
        "clip.vision.image_std": [1.0, 1.0, 1.0],
    }
    if kind in {"gemma3", "idefics3"}:
        values["clip.vision.projector.scale_factor"] = MERGE
    if kind == "idefics3":
        values["clip.vision.preproc_image_size"] = 3 * encoder.image_side
    values.update(metadata or {})
    writer = gguf.GGUFWriter(str(path), "clip")
    for key, value in values.items():
        _put(writer, key, value)
    _add_tensors(writer, kind, encoder, np.random.default_rng(seed), without)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif value is not None:
        writer.add_uint32(key, value)


def _add_tensors(
    writer: gguf.GGUFWriter, kind: str, encoder: Encoder, random: np.random.Generator, without: str
) -> None:
    n_embd, side = encoder.n_embd, encoder.patch_side

    def put(name: str, *shape: int, scale: float = 0.3) -> None:
        if name != without:
            writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def ones(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    put("v.patch_embd.weight", n_embd, 3, side, side)
    if kind == "qwen2vl":
        put("v.patch_embd.weight.1", n_embd, 3, side, side)
    else:
        put("v.patch_embd.bias", n_embd)
        put("v.position_embd.weight", encoder.n_patches, n_embd)
    for layer in range(encoder.n_layer):
        name = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            put(f"{name}.{part}.weight", n_embd, n_embd)
            put(f"{name}.{part}.bias", n_embd)
        put(f"{name}.ffn_up.weight", encoder.n_ff, n_embd)
        put(f"{name}.ffn_down.weight", n_embd, encoder.n_ff)
        for norm in ("ln1", "ln2"):
            ones(f"{name}.{norm}.weight", n_embd)
            put(f"{name}.{norm}.bias", n_embd)
    ones("v.post_ln.weight", n_embd)
    put("v.post_ln.bias", n_embd)
    if kind == "gemma3":
        put("mm.input_projection.weight", n_embd, N_EMBD)
        ones("mm.soft_emb_norm.weight", n_embd)
    elif kind == "idefics3":
        put("mm.model.fc.weight", N_EMBD, n_embd * MERGE**2)
    else:
        n_in = n_embd * MERGE**2 if kind == "qwen2vl" else n_embd
        put("mm.0.weight", N_EMBD, n_in)
        put("mm.0.bias", N_EMBD)
        put("mm.2.weight", N_EMBD, N_EMBD)
        put("mm.2.bias", N_EMBD)


def _qwen2vl(path: Path, seed: int, n_ctx: int) -> None:
    writer = gguf.GGUFWriter(str(path), "qwen2vl")
    values: dict[str, Any] = {
        "context_length": n_ctx,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_sections": [2, 3, 3, 0],
    }
    for key, value in values.items():
        _put(writer, f"qwen2vl.{key}", value)
    gguf_arch.add_vocabulary(writer)
    weights = gguf_arch.Weights(writer, seed)
    weights.embeddings(len(gguf_make.vocabulary()), 1.0)
    weights.ones("output_norm.weight", N_EMBD)
    for layer in range(N_LAYER):
        name = f"blk.{layer}"
        weights.ones(f"{name}.attn_norm.weight", N_EMBD)
        weights.ones(f"{name}.ffn_norm.weight", N_EMBD)
        for part in ("attn_q", "attn_k", "attn_v"):
            weights.add(f"{name}.{part}.weight", N_EMBD, N_EMBD)
            weights.add(f"{name}.{part}.bias", N_EMBD)
        weights.add(f"{name}.attn_output.weight", N_EMBD, N_EMBD, writes_hidden=True)
        gguf_arch.feed_forward(weights, name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
