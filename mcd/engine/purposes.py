"""What a GGUF is for, from two of its metadata values.   Pure."""

from __future__ import annotations

ENCODERS = frozenset(
    {
        "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
        "gemma-embedding",
    }
)  # fmt: skip
"""llama.cpp's architectures that attend both ways and keep no KV memory."""
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
"""llama_pooling_type, as ``ARCH.pooling_type`` says it."""


def pooling_of(architecture: str, stated: int | None) -> int | None:
    """How texts become vectors or scores; None for a model that generates."""
    if stated is not None and MEAN <= stated <= RANK:
        return stated
    return MEAN if architecture in ENCODERS else None  # what most such models were trained with


def does(pooling: int | None, *, has_template: bool) -> tuple[str, ...]:
    """In words of the list of known models."""
    if pooling is not None:
        return ("rerank",) if pooling == RANK else ("embeddings",)
    return ("chat",) if has_template else ("completions",)
