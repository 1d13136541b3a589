"""The arrays behind llama_batch: allocated once, filled by slices, never one ctypes struct a token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
_ABORT = _CALLBACK(lambda _: True)
_NEVER = _CALLBACK()

MAX_PADDED = 64
"""Padding cells before they are given back: attention looks at them, giving back looks at every cell."""
ROW_STEP = 4
"""llama.cpp's fast kernels for quantised weights take this many rows at once; the rest go one by one, at three times
the price. Measured: 15 rows 195 ms, 16 rows 155 ms; 7 rows 116, 8 rows 98; 3 and 4 rows the same."""
WIDE_STEP = 16
"""And a few take this many: 13 rows cost more than 16."""


def n_padding(n_rows: int) -> int:
    """Rows to add so that the batch is computed faster."""
    to_wide, to_step = -n_rows % WIDE_STEP, -n_rows % ROW_STEP
    if to_wide < ROW_STEP:
        return to_wide
    return to_step if n_rows > ROW_STEP and to_step <= ROW_STEP // 2 else 0


class Batch:
    """Rows for one llama_decode. Owner: Scheduler.

    The last sequence is the scratch sequence: it belongs to no request, and serves what must be computed without one.
    """

    def __init__(self, lib: Any, n_rows: int, n_sequences: int) -> None:
        self._lib = lib
        self.scratch = n_sequences - 1
        self._n_padded = 0
        """Tokens on the scratch sequence."""
        self.n_rows = 0
        self._n_most = 0
        """Rows of the largest batch since the last `scrub`."""
        self._token = np.zeros(n_rows, np.int32)
        self._pos = np.zeros(n_rows, np.int32)
        self._n_seq = np.ones(n_rows, np.int32)
        self._seq = np.zeros(n_rows, np.uintp)
        self._output = np.zeros(n_rows, np.int8)
        # the same for `add_one`: one number costs numpy two to four times as much as it costs these
        self._one_token, self._one_pos = self._token.data, self._pos.data
        self._zeros = np.zeros(n_rows, np.int32).data
        self._one_seq, self._one_output = self._seq.data, self._output.data
        self._ids = np.arange(n_sequences, dtype=np.int32)
        base = self._ids.ctypes.data
        self._id_address = [base + 4 * index for index in range(n_sequences)]
        self._struct = lib.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(lib.llama_token)),
            embd=None,
            pos=self._pos.ctypes.data_as(ctypes.POINTER(lib.llama_pos)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._seq.ctypes.data, ctypes.POINTER(ctypes.POINTER(lib.llama_seq_id))),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def clear(self) -> None:
        """Start over; the tokens are overwritten, for they are somebody's prompt."""
        self._one_token[: self.n_rows] = self._zeros[: self.n_rows]
        self.n_rows = 0

    def add(self, tokens: Sequence[int], pos: int, sequence: int, *, wants_output: bool) -> int:
        """Add a run of one sequence's tokens; return the row of the last, the only one that may have an output."""
        start, end = self.n_rows, self.n_rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = np.arange(pos, pos + len(tokens), dtype=np.int32)
        self._seq[start:end] = self._id_address[sequence]
        self._output[start:end] = 0
        self._output[end - 1] = wants_output
        self.n_rows = end
        return end - 1

    def add_one(self, token: int, pos: int, sequence: int) -> int:
        """Add a sequence's next token, with an output: the decode path, so without slices."""
        row = self.n_rows
        self._one_token[row] = token
        self._one_pos[row] = pos
        self._one_seq[row] = self._id_address[sequence]
        self._one_output[row] = 1
        self.n_rows = row + 1
        return row

    def decode(self, context: Any) -> int:
        """Compute; 0 is success, 1 no room in the KV memory, anything else a failure."""
        self._struct.n_tokens = self.n_rows
        self._n_most = max(self._n_most, self.n_rows)
        return int(self._lib.llama_decode(context, self._struct))

    def pad(self, context: Any, n_rows: int) -> None:
        """Add rows that nobody reads; after all others, whose row numbers count."""
        if self._n_padded + n_rows > MAX_PADDED:
            self.clear_scratch(context)
        for _ in range(n_rows):
            self.add_one(0, self._n_padded, self.scratch)
            self._n_padded += 1

    def scrub_embeddings(self, context: Any, n_rows: int, width: int) -> None:
        """The same as `scrub` for the embeddings of pictures."""
        self.clear_scratch(context)
        rows = np.zeros((n_rows, width), np.float32)
        pos = np.zeros(4 * n_rows, np.int32)  # models that count rows and columns take four a row
        pos[:n_rows] = np.arange(n_rows, dtype=np.int32)
        self.clear()
        self.add([0] * n_rows, 0, self.scratch, wants_output=True)
        batch = self._lib.llama_batch(
            n_tokens=n_rows,
            token=None,
            embd=rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=pos.ctypes.data_as(ctypes.POINTER(self._lib.llama_pos)),
            n_seq_id=self._struct.n_seq_id,
            seq_id=self._struct.seq_id,
            logits=self._struct.logits,
        )
        self._lib.llama_set_abort_callback(context, _ABORT, None)
        self._lib.llama_decode(context, batch)
        self._lib.llama_set_abort_callback(context, _NEVER, None)
        self.clear_scratch(context)
        self.clear()

    def scrub(self, context: Any, sequence: int, longest: int = 0) -> None:
        """Overwrite the token ids that earlier batches left in llama.cpp's own buffers.

        A batch of zeros, as large as the largest of them, on a sequence nobody uses; where a sequence may hold only
        ``longest`` tokens, on as many as it takes. Then one of another size: a batch of the last one's shape reuses its
        graph, which keeps the tokens that it was built for.
        """
        if self._n_most:
            for n_rows in (self._n_most, 2 if self._n_most == 1 else 1):
                self._break_off(context, sequence, n_rows, longest or n_rows)
            self._n_most = 0

    def _break_off(self, context: Any, sequence: int, n_rows: int, run: int) -> None:
        """Decode zeros until llama.cpp has copied its tokens to where it copies all tokens, and compute nothing."""
        self.clear()
        self.clear_scratch(context)
        sequences = range(sequence, sequence - (-n_rows // run))
        for each, at in zip(sequences, range(0, n_rows, run), strict=True):
            self.add([0] * min(run, n_rows - at), 0, each, wants_output=True)
        self._lib.llama_set_abort_callback(context, _ABORT, None)
        self.decode(context)
        self._lib.llama_set_abort_callback(context, _NEVER, None)
        for each in sequences:
            self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(context), each, -1, -1)
        self.clear()

    def clear_scratch(self, context: Any) -> None:
        """Empty the scratch sequence."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(context), self.scratch, -1, -1)
        self._n_padded = 0
