"""Our structs as the JSON that `/v1/status`, `/v1/models` and the control socket show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mcd.api.models import Model
from mcd.cards import ModelCard

OWNED_BY = "modelcloud"


def to_json(value: object) -> bytes:
    """Write structs as JSON objects; bytes become hex, as people know digests and keys."""
    return msgspec.json.encode(_plain(msgspec.to_builtins(value, builtin_types=(bytes,), str_keys=True)))


def model(card: ModelCard, name: str) -> Model:
    """One model of the directory in OpenAI's shape, under the name it was asked for."""
    return Model(
        id=name,
        created=card.seen_unix_s,
        owned_by=OWNED_BY,
        context_length=card.n_ctx,
        capabilities=card.capabilities,
        digest=card.digest.hex(),
        n_providers=card.n_providers,
        n_slots=card.n_slots,
        price_prompt=card.price_prompt,
        price_output=card.price_output,
    )


def models(cards: Sequence[ModelCard]) -> list[Model]:
    """All of them."""
    return [model(card, card.alias) for card in cards]


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            return value
