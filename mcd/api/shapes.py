"""The members that a whole completion and its stream share: usage, log probabilities, tool call ids, fingerprints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcd.errors import RemoteProtocolError
from mcd.wire.payload import Final, TokenLogprob, ToolCallDelta, Usage

Json = dict[str, object]

LEAST_LOGPROB = -9999.0
"""OpenAI's spelling of minus infinity, which JSON cannot write."""

_FINISH_REASONS = frozenset({"stop", "length", "tool_calls"})


def usage(counts: Usage) -> Json:
    """The bill, as OpenAI writes it."""
    return {
        "prompt_tokens": counts.n_prompt_tokens,
        "completion_tokens": counts.n_output_tokens,
        "total_tokens": counts.n_prompt_tokens + counts.n_output_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.n_cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": counts.n_reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def finish_reason(final: Final, choice: int) -> str:
    """One of OpenAI's words; a provider's unknown word means that it stopped."""
    reason = final.finish_reasons[choice] if choice < len(final.finish_reasons) else "stop"
    return reason if reason in _FINISH_REASONS else "stop"


def logprob_items(tokens: Sequence[TokenLogprob]) -> list[Json]:
    """Log probabilities of some output tokens; a token may be part of a character, so its bytes are given too."""
    return [
        _token(token.token, token.logprob) | {"top_logprobs": [_token(top.token, top.logprob) for top in token.top]}
        for token in tokens
    ]


def fingerprint(model_digest: bytes) -> str | None:
    """Name the exact weights that answered."""
    return f"fp_{model_digest[:6].hex()}" if model_digest else None


def call_id(delta: ToolCallDelta, completion_id: str, choice: int) -> str:
    """The provider's id of a tool call, or one that is unique without it."""
    return delta.id or f"call_{completion_id.removeprefix('chatcmpl-')[:16]}{choice:02x}{delta.index:02x}"


def check_choice(choice: int, n: int) -> None:
    """Refuse an answer to a choice that nobody asked for.

    Raises:
        RemoteProtocolError: The provider's engine is at fault.
    """
    if choice >= n:
        raise RemoteProtocolError("the provider answered a choice that was not asked for")


def logprob_of(value: float) -> float:
    """A log probability that JSON can write."""
    return LEAST_LOGPROB if math.isnan(value) else max(LEAST_LOGPROB, min(0.0, value))


def _token(token: bytes, logprob: float) -> Json:
    return {"token": token.decode(errors="replace"), "logprob": logprob_of(logprob), "bytes": list(token)}
