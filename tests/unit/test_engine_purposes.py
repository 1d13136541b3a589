"""What a file is for, from its metadata: the engine and `mcd show` say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcd.engine.gguf_facts import facts_of
from mcd.engine.ggufcheck import check_file
from mcd.engine.purposes import CLS, LAST, MEAN, RANK, does, pooling_of
from tests.fakes import gguf_make
from tests.fakes.gguf_embed import make_encoder


@pytest.mark.parametrize(
    ("architecture", "stated", "pooling", "words"),
    [
        ("llama", None, None, ("chat",)),
        ("llama", 0, None, ("chat",)),
        ("qwen3", LAST, LAST, ("embeddings",)),
        ("qwen3", RANK, RANK, ("rerank",)),
        ("bert", CLS, CLS, ("embeddings",)),
        ("bert", None, MEAN, ("embeddings",)),
        ("bert", 99, MEAN, ("embeddings",)),
        ("nomic-bert", RANK, RANK, ("rerank",)),
    ],
)
def test_purpose(architecture: str, stated: int | None, pooling: int | None, words: tuple[str, ...]) -> None:
    assert pooling_of(architecture, stated) == pooling
    assert does(pooling, has_template=True) == words


def test_facts_of_files(tmp_path: Path) -> None:
    assert does(None, has_template=False) == ("completions",)
    for path, words in (
        (make_encoder(tmp_path / "a.gguf"), ("embeddings",)),
        (make_encoder(tmp_path / "b.gguf", pooling=RANK), ("rerank",)),
        (gguf_make.make(tmp_path / "c.gguf"), ("chat",)),
        (gguf_make.make(tmp_path / "d.gguf", template=None), ("completions",)),
    ):
        assert facts_of(check_file(str(path))).does == words
