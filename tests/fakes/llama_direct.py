"""llama.cpp asked directly, one text at a time: what an engine's results are compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcd.engine import abi


def on_processor(lib: Any, path: Path) -> Any:
    """Load a model as an engine without a GPU does, also where the build could use one: else digits differ."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    no_device = (ctypes.c_void_p * 1)()
    params.devices = ctypes.cast(no_device, ctypes.c_void_p)
    return lib.llama_model_load_from_file(str(path).encode(), params)


class Direct:
    """One model with one context. Owner: a test, which closes it."""

    def __init__(self, path: Path, pooling: int) -> None:
        self.lib = lib = abi.load_library()
        self._model = on_processor(lib, path)
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = 1
        params.embeddings = True
        params.pooling_type = pooling
        self._context = lib.llama_init_from_model(self._model, params)
        self.vocab = lib.llama_model_get_vocab(self._model)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        data = text.encode()
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), special, special)
        return buffer[:n]

    def pooled(self, tokens: Sequence[int], size: int) -> np.ndarray:
        """The raw output for one text."""
        batch: Any = self.lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        memory = self.lib.llama_get_memory(self._context)
        if memory:
            self.lib.llama_memory_clear(memory, True)
            assert self.lib.llama_decode(self._context, batch) == 0
        else:
            assert self.lib.llama_encode(self._context, batch) == 0
        pointer = ctypes.cast(self.lib.llama_get_embeddings_seq(self._context, 0), ctypes.POINTER(ctypes.c_float))
        result = np.ctypeslib.as_array(pointer, (size,)).copy()
        self.lib.llama_batch_free(batch)
        return result

    def close(self) -> None:
        self.lib.llama_free(self._context)
        self.lib.llama_model_free(self._model)
