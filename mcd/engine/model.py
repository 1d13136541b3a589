"""A loaded GGUF: weights, vocabulary and one context for all slots. The only owner of llama.cpp's pointers."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

from mcd.engine import abi
from mcd.engine.aside import deep
from mcd.engine.backend import StartError
from mcd.engine.controls import Control, Controls, Fence, is_structure
from mcd.engine.fit import MIN_CTX, SCRATCH_CELLS, STEP_ROWS
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.slots import Cuts

DEFAULT_SLOTS = 8
DEFAULT_MAX_CTX = 32_768
"""A model that claims more gets this unless --ctx says so: KV memory is reserved for every slot."""
N_BATCH = 2048
MAX_SLOTS = 255
"""llama.cpp knows 256 sequences; one is the scratch sequence."""
MAX_VALUE_BYTES = 4 * 1024 * 1024
"""Longest metadata value read back; chat templates have up to 100 kB."""
MAX_PIECE_BYTES = 512
MAX_SHALLOW_BYTES = 8192
"""Longer texts are tokenised on a stack of their own size."""

SAMPLING_DEFAULTS = {"temp": 0.8, "top_k": 40.0, "top_p": 0.95, "min_p": 0.05}
"""llama.cpp's, for members the client and the model (general.sampling.*) leave open."""


class Model:
    """Weights and vocabulary."""

    def __init__(self, lib: Any, path: str, *, n_gpu_layers: int = 0, split: tuple[int, ...] = ()) -> None:
        """Load the file.

        Raises:
            StartError: llama.cpp refuses it.
        """
        self.lib = lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        no_device = (ctypes.c_void_p * 1)()
        if not n_gpu_layers:  # else a GPU would compute long prompts all the same, in memory that nobody reckoned
            params.devices = ctypes.cast(no_device, ctypes.c_void_p)
        if split:
            shares = (ctypes.c_float * lib.llama_max_devices())(*split)
            params.tensor_split = shares
        abi.forget_failed_allocations()
        self.handle = lib.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            is_full = abi.has_failed_to_allocate()
            raise StartError(FailureCode.OUT_OF_MEMORY if is_full else FailureCode.MODEL_INVALID)
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        if self.n_vocab <= 0:
            raise StartError(FailureCode.MODEL_UNSUPPORTED)
        self.n_embd_in: int = lib.llama_model_n_embd_inp(self.handle)
        """Width of an embedding that stands for a token."""
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self.handle)
        self.cuts = Cuts(
            window=max(0, lib.llama_model_n_swa(self.handle)),
            is_recurrent=lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle),
        )
        """Where a sequence's memory can be shortened or copied."""
        eos = lib.llama_vocab_eos(self.vocab)
        self.end_token: int = eos if eos >= 0 else lib.llama_vocab_eot(self.vocab)
        """One that ends generation; -1 when there is none."""
        self.controls = self._read_controls()
        self._has_word_pieces = lib.llama_vocab_type(self.vocab) == lib.LLAMA_VOCAB_TYPE_WPM
        self._written: dict[int, bytes] = {}

    def metadata(self, key: str) -> str | None:
        """A metadata value as text; None when absent."""
        size = self.lib.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if not 0 <= size <= MAX_VALUE_BYTES:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self.lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def sampling_default(self, name: str) -> float:
        """The model's own default of a sampling parameter, else llama.cpp's."""
        try:
            value = float(self.metadata(f"general.sampling.{name}") or "nan")
        except ValueError:
            value = math.nan
        return value if math.isfinite(value) else SAMPLING_DEFAULTS[name]

    def template(self) -> str:
        """The chat template; empty when the file has none."""
        text = self.lib.llama_model_chat_template(self.handle, None)
        return text.decode("utf-8", "replace") if text else ""

    def rerank_template(self) -> str:
        """How it wants a query and a document, with ``{query}`` and ``{document}``; empty when it does not say."""
        text = self.lib.llama_model_chat_template(self.handle, b"rerank")
        return text.decode("utf-8", "replace") if text else ""

    def kv_bytes_per_token(self) -> int:
        """KV memory of one cell at f16, an upper estimate for architectures with smaller heads."""
        n_head = max(1, self.lib.llama_model_n_head(self.handle))
        n_kv = self.lib.llama_model_n_head_kv(self.handle) or n_head
        width = self.lib.llama_model_n_embd(self.handle) // n_head * n_kv
        return int(self.lib.llama_model_n_layer(self.handle) * width * 2 * 2)

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Text to token ids. May be called from any thread."""
        if len(text) > MAX_SHALLOW_BYTES:
            return deep(lambda: self._tokenize(text, add_special, parse_special), len(text))
        return self._tokenize(text, add_special, parse_special)

    def tokenize_prompt(self, prompt: str, fence: Fence, *, add_special: bool) -> list[int]:
        """What a template made of fenced text, to token ids. May be called from any thread."""
        if not fence.is_used:
            return self.tokenize(prompt.encode("utf-8", "replace"), add_special=add_special)
        tokens = self.added("bos") if add_special else []
        for piece in fence.segments(prompt):
            text = piece.text.encode("utf-8", "replace")
            goes_on = piece.goes_on and self.lib.llama_vocab_type(self.vocab) == self.lib.LLAMA_VOCAB_TYPE_SPM
            if goes_on:
                tokens += self._continued(text)
            else:
                tokens += self.tokenize(text, add_special=False, parse_special=not piece.is_plain)
        return tokens + (self.added("eos") if add_special else [])

    def added(self, name: str) -> list[int]:
        """The token that goes before every text (``bos``) or after it (``eos``), where there is one."""
        wants = getattr(self.lib, f"llama_vocab_get_add_{name}")(self.vocab)
        return [int(getattr(self.lib, f"llama_vocab_{name}")(self.vocab))] if wants else []

    def _continued(self, text: bytes) -> list[int]:
        """Without the space that these vocabularies put before each text: behind a line break there is none."""
        lead = self.tokenize(b"\n", add_special=False)
        tokens = self.tokenize(b"\n" + text, add_special=False, parse_special=False)
        return tokens[len(lead) :]

    def _read_controls(self) -> Controls:
        lib = self.lib
        always = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        found: list[Control] = []
        for token in range(self.n_vocab):
            attributes = lib.llama_vocab_get_attr(self.vocab, token)
            if not attributes & (always | lib.LLAMA_TOKEN_ATTR_USER_DEFINED):
                continue
            text = lib.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace")
            is_stubborn = not attributes & always
            if not is_stubborn or is_structure(text):
                left, right = attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP, attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP
                found.append(Control(text, is_stubborn, bool(left), bool(right)))
        return Controls(found, self.template())

    def _tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        size = len(text) + 8
        buffer = (ctypes.c_int32 * size)()
        n_tokens = self.lib.llama_tokenize(self.vocab, text, len(text), buffer, size, add_special, parse_special)
        if n_tokens < 0:
            size = -n_tokens
            buffer = (ctypes.c_int32 * size)()
            n_tokens = self.lib.llama_tokenize(self.vocab, text, len(text), buffer, size, add_special, parse_special)
        return buffer[:n_tokens]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Token ids to text, special tokens written out."""
        n_tokens = len(tokens)
        ids = (ctypes.c_int32 * n_tokens)(*tokens)
        size = 16 * n_tokens + 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n_bytes = self.lib.llama_detokenize(self.vocab, ids, n_tokens, buffer, size, False, True)
            if n_bytes >= 0:
                text = buffer.raw[:n_bytes]
                return text.removeprefix(b" ") if self._has_word_pieces else text  # each word there has its space
            size = -n_bytes

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token. May be called from any thread."""
        buffer = ctypes.create_string_buffer(MAX_PIECE_BYTES)
        size = self.lib.llama_token_to_piece(self.vocab, token, buffer, MAX_PIECE_BYTES, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self.lib.llama_token_to_piece(self.vocab, token, buffer, -size, 0, special)
        return buffer.raw[:size]

    def written(self, token: int) -> bytes:
        """The bytes of one token, those of a control token too; looked up once each."""
        piece = self._written.get(token)
        if piece is None:
            piece = self._written[token] = self.piece(token, special=True)
        return piece

    def is_end(self, token: int) -> bool:
        """Whether a token ends generation."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def special_text(self, token: int) -> str:
        """A special token as templates write it; empty for none (-1)."""
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def close(self) -> None:
        """Free the weights."""
        if self.handle:
            self.lib.llama_model_free(self.handle)
            self.handle = None


class Context:
    """The computation state of all slots: one unified KV memory."""

    def __init__(self, model: Model, options: EngineOptions, n_threads: int, kv_budget_bytes: int) -> None:
        """Allocate it.

        Raises:
            StartError: Not enough memory.
        """
        self._lib = model.lib
        self.n_slots = min(options.n_slots or options.most_slots or DEFAULT_SLOTS, MAX_SLOTS)
        wanted = options.n_ctx or min(model.n_ctx_train, DEFAULT_MAX_CTX)
        affordable = kv_budget_bytes // max(1, model.kv_bytes_per_token())
        self.n_ctx = min(wanted, max(MIN_CTX, affordable)) if not options.n_ctx else wanted
        self.n_cells = options.n_cells or max(self.n_ctx, min(self.n_ctx * self.n_slots, affordable))
        params = self._lib.llama_context_default_params()
        params.n_ctx = self.n_cells + SCRATCH_CELLS
        params.n_batch = N_BATCH
        params.n_ubatch = STEP_ROWS
        params.n_seq_max = self.n_slots + 1
        params.n_threads = n_threads
        params.n_threads_batch = n_threads
        params.kv_unified = True  # split, attention costs 4 % less at 16 slots; but gaps between busy slots cost a pass
        params.swa_full = False  # a window keeps its window; `Cuts` says what that allows
        params.no_perf = True
        # a recurrent memory computes a batch in several parts, and each part would draw
        self.samples_in_graph = options.samples_in_graph and not model.cuts.is_recurrent
        placeholders = self._placeholders(params) if self.samples_in_graph else []
        self.handle = self._lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise StartError(FailureCode.OUT_OF_MEMORY)
        for sequence, chain in enumerate(placeholders):
            self._lib.llama_set_sampler(self.handle, sequence, None)
            self._lib.llama_sampler_free(chain)
        self.memory = self._lib.llama_get_memory(self.handle)

    def _placeholders(self, params: Any) -> list[Any]:
        """A chain for each slot: a context made without any has no place for what the graph samples."""
        lib = self._lib
        chains = []
        configs = (lib.llama_sampler_seq_config * self.n_slots)()
        for sequence, config in enumerate(configs):
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
            config.seq_id, config.sampler = sequence, ctypes.cast(chain, ctypes.c_void_p)
            chains.append(chain)
        params.samplers, params.n_samplers = configs, self.n_slots
        # more than one: then a draw counts only once its token was accepted, not in every step beside others
        params.n_outputs_max_per_seq = 2
        self._configs = configs
        return chains

    def close(self) -> None:
        """Free it."""
        if self.handle:
            self._lib.llama_free(self.handle)
            self.handle = None
