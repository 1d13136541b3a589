"""A small byte-level BPE tokenizer, trained on the corpus; splits text as llama.cpp's "gpt-2" pre-tokenizer does."""

import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END, START_TURN, END_TURN)
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


class Tokenizer:
    """Ids are: the 256 bytes, one per merge in order, then the specials."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
        self._alphabet = byte_alphabet()
        self.tokens = [*self._alphabet, *(a + b for a, b in merges), *SPECIALS]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._rank = {pair: i for i, pair in enumerate(merges)}
        self._piece = lru_cache(maxsize=200_000)(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """Token ids of text; special tokens in it are recognised."""
        out: list[int] = []
        for part in _SPECIAL.split(text):
            if part in SPECIALS:
                out.append(self.ids[part])
            else:
                for piece in _PIECES.findall(part):
                    out.extend(self._piece(piece))
        return out

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        parts = [self._alphabet[b] for b in piece.encode()]
        while len(parts) > 1:
            rank, i = min((self._rank.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(pairwise(parts)))
            if rank == 1 << 30:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return tuple(self.ids[p] for p in parts)


def train(texts: list[str], n_vocab: int) -> Tokenizer:
    """Learn merges until there are n_vocab tokens, specials included. Ties break by the pair itself: deterministic."""
    alphabet = byte_alphabet()
    counts = Counter(piece for text in texts for piece in _PIECES.findall(text))
    pieces = [([alphabet[b] for b in piece.encode()], n) for piece, n in sorted(counts.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = {}
    for index, (parts, n) in enumerate(pieces):
        for pair in pairwise(parts):
            pairs[pair] += n
            where.setdefault(pair, set()).add(index)
    merges: list[tuple[str, str]] = []
    while len(merges) < n_vocab - 256 - len(SPECIALS):
        best = max(pairs.items(), key=lambda item: (item[1], item[0]))[0]
        merges.append(best)
        for index in sorted(where.pop(best)):
            parts, n = pieces[index]
            for pair in pairwise(parts):
                pairs[pair] -= n
            _merge(parts, best)
            for pair in pairwise(parts):
                pairs[pair] += n
                where.setdefault(pair, set()).add(index)
        del pairs[best]
    return Tokenizer(merges)


def _merge(parts: list[str], pair: tuple[str, str]) -> None:
    i = 0
    while i < len(parts) - 1:
        if (parts[i], parts[i + 1]) == pair:
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        i += 1
