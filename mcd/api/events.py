"""What an answer is made of, whichever dialect asked: the events between entry and gateway."""

from __future__ import annotations

import msgspec

from mcd.ids import PeerId
from mcd.units import Seconds
from mcd.wire.payload import Delta, Final, Scores, Text, Tokens, Vectors


class Waiting(msgspec.Struct, frozen=True):
    """Nothing yet: looking for a provider, queued there or prefilling. The gateway keeps the client alive."""

    queue_s: Seconds
    """Best estimate until the first token; 0 when unknown."""


class Answering(msgspec.Struct, frozen=True):
    """A provider's engine opened the envelope; deltas follow. Comes again after a failover."""

    peer_id: PeerId
    peer_name: str
    model: str
    """The alias as the provider announces it."""
    n_prompt_tokens: int
    price_prompt: int
    price_output: int
    model_digest: bytes = b""
    """SHA-256 of the GGUF that answers; becomes OpenAI's system_fingerprint. Empty when unknown."""


AnswerEvent = Waiting | Answering | Delta | Vectors | Scores | Tokens | Text | Final
"""In order: Waiting*, Answering, then Delta* of a chat or the parts of a task's results, Final. A failure is raised as
an `mcd.errors.McdError` instead. A task's results begin anew with each Answering."""
