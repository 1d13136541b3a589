"""Random texts out of llama.cpp's own grammar engine: what it lets through, whatever a model would prefer."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from mcd.engine import candidates
from mcd.engine.guide import Grammar
from mcd.engine.model import Model

MAX_CHARS = 600


def sample(model: Model, gbnf: str, choose: random.Random, ends: Sequence[str] = ()) -> str:
    """A random text that a grammar admits; towards its end after a while.

    Args:
        model: Whose tokens are single bytes.
        gbnf: The grammar.
        choose: Decides.
        ends: What ends texts in it, tried where a text has become long.
    """
    planned = b""
    grammar = Grammar(model, gbnf, "x")
    said = b""
    flat = np.zeros(model.n_vocab, np.float32)
    try:
        while True:
            allowed = set(grammar.mask(candidates.every(flat))["id"].tolist())
            assert allowed, f"a dead end after {said!r} in\n{gbnf}"
            if model.end_token in allowed and (len(said) > MAX_CHARS or choose.random() < 0.3 or len(allowed) == 1):
                return said.decode("utf-8")
            allowed.discard(model.end_token)
            # llama.cpp lets through broken UTF-8, so bytes of longer characters only where nothing else may stand
            plain = {token for token in allowed if token < 128 or token > 255} or allowed
            is_long = len(said) > MAX_CHARS // 4
            if not planned and ends and len(plain) > 60 and choose.random() < (0.5 if is_long else 0.1):
                planned = choose.choice(list(ends)).encode()
            if planned and planned[0] in allowed:
                token, planned = planned[0], planned[1:]
            else:
                token, planned = _pick(plain, choose, is_long=is_long), b""
            grammar.accept(token)
            said += model.piece(token, special=True)
            assert len(said) < 20 * MAX_CHARS, said[-200:]
    finally:
        grammar.close()


def _pick(allowed: set[int], choose: random.Random, *, is_long: bool) -> int:
    is_text = len(allowed) > 60
    closing = [token for token in map(ord, '"' if is_text else '"}]') if token in allowed]
    if closing and choose.random() < (0.9 if is_long else 0.3):
        return choose.choice(closing)
    digits = [token for token in allowed if chr(token) in "0123456789nt"]
    if is_long and is_text:
        digits = [token for token in map(ord, "abx@5") if token in allowed]
    if is_long and digits and choose.random() < 0.7:
        return choose.choice(digits)
    letters = [token for token in allowed if 32 <= token < 127]
    return choose.choice(sorted(letters if letters and choose.random() < 0.8 else allowed))
