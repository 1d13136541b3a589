"""llama.cpp's arrays of candidate tokens, as numpy sees them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
Floats = npt.NDArray[np.float32]


def every(logits: Floats) -> npt.NDArray[Any]:
    """The whole vocabulary."""
    found = np.zeros(len(logits), CANDIDATE)
    found["id"] = np.arange(len(logits), dtype=np.int32)
    found["logit"] = logits
    return found


def single(token: int) -> npt.NDArray[Any]:
    """One token, to ask a grammar about."""
    one = np.zeros(1, CANDIDATE)
    one["id"] = token
    return one


def array(lib: Any, candidates: npt.NDArray[Any]) -> Any:
    """A view of them for llama_sampler_apply, by reference; valid while they live."""
    pointer = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
