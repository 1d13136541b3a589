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
