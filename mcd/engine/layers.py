"""What each layer keeps of what it has read, from a checked GGUF header: every token, a window, or a state.   Pure.

As llama.cpp reads these headers. An architecture that is not named here is taken for one whose layers keep every
token, and so is a named one whose header does not say which layers do otherwise: that is never too little.
"""

from __future__ import annotations

from mcd.engine.fit import F16_BYTES, F32_BYTES, Layer
from mcd.engine.ggufcheck import Header

_PERIODS = {
    "afmoe": 4, "cohere2": 4, "cohere2moe": 4, "exaone4": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2,
    "llama4": 4, "olmo2": 4,
}  # fmt: skip
"""Of so many layers one keeps every token and the others a window, where the header gives no pattern of its own."""
_STARTS_WHOLE = frozenset({"cohere2moe"})
"""The first of them is the one, elsewhere the last."""
_LISTED = frozenset({"gemma4", "mimo2", "step35"})
"""Their headers always list which layers have a window."""
_DEFAULT_WINDOWS = {"gemma2": 4096, "exaone4": 4096}
_LLAMA4_WINDOW = 8192
_EXAONE4_LAYERS = 64
"""Its smaller models have no window."""
_GEMMA3N_KV_LAYERS = 20
"""The layers behind these use the memory of the last two."""

_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_RECURRENT_WITHOUT_HEADS = frozenset(
    {"granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2"}
)
"""Layers with no heads for keys and values are recurrent."""
_RECURRENT_BUT_EVERY_FOURTH = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_BOTH = frozenset({"falcon-h1"})
"""Each layer has attention and a state."""
_FEED_FORWARD_ALONE = frozenset({"nemotron_h", "nemotron_h_moe"})
"""Layers with a feed-forward part have nothing besides, and keep nothing."""


def layers_of(header: Header, weights: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers of a model; ``weights`` are the bytes of each."""
    facts = _Facts(header, len(weights))
    return tuple(facts.layer(index, n_bytes) for index, n_bytes in enumerate(weights))


class _Facts:
    """Owner: one call of `layers_of`."""

    def __init__(self, header: Header, n_layers: int) -> None:
        self._header = header
        self._architecture = header.text("general.architecture")
        self._n_layers = n_layers
        self._n_heads = self._each("attention.head_count")
        self._first_heads = next((n for n in self._n_heads if n), 0)
        self._n_kv_heads = self._each("attention.head_count_kv") or self._n_heads
        self._n_ff = self._each("feed_forward_length")
        self._window = self._window_tokens()
        self._windowed = self._windowed_layers() if self._window else (False,) * n_layers
        self._recurrent = self._recurrent_layers()
        self._state_bytes = self._state_numbers() * F32_BYTES
        self._n_kv_layers = self._kv_layers()

    def layer(self, index: int, weight_bytes: int) -> Layer:
        is_recurrent = self._recurrent[index]
        is_empty = self._architecture in _FEED_FORWARD_ALONE and _at(self._n_ff, index) > 0
        has_cells = not is_recurrent or self._architecture in _BOTH
        return Layer(
            weight_bytes=weight_bytes,
            cell_bytes=self._cell_bytes(index) if has_cells and not is_empty and index < self._n_kv_layers else 0,
            window=self._window if self._windowed[index] else 0,
            state_bytes=self._state_bytes if is_recurrent and not is_empty else 0,
        )

    def _cell_bytes(self, index: int) -> int:
        usual = self._count("embedding_length") // self._first_heads if self._first_heads else 0
        lengths = []
        for name in ("key_length", "value_length"):
            own = self._count(f"attention.{name}_swa") if self._windowed[index] else 0
            lengths.append(own or self._count(f"attention.{name}") or usual)
        if self._count("attention.key_length_mla"):
            lengths.pop()  # what is kept for the keys serves for the values too
        return F16_BYTES * _at(self._n_kv_heads, index) * sum(lengths)

    def _window_tokens(self) -> int:
        stated = self._number("attention.sliding_window")
        match self._architecture:
            case "llama4":
                return 0 if stated == 0 else _LLAMA4_WINDOW
            case "exaone4" if self._n_layers != _EXAONE4_LAYERS:
                return 0
            case "lfm2":
                return stated or 0
            case name if name in _PERIODS or name in _LISTED:
                return _DEFAULT_WINDOWS.get(name, 0) if stated is None else stated
        return 0

    def _windowed_layers(self) -> tuple[bool, ...]:
        if self._architecture == "lfm2":
            return (True,) * self._n_layers
        key = "attention.sliding_window_pattern"
        period = self._number(key)
        if period is None and (listed := self._each(key)):
            return tuple(map(bool, listed))
        if self._architecture not in _PERIODS:
            return (False,) * self._n_layers
        period = _PERIODS[self._architecture] if period is None else period
        whole = 0 if self._architecture in _STARTS_WHOLE else period - 1
        return tuple(period == 0 or index % period != whole for index in range(self._n_layers))

    def _recurrent_layers(self) -> tuple[bool, ...]:
        if self._architecture in _RECURRENT or self._architecture in _BOTH:
            return (True,) * self._n_layers
        if self._architecture in _RECURRENT_WITHOUT_HEADS:
            return tuple(_at(self._n_kv_heads, index) == 0 for index in range(self._n_layers))
        if self._architecture in _RECURRENT_BUT_EVERY_FOURTH:
            if listed := self._each("attention.recurrent_layers"):
                return tuple(map(bool, listed))
            period = self._number("full_attention_interval") or 4
            return tuple((index + 1) % period != 0 for index in range(self._n_layers))
        return (False,) * self._n_layers

    def _state_numbers(self) -> int:
        """Of one recurrent layer and one sequence: what its convolution looks back at, and its state."""
        n_embd = self._count("embedding_length")
        if head := self._count("wkv.head_size"):
            return n_embd * ((self._number("token_shift_count") or 2) + head)
        if n_back := self._count("shortconv.l_cache"):
            return n_embd * (n_back - 1)
        n_conv = max(0, self._count("ssm.conv_kernel") - 1)
        if head := self._count("kda.head_dim"):
            return self._first_heads * head * (3 * (n_conv or 3) + head)
        inner, state = self._count("ssm.inner_size"), self._count("ssm.state_size")
        return n_conv * (inner + 2 * self._count("ssm.group_count") * state) + inner * state

    def _kv_layers(self) -> int:
        """Layers from the first on that have memory of their own."""
        if self._architecture == "gemma3n":
            return _GEMMA3N_KV_LAYERS
        return self._n_layers - self._count("attention.shared_kv_layers") * (self._architecture == "gemma4")

    def _number(self, name: str) -> int | None:
        value = self._header.number(f"{self._architecture}.{name}")
        return None if value is None else max(0, int(value))

    def _count(self, name: str) -> int:
        return self._number(name) or 0

    def _each(self, name: str) -> tuple[int, ...]:
        return self._header.per_layer(f"{self._architecture}.{name}", self._n_layers)


def _at(values: tuple[int, ...], index: int) -> int:
    return values[index] if values else 0
