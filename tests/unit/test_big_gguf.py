"""The benchmark's model: a byte-level BPE that is whole, and the sizes of Llama 3.2 1B."""

from __future__ import annotations

from scripts.make_big_gguf import N_PLAIN, N_SPECIAL, shapes, vocabulary


def test_every_merge_makes_the_token_at_its_place() -> None:
    tokens, merges = vocabulary()
    assert len(tokens) == len(set(tokens)) == N_PLAIN + N_SPECIAL == 128_256
    place = {token: i for i, token in enumerate(tokens)}
    assert len(merges) == N_PLAIN - 256
    for i, merge in enumerate(merges, 256):
        left, right = merge.split(" ")
        assert tokens[i] == left + right
        assert place[left] < i
        assert place[right] < i


def test_whole_model_has_llama_1b_s_weights() -> None:
    assert sum(n_rows * n_columns for _, n_rows, n_columns in shapes(16)) == 1_235_814_400
