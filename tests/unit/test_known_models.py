"""The list of known models: its form, its arithmetic, its breadth."""

from __future__ import annotations

from collections import Counter

import pytest

from mcd.engine.catalogue import sanitise_alias
from mcd.engine.fit import LEAST_SLOTS
from mcd.engine.gguf_facts import facts_of, shape_of
from mcd.engine.ggufcheck import Header, Value
from mcd.engine.known_models import KnownModel, by_source, known_models, kv_bytes, near

ENTRIES = list(known_models().values())
BITS_PER_WEIGHT = {"Q4_K_M": (4.7, 6.6), "Q8_0": (8.5, 9.1), "MXFP4": (4.25, 4.7)}
"""From the smallest embedding-heavy models (many weights in 6 or 8 bits) to the largest."""
FAMILIES = (
    "llama-3.1", "llama-3.2", "llama-3.3", "qwen2.5-", "qwen2.5-coder", "qwen3-", "qwen3-coder", "gpt-oss-20b",
    "gpt-oss-120b", "gemma-3", "mistral", "mixtral", "ministral", "phi-4", "deepseek-r1-distill", "granite", "smollm3",
    "nomic-embed", "bge-m3", "qwen3-embedding", "bge-reranker", "qwen3-reranker",
)  # fmt: skip


def test_there_is_what_people_ask_for() -> None:
    assert len(ENTRIES) >= 25
    for family in FAMILIES:
        assert any(entry.name.startswith(family) for entry in ENTRIES), family
    does = Counter(what for entry in ENTRIES for what in entry.does)
    assert min(does["embeddings"], does["rerank"]) >= 2


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_adds_up(entry: KnownModel) -> None:
    assert sanitise_alias(entry.name) == entry.name
    assert not entry.name.endswith(".gguf")
    assert "-of-0" not in entry.file
    assert entry.kv_bytes_per_1k == kv_bytes(entry.n_kv_layers, entry.n_kv_heads, entry.head_dim, 1024)
    assert entry.kv_bytes_per_1k == 2 * 2 * entry.n_kv_layers * entry.n_kv_heads * entry.head_dim * 1024
    assert bool(entry.n_window_layers) == bool(entry.window_tokens)
    low, high = BITS_PER_WEIGHT[entry.quantisation]
    assert low <= entry.size_bytes * 8 / entry.n_params <= high
    assert entry.size_bytes % 10_000_000 == 0
    assert entry.n_ctx % 1024 == 0
    assert entry.does
    assert entry.memory_bytes(entry.n_ctx) >= entry.size_bytes + entry.kv_bytes_per_1k * entry.n_ctx // 1024
    assert by_source(entry.repo, entry.file) is entry


def test_names_sources_and_digests_are_unique() -> None:
    for values in (
        [entry.name for entry in ENTRIES],
        [entry.source for entry in ENTRIES],
        [entry.sha256 for entry in ENTRIES if entry.sha256],
    ):
        assert len(set(values)) == len(values)


WINDOWED = {"gemma-3-": "gemma3", "gpt-oss": "gpt-oss"}
EVERY_FOURTH = ("qwen3.5-", "qwen3.6-")
SPDX = {"apache-2.0", "mit"}
HUBS_OWN = {"llama3.1", "llama3.2", "llama3.3", "gemma", "qwen", "qwen-research"}


def header_of(entry: KnownModel) -> Header:
    """What a file of this shape says, as far as memory goes."""
    architecture = next((arch for start, arch in WINDOWED.items() if entry.name.startswith(start)), "llama")
    n_layers = entry.n_kv_layers + entry.n_window_layers
    if entry.name.startswith(EVERY_FOURTH):
        architecture, n_layers = "qwen35", 4 * entry.n_kv_layers
    values = {
        "context_length": entry.n_ctx, "block_count": n_layers, "attention.head_count": entry.n_kv_heads,
        "attention.key_length": entry.head_dim, "attention.value_length": entry.head_dim,
    }  # fmt: skip
    if entry.window_tokens:
        values["attention.sliding_window"] = entry.window_tokens
    named: dict[str, Value] = {f"{architecture}.{key}": value for key, value in values.items()}
    return Header({"general.architecture": architecture} | named, 1, 0, 0)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_memory_is_what_a_file_of_that_shape_is_fitted_with(entry: KnownModel) -> None:
    header = header_of(entry)
    shape = shape_of(header)
    assert shape.n_ctx_train == entry.n_ctx
    for n_ctx in (8192, entry.n_ctx):
        kept = shape.kv_bytes(n_ctx, LEAST_SLOTS)
        assert entry.memory_bytes(n_ctx) == entry.size_bytes + entry.projector_bytes + kept
    assert (facts_of(header).kv_bytes_per_1k or 0) == entry.kv_bytes_per_1k
    assert sum(layer.window > 0 for layer in shape.layers) == entry.n_window_layers


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_facts_are_of_known_kinds(entry: KnownModel) -> None:
    assert entry.licence in SPDX | HUBS_OWN
    said = entry.file.upper().replace("-", "_")
    assert entry.quantisation in said or entry.quantisation == "MXFP4"  # named after what the rest is stored in
    assert ("vision" in entry.does) == (entry.projector is not None) == (entry.projector_bytes > 0)
    assert len({"chat", "embeddings", "rerank"} & set(entry.does)) == 1
    assert len(set(entry.does)) == len(entry.does)
    assert not ({"tools", "reasoning", "code"} & set(entry.does)) or "chat" in entry.does


def test_memory_of_windows_stops_growing() -> None:
    gemma = known_models()["gemma-3-12b-it"]
    growth = gemma.memory_bytes(64 * 1024) - gemma.memory_bytes(63 * 1024)
    assert growth == gemma.kv_bytes_per_1k
    assert gemma.memory_bytes(1024) - gemma.memory_bytes(0) == 6 * gemma.kv_bytes_per_1k  # 48 layers, 8 of them whole


def test_near_names() -> None:
    assert near("llama3.1:8b", known_models()) == ["llama-3.1-8b-instruct"]
    assert near("gpt-oss", known_models()) == ["gpt-oss-20b", "gpt-oss-120b"]
    assert near("qwenn3-8b", known_models())[0] == "qwen3-8b"
    assert near("", known_models()) == near("zzzz", known_models()) == []
    assert len(near("qwen", known_models())) == 3


def test_facts_of_a_header() -> None:
    llama = {
        "general.architecture": "llama", "general.file_type": 15, "llama.context_length": 4096, "llama.block_count": 32,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8, "llama.embedding_length": 4096,
        "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    facts = facts_of(Header(dict(llama), 1, 0, 0))
    assert (facts.architecture, facts.n_ctx, facts.quantisation, facts.has_chat_template) == (
        "llama",
        4096,
        "Q4_K_M",
        True,
    )
    assert facts.kv_bytes_per_1k == known_models()["llama-3.1-8b-instruct"].kv_bytes_per_1k
    lengths = ("llama.attention.key_length", "llama.attention.value_length")
    wide = facts_of(Header(llama | dict.fromkeys(lengths, 256), 1, 0, 0))
    assert wide.kv_bytes_per_1k == 2 * (facts.kv_bytes_per_1k or 0)
    bare = facts_of(Header({"general.architecture": "bert"}, 1, 0, 0))
    assert (bare.n_ctx, bare.quantisation, bare.kv_bytes_per_1k, bare.has_chat_template) == (None, None, None, False)
