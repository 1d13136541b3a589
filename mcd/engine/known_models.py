"""The open models `mcd pull` knows by name: where their file is, what it weighs, what their context costs.

The entries stand in known_models.toml; its head says where its facts come from. Memory follows from the shape by the
formula that models on this machine are fitted by (`mcd.engine.fit.Layer`), with as few slots as they are given there.
The list knows nothing of the states of recurrent layers, which come on top, and an encoder keeps nothing.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcd.engine.fit import F16_BYTES, LEAST_SLOTS, Layer

ENTRIES_FILE = "known_models.toml"
KEY_AND_VALUE = 2
KILO_TOKENS = 1024
MAX_SUGGESTIONS = 3
SUGGESTION_CUTOFF = 0.6
"""difflib's own default: below it, names have little in common."""

Count = Annotated[int, Meta(ge=0)]
_NOT_WORD = re.compile(r"[^a-z0-9]+")


class KnownModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
    """What people type; an alias that is also a file name."""
    repo: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")]
    """Repository on the hub."""
    file: Annotated[str, Meta(pattern=r"^[\w./-]+\.gguf$")]
    quantisation: str
    licence: str
    """SPDX identifier as the hub spells it, in lower case; the hub's own name of a licence that has none."""
    n_params: Annotated[int, Meta(gt=0)]
    size_bytes: Annotated[int, Meta(gt=0)]
    """Of the file, rounded to 10 MB; also the memory its weights take."""
    n_ctx: Annotated[int, Meta(gt=0)]
    """Context it was trained for, tokens."""
    does: tuple[Literal["chat", "tools", "reasoning", "code", "vision", "embeddings", "rerank"], ...]
    n_kv_layers: Count
    """Layers whose memory grows with the context; 0 for encoders."""
    n_kv_heads: Count
    head_dim: Count
    n_window_layers: Count = 0
    """Layers that keep ``window_tokens`` of each sequence."""
    window_tokens: Count = 0
    kv_bytes_per_1k: Count
    """Memory for each 1024 tokens of context; always what `kv_bytes` gives."""
    projector: Annotated[str, Meta(pattern=r"^[\w./-]+\.gguf$")] | None = None
    """File of the same repository through which it sees pictures; with `vision` in ``does``."""
    projector_bytes: Count = 0
    """Its size, rounded to 10 MB; the memory it takes, too."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The file as others saw it; None where no one wrote it down. The hub's own value is what a pull checks."""

    @property
    def source(self) -> str:
        """REPO:FILE, as `mcd pull` takes it."""
        return f"{self.repo}:{self.file}"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that keep something; their weights are in ``size_bytes``."""
        whole = Layer(weight_bytes=0, cell_bytes=kv_bytes(1, self.n_kv_heads, self.head_dim, 1))
        windowed = msgspec.structs.replace(whole, window=self.window_tokens)
        return (whole,) * self.n_kv_layers + (windowed,) * self.n_window_layers

    def memory_bytes(self, n_ctx: int) -> int:
        """Weights and KV memory for one context of this length; the compute buffers come on top (a few 100 MB)."""
        kept = sum(layer.kv_bytes(n_ctx, LEAST_SLOTS) for layer in self.layers)
        return self.size_bytes + self.projector_bytes + kept


def kv_bytes(n_layers: int, n_kv_heads: int, head_dim: int, n_tokens: int) -> int:
    """Keys and values in f16."""
    return KEY_AND_VALUE * F16_BYTES * n_layers * n_kv_heads * head_dim * n_tokens


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """Every entry by name, in the order of the file."""
    table = tomllib.loads((Path(__file__).parent / ENTRIES_FILE).read_text())
    entries = msgspec.convert(table["model"], tuple[KnownModel, ...])
    return {entry.name: entry for entry in entries}


def by_source(repo: str, file: str) -> KnownModel | None:
    """The entry of a file on the hub."""
    return next((entry for entry in known_models().values() if (entry.repo, entry.file) == (repo, file)), None)


def near(name: str, among: Iterable[str]) -> list[str]:
    """Names that were perhaps meant: those that contain what was typed, else those spelled alike."""
    plain = {_plain(candidate): candidate for candidate in among}
    typed = _plain(name)
    inside = [candidate for key, candidate in plain.items() if typed and typed in key]
    alike = difflib.get_close_matches(typed, plain, n=MAX_SUGGESTIONS, cutoff=SUGGESTION_CUTOFF)
    return (inside or [plain[key] for key in alike])[:MAX_SUGGESTIONS]


def _plain(name: str) -> str:
    return _NOT_WORD.sub("", name.lower())
