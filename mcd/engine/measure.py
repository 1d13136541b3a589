"""What this machine gives: compute threads, KV memory, and the model's speeds, tried for half a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from mcd.engine.backend import StartError
from mcd.engine.batch import Batch
from mcd.engine.messages import FailureCode
from mcd.engine.model import N_BATCH, Context, Model
from mcd.engine.sampler import row_of_logits

PREFILL_TOKENS = 128
WARM_UP_S = 0.2
"""Time for each of the two measurements; a slow model takes one step however long that is."""
KV_SHARE = 0.25
"""Of the memory of the machine, what KV caches may take: weights and other programs need the rest."""
MIN_KV_BYTES = 64 * 1024 * 1024


def compute_threads(wanted: int) -> int:
    """Physical cores we may use, less one for the daemon and the system; at least one.

    More threads than free cores is the one thing to avoid: they wait for one another by spinning, and the engine
    becomes ten times slower than with one.
    """
    if wanted > 0:
        return wanted
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = min(len(_physical(allowed)) or len(allowed), _quota() or len(allowed))
    return max(1, cores - 1)


def kv_budget_bytes() -> int:
    """Memory the KV caches may take."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 0
    return max(MIN_KV_BYTES, int(total * KV_SHARE))


def speeds(model: Model, context: Context) -> tuple[float, float]:
    """(prefill tokens/s, output tokens/s of one stream); leaves the memory empty.

    Raises:
        StartError: The model computes no numbers: sampling from NaN would end the process later.
    """
    lib = model.lib
    batch = Batch(lib, N_BATCH, 1)
    n_prompt = max(1, min(PREFILL_TOKENS, context.n_ctx // 4))
    prompt = [(7 * i + 3) % model.n_vocab for i in range(n_prompt)]
    _compute(batch, context, prompt, 0)  # the first run allocates and touches the weights
    lib.llama_memory_clear(context.memory, True)
    began = time.perf_counter()
    _compute(batch, context, prompt, 0)
    prefill_s = time.perf_counter() - began
    if not np.isfinite(row_of_logits(lib, context.handle, n_prompt - 1, model.n_vocab)).all():
        raise StartError(FailureCode.COMPUTE)
    began = time.perf_counter()
    n_done = 0
    while n_done < n_prompt and (n_done == 0 or time.perf_counter() - began < WARM_UP_S):
        _compute(batch, context, prompt[n_done : n_done + 1], n_prompt + n_done)
        n_done += 1
    output_s = time.perf_counter() - began
    lib.llama_memory_clear(context.memory, True)
    return n_prompt / max(prefill_s, 1e-6), n_done / max(output_s, 1e-6)


def _compute(batch: Batch, context: Context, tokens: list[int], pos: int) -> None:
    batch.clear()
    batch.add(tokens, pos, 0, wants_output=True)
    if batch.decode(context.handle) != 0:
        raise StartError(FailureCode.COMPUTE)


def _physical(allowed: set[int]) -> set[tuple[str, str]]:
    """(package, core) of each allowed processor; empty where the kernel does not say."""
    cores: set[tuple[str, str]] = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            package = (topology / "physical_package_id").read_text().strip()
            core = (topology / "core_id").read_text().strip()
        except OSError:
            return set()
        cores.add((package, core))
    return cores


def _quota() -> int:
    """Processors the control group grants, 0 for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else max(1, int(quota) // max(1, int(period)))
