"""Tiny real projectors with random weights, and a language model for each, built in milliseconds.

Four kinds that differ in what an engine must get right: ``llava`` (a picture is decoded like words), ``gemma3`` (its
cells see one another, behind a sliding window), ``qwen2vl`` (a picture takes fewer positions than cells, and as many
cells as its size demands) and ``idefics3`` (a picture is cut into tiles with words between them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.fakes import gguf_arch, gguf_make
from tests.fakes.gguf_make import N_EMBD, N_FF, N_HEAD, N_LAYER

N_VISION, N_VISION_FF, N_VISION_HEAD, N_VISION_LAYER = 32, 64, 2, 2
IMAGE_SIDE, PATCH_SIDE, MERGE = 32, 4, 2
N_PATCHES = (IMAGE_SIDE // PATCH_SIDE) ** 2
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


def make_projector(path: Path, kind: str, *, seed: int = 1, metadata: dict[str, Any] | None = None) -> Path:
    """Write a projector alone; ``metadata`` replaces values, None removes them."""
    values: dict[str, Any] = {
        "clip.has_vision_encoder": True,
        "clip.projector_type": _PROJECTOR[kind],
        "clip.use_gelu": True,
        "clip.vision.embedding_length": N_VISION,
        "clip.vision.feed_forward_length": N_VISION_FF,
        "clip.vision.block_count": N_VISION_LAYER,
        "clip.vision.attention.head_count": N_VISION_HEAD,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.projection_dim": N_EMBD,
        "clip.vision.image_size": IMAGE_SIDE,
        "clip.vision.patch_size": PATCH_SIDE,
        "clip.vision.image_mean": [0.0, 0.0, 0.0],
        "clip.vision.image_std": [1.0, 1.0, 1.0],
    }
    if kind in {"gemma3", "idefics3"}:
        values["clip.vision.projector.scale_factor"] = MERGE
    if kind == "idefics3":
        values["clip.vision.preproc_image_size"] = 3 * IMAGE_SIDE
    values.update(metadata or {})
    writer = gguf.GGUFWriter(str(path), "clip")
    for key, value in values.items():
        _put(writer, key, value)
    _add_tensors(writer, kind, np.random.default_rng(seed))
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


def _add_tensors(writer: gguf.GGUFWriter, kind: str, random: np.random.Generator) -> None:
    def put(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def ones(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    put("v.patch_embd.weight", N_VISION, 3, PATCH_SIDE, PATCH_SIDE)
    if kind == "qwen2vl":
        put("v.patch_embd.weight.1", N_VISION, 3, PATCH_SIDE, PATCH_SIDE)
    else:
        put("v.patch_embd.bias", N_VISION)
        put("v.position_embd.weight", N_PATCHES, N_VISION)
    for layer in range(N_VISION_LAYER):
        name = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            put(f"{name}.{part}.weight", N_VISION, N_VISION)
            put(f"{name}.{part}.bias", N_VISION)
        put(f"{name}.ffn_up.weight", N_VISION_FF, N_VISION)
        put(f"{name}.ffn_down.weight", N_VISION, N_VISION_FF)
        for norm in ("ln1", "ln2"):
            ones(f"{name}.{norm}.weight", N_VISION)
            put(f"{name}.{norm}.bias", N_VISION)
    ones("v.post_ln.weight", N_VISION)
    put("v.post_ln.bias", N_VISION)
    if kind == "gemma3":
        put("mm.input_projection.weight", N_VISION, N_EMBD)
        ones("mm.soft_emb_norm.weight", N_VISION)
    elif kind == "idefics3":
        put("mm.model.fc.weight", N_EMBD, N_VISION * MERGE**2)
    else:
        n_in = N_VISION * MERGE**2 if kind == "qwen2vl" else N_VISION
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
