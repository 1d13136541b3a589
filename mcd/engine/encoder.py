"""Texts to vectors through llama.cpp: sequences that share a batch, pooled by the library."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import numpy.typing as npt

from mcd.engine.backend import StartError
from mcd.engine.batch import Batch
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.model import Model
from mcd.engine.roles import Role

N_SEQUENCES = 64
"""Texts in one batch."""
CHUNK_ROWS = 256
"""Rows of a step where texts may be computed in chunks; each row costs a row of logits, which nobody reads."""
WHOLE_ROWS = 512
"""Rows of a step where texts must be whole; a longer text has a step to itself."""
DEFAULT_WHOLE_CTX = 2048
"""Longest text unless --ctx says more: attention needs memory for its square."""
DEFAULT_CHUNK_CTX = 8192
ACTIVATIONS = 20
"""Numbers of a row alive at once, in widths of the model."""
MIN_ROWS = 32
STEP_GOAL_S = 0.25
"""On a slow machine a step takes fewer rows, so that a cancel or another request waits about this long."""
WHOLE_STEP_S = 16.0
"""Longest step of one whole text: nobody else is served meanwhile, a cancel waits, and after `life.STUCK_S` of silence
the daemon takes the process for dead."""
MEASURED_ROWS = 128

Vector = npt.NDArray[np.float32]


class Item:
    """One text of one task."""

    __slots__ = ("index", "n_done", "sequence", "task_id", "tokens")

    def __init__(self, task_id: int, index: int, tokens: list[int]) -> None:
        self.task_id = task_id
        self.index = index
        self.tokens = tokens
        self.n_done = 0
        self.sequence = -1


class Encoder:
    """A context that pools. Owner: EmbedBackend."""

    def __init__(self, model: Model, role: Role, options: EngineOptions, n_threads: int, budget_bytes: int) -> None:
        """Allocate it.

        Raises:
            StartError: Not enough memory.
        """
        self._lib = lib = model.lib
        self._model = model
        self._role = role
        wanted = options.n_ctx or (DEFAULT_WHOLE_CTX if role.is_whole else DEFAULT_CHUNK_CTX)
        wanted = min(wanted, model.n_ctx_train)
        # what was reckoned for KV memory is an encoder's for longer texts
        spare_bytes = options.n_cells * model.kv_bytes_per_token() or budget_bytes
        per_token = _row_bytes(model, wanted) if role.is_whole else max(1, model.kv_bytes_per_token())
        self.n_ctx = max(1, min(wanted, WHOLE_ROWS + spare_bytes // per_token))
        n_rows = max(self.n_ctx, WHOLE_ROWS) if role.is_whole else CHUNK_ROWS
        params = lib.llama_context_default_params()
        params.n_ctx = max(n_rows, self.n_ctx)
        params.n_batch = params.n_ubatch = n_rows
        params.n_seq_max = N_SEQUENCES
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = role.pooling
        params.no_perf = True
        self._handle = lib.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise StartError(FailureCode.OUT_OF_MEMORY)
        self._memory = lib.llama_get_memory(self._handle)
        self._n_cells = int(lib.llama_n_ctx(self._handle))
        self._n_rows = n_rows
        self._goal_rows = WHOLE_ROWS if role.is_whole else CHUNK_ROWS
        self._batch = Batch(lib, n_rows, N_SEQUENCES)
        self._items: list[Item] = []
        self._free = list(range(N_SEQUENCES))

    def measure(self) -> float:
        """Tokens a second, tried twice; sets how many rows a step takes, and how many tokens a text may have.

        Raises:
            StartError: The model computes no numbers.
        """
        n_rows = min(MEASURED_ROWS, self.n_ctx)
        seconds = 0.0
        for attempt in range(2):  # the first run allocates and touches the weights
            assert self.add(Item(attempt, 0, [(7 * i + 3) % self._model.n_vocab for i in range(n_rows)]))
            began = time.perf_counter()
            while self.has_work():
                for _, vector in self.compute():
                    if vector is None or not np.isfinite(vector).all():
                        raise StartError(FailureCode.COMPUTE)
            seconds = time.perf_counter() - began
        speed = n_rows / max(seconds, 1e-6)
        self._goal_rows = max(MIN_ROWS, min(self._goal_rows, int(speed * STEP_GOAL_S)))
        if self._role.is_whole:
            self.n_ctx = min(self.n_ctx, max(MIN_ROWS, int(speed * WHOLE_STEP_S)))
        return speed

    def add(self, item: Item) -> bool:
        """Take a text into the next step; False when that is full."""
        if not self._free or not self._fits(len(item.tokens)):
            return False
        item.sequence = self._free.pop()
        self._items.append(item)
        return True

    def has_work(self) -> bool:
        """Whether a text is begun."""
        return bool(self._items)

    def compute(self) -> list[tuple[Item, Vector | None]]:
        """Compute a batch; return the texts that are complete, None for all that a failed batch held."""
        self._fill()
        if self._batch.decode(self._handle) != 0:
            broken: list[tuple[Item, Vector | None]] = [(item, None) for item in self._items]
            for item in list(self._items):
                self._leave(item)
            return broken
        done: list[tuple[Item, Vector | None]] = []
        for item in [item for item in self._items if item.n_done == len(item.tokens)]:
            done.append((item, self._pooled(item.sequence)))
            self._leave(item)
        return done

    def drop(self, task_id: int) -> None:
        """Forget every text of a task."""
        for item in [item for item in self._items if item.task_id == task_id]:
            self._leave(item)

    def scrub(self) -> None:
        """Overwrite the token ids of the texts that were computed; no text may be begun."""
        assert not self._items
        self._batch.scrub(self._handle, 0, self.n_ctx)

    def wipe(self) -> None:
        """Overwrite the KV memory, where there is one; no text may be begun."""
        if self._memory:
            self._lib.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free it."""
        if self._handle:
            self._lib.llama_free(self._handle)
            self._handle = None

    def _fits(self, n_tokens: int) -> bool:
        if self._memory and n_tokens + sum(len(item.tokens) for item in self._items) > self._n_cells:
            return False
        n_left = sum(len(item.tokens) - item.n_done for item in self._items)
        return n_left == 0 or (n_left + n_tokens if self._role.is_whole else n_left) <= self._goal_rows

    def _fill(self) -> None:
        """Rows of every begun text, in order of arrival, up to the step's size."""
        self._batch.clear()
        room = self._n_rows if self._role.is_whole else self._goal_rows
        for item in self._items:
            chunk = item.tokens[item.n_done : item.n_done + room]
            if not chunk:
                continue
            self._batch.add(chunk, item.n_done, item.sequence, wants_output=True)
            item.n_done += len(chunk)
            room -= len(chunk)

    def _pooled(self, sequence: int) -> Vector | None:
        pointer = self._lib.llama_get_embeddings_seq(self._handle, sequence)
        if not pointer:
            return None
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, (self._role.n_numbers,)).copy()

    def _leave(self, item: Item) -> None:
        self._items.remove(item)
        self._free.append(item.sequence)
        if self._memory:
            self._lib.llama_memory_seq_rm(self._memory, item.sequence, -1, -1)


def _row_bytes(model: Model, n_rows: int) -> int:
    """Of one row of a step: logits, which llama.cpp keeps even where no head computes them, activations and mask."""
    n_embd: int = model.lib.llama_model_n_embd(model.handle)
    return 4 * (model.n_vocab + ACTIVATIONS * n_embd) + 8 * n_rows
