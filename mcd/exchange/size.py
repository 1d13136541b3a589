"""How large a request for a model may be, as its provider admits it and its entry holds against a refusal.   [EX-45]"""

from __future__ import annotations

from collections.abc import Collection

from mcd.wire.payload import MAX_CHOICES

MAX_BYTES_PER_TOKEN = 64
"""More sealed bytes per token of context than any tokenizer can fill, JSON escapes included."""
BODY_ALLOWANCE_BYTES = 65_536
"""Room for parameters and tool schemas besides the prompt."""


def is_too_large(n_ctx: int, capabilities: Collection[str], n_sealed_bytes: int, most_tokens: int) -> bool:
    """Whether no text of so many bytes, or no answer of so many tokens, can fit. The engine judges the real count."""
    if not generates(capabilities):
        return False  # a request holds many texts, each of which may fill the context
    if most_tokens > MAX_CHOICES * n_ctx:  # the limit covers all choices of a request
        return True
    # a megabyte of picture is a few hundred tokens
    return "vision" not in capabilities and n_sealed_bytes > BODY_ALLOWANCE_BYTES + MAX_BYTES_PER_TOKEN * n_ctx


def generates(capabilities: Collection[str]) -> bool:
    """Whether the model answers with tokens of its own; while it is not loaded nobody knows, and most do."""
    return not capabilities or not {"chat", "completions"}.isdisjoint(capabilities)
