"""Rows of a decode: somebody's tokens, gone once they are computed."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from mcd.engine.batch import Batch


@pytest.fixture
def batch() -> Batch:
    lib = SimpleNamespace(
        llama_batch=SimpleNamespace,
        llama_token=ctypes.c_int32,
        llama_pos=ctypes.c_int32,
        llama_seq_id=ctypes.c_int32,
    )
    return Batch(lib, 8, 2)


def test_cleared_rows_are_overwritten(batch: Batch) -> None:
    batch.add([7, 8, 9], 0, 1, wants_output=True)
    batch.add_one(5, 3, 0)
    seen = batch._struct.token
    assert seen[:4] == [7, 8, 9, 5]
    batch.clear()
    assert batch.n_rows == 0
    assert seen[:8] == [0] * 8


def test_a_single_row_lies_where_the_rows_of_a_run_lie(batch: Batch) -> None:
    batch.add([7], 3, 1, wants_output=True)
    batch.add_one(7, 3, 1)
    rows = batch._struct
    assert rows.token[0] == rows.token[1]
    assert rows.pos[0] == rows.pos[1]
    assert rows.logits[0] == rows.logits[1]
    assert ctypes.addressof(rows.seq_id[0].contents) == ctypes.addressof(rows.seq_id[1].contents)
