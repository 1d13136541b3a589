"""What the network serves, as OpenAI's list of models with the members that local clients look for.   [GW-40]"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Model(msgspec.Struct, frozen=True):
    """One model; the members after ``owned_by`` are extensions that OpenAI's clients skip."""

    id: str
    created: int
    """Unix seconds of the newest announcement."""
    owned_by: str
    context_length: int
    capabilities: tuple[str, ...]
    digest: str
    """SHA-256 of the GGUF file, hex: the same name with another quantisation is another model."""
    n_providers: int
    n_slots: int
    price_prompt: int
    """Cheapest offer, token base units per 1M tokens."""
    price_output: int
    object: str = "model"


class ModelList(msgspec.Struct, frozen=True):
    """The body of GET /v1/models."""

    data: Sequence[Model]
    object: str = "list"


def encode(answer: Model | ModelList) -> bytes:
    """Write either body."""
    return msgspec.json.encode(answer)
