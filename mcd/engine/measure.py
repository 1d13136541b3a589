"""What this machine gives: compute threads, KV memory, and the model's speeds, tried for half a second.

More threads than free cores is the one thing to avoid: they wait for one another by spinning, and the engine becomes
ten times slower than with one. How many cores are free no file says, so a few numbers of threads are tried, and again
when steps have become twice as slow.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mcd.engine.backend import StartError
from mcd.engine.batch import Batch
from mcd.engine.messages import FailureCode
from mcd.engine.model import Context, Model
from mcd.engine.sampler import row_of_logits

PREFILL_TOKENS = 128
SPEED_S = 0.2
"""Time to measure decoding; a slow model takes one step however long that is."""
TRIAL_S = 0.04
"""Decoding with one number of threads: at least two steps, and as many as fit."""
TRIAL_ROWS = 32
"""Rows of a prefill with one number of threads."""
HOPELESS = 3.0
"""A number of threads whose first step takes so many times the best's is given up: on cores that others use two threads
were seen to take 300 times as long as one."""
MARGIN = 0.95
"""More threads, or padding, must take at most this share of the time to be worth it."""
MAX_PADDING_STEP_S = 0.2
"""A model that takes longer for one token is not made to try padding: it would start seconds later."""
N_PADDED_ROWS = 7
KV_SHARE = 0.25
"""Of the memory of the machine, what KV caches may take: weights and other programs need the rest."""
MIN_KV_BYTES = 64 * 1024 * 1024


class Threads(msgspec.Struct, frozen=True):
    """How many compute."""

    decode: int
    prefill: int
    why: str
    """For the operator."""


class Tuned(msgspec.Struct, frozen=True):
    """The model's speeds here."""

    prefill_tokens_per_s: float
    output_tokens_per_s: float
    """Of one stream."""
    pays_padding: bool
    """Batches are faster when filled up to what kernels take at once."""


def thread_choices(wanted: int) -> tuple[int, ...]:
    """Numbers of threads to try, ascending: one, half of the physical cores we may use, and all but one of them."""
    if wanted > 0:
        return (wanted,)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    n_cores = min(len(_physical(allowed)) or len(allowed), _quota() or len(allowed))
    return tuple(sorted({1, max(1, n_cores // 2), max(1, n_cores - 1)}))


def compute_threads(wanted: int) -> int:
    """The most of them, for what is not tried out."""
    return thread_choices(wanted)[-1]


def slots_for(output_tokens_per_s: float, n_most: int) -> int:
    """Streams at once that each get a token a second, were they computed one after another; two are always taken."""
    return max(min(2, n_most), min(n_most, int(output_tokens_per_s)))


def kv_budget_bytes() -> int:
    """Memory the KV caches may take."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 0
    return max(MIN_KV_BYTES, int(total * KV_SHARE))


def checkpoint_budget_bytes(wanted: int) -> int:
    """Memory that copies of states and windows may take.

    At most half of what our limit on allocations (`load.limit_memory`) leaves once everything is loaded.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY:
        return wanted
    return max(0, min(wanted, (most - _data_bytes()) // 2))


def _data_bytes() -> int:
    """What counts against the limit now; as much as could be where the kernel does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 1 << 60
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 1 << 60)


class Trials:
    """Computes on the scratch sequence, so that requests may be under way. Owner: LlamaBackend."""

    def __init__(self, model: Model, context: Context) -> None:
        self._model = model
        self._context = context
        self._batch = Batch(model.lib, PREFILL_TOKENS, context.n_slots + 1)

    def choose_threads(self, choices: Sequence[int]) -> Threads:
        """Try each number of threads, set the fastest, fewer in doubt.

        Raises:
            StartError: The model does not compute.
        """
        if len(choices) == 1:
            chosen = Threads(choices[0], choices[0], f"threads {choices[0]}, nothing else to try")
        else:
            self._set(choices[0], choices[0])
            self._prefill(TRIAL_ROWS)
            decode_s: list[float] = []
            prefill_s: list[float] = []
            for n_threads in choices:
                step_s, prompt_s = self._trial(n_threads, min(decode_s, default=math.inf))
                decode_s.append(step_s)
                prefill_s.append(prompt_s)
            self._batch.clear_scratch(self._context.handle)
            tried = ", ".join(f"{n} {1 / s:.0f}/s" for n, s in zip(choices, decode_s, strict=True))
            chosen = Threads(_fewest(choices, decode_s), _fewest(choices, prefill_s), f"threads tried: {tried}")
        self._set(chosen.decode, chosen.prefill)
        return chosen

    def speeds(self) -> Tuned:
        """Measure.

        Raises:
            StartError: The model computes no numbers: sampling from NaN would end the process later.
        """
        n_prompt = max(1, min(PREFILL_TOKENS, self._context.n_ctx // 4))
        self._prefill(n_prompt)  # the first run allocates and touches the weights
        prefill_s = self._prefill(n_prompt)
        logits = row_of_logits(self._model.lib, self._context.handle, n_prompt - 1, self._model.n_vocab)
        if not np.isfinite(logits).all():
            raise StartError(FailureCode.COMPUTE)
        output_s = self._decode(n_prompt, SPEED_S)
        pays_padding = self._pays_padding(output_s) if not self._model.cuts.is_recurrent else False
        self._batch.clear_scratch(self._context.handle)
        return Tuned(n_prompt / max(prefill_s, 1e-6), 1 / max(output_s, 1e-6), pays_padding)

    def _trial(self, n_threads: int, best_s: float) -> tuple[float, float]:
        """(seconds of a decode, of a prefill); a hopeless number gets one decode, for streams may be waiting."""
        self._set(n_threads, n_threads)
        step_s = self._decode(TRIAL_ROWS, 0.0)
        if step_s > HOPELESS * best_s:
            return step_s, math.inf
        step_s = min(step_s, self._decode(TRIAL_ROWS, TRIAL_S), self._decode(TRIAL_ROWS, TRIAL_S))
        return step_s, min(self._prefill(TRIAL_ROWS), self._prefill(TRIAL_ROWS))

    def _pays_padding(self, output_s: float) -> bool:
        if output_s > MAX_PADDING_STEP_S:
            return False
        odd_s, even_s = (min(self._rows(n) for _ in range(2)) for n in (N_PADDED_ROWS, N_PADDED_ROWS + 1))
        return even_s < MARGIN * odd_s

    def _set(self, decode: int, prefill: int) -> None:
        self._model.lib.llama_set_n_threads(self._context.handle, decode, prefill)

    def _prefill(self, n_rows: int) -> float:
        """Seconds of a prompt; stays on the scratch sequence."""
        self._batch.clear_scratch(self._context.handle)
        self._batch.clear()
        prompt = [(7 * i + 3) % self._model.n_vocab for i in range(n_rows)]
        self._batch.add(prompt, 0, self._batch.scratch, wants_output=True)
        return self._timed()

    def _decode(self, n_before: int, most_s: float) -> float:
        """Seconds of a step after so many tokens; takes back what it adds."""
        began, n_steps = time.perf_counter(), 0
        while n_steps < n_before and (n_steps == 0 or time.perf_counter() - began < most_s):
            self._batch.clear()
            self._batch.add_one(3, n_before + n_steps, self._batch.scratch)
            self._timed()
            n_steps += 1
        spent_s = time.perf_counter() - began
        lib = self._model.lib
        if not lib.llama_memory_seq_rm(self._context.memory, self._batch.scratch, n_before, -1):
            self._prefill(n_before)
        return spent_s / n_steps

    def _rows(self, n_rows: int) -> float:
        """Seconds of a step with so many rows, each with an output."""
        self._batch.clear_scratch(self._context.handle)
        self._batch.clear()
        for pos in range(n_rows):
            self._batch.add_one(3, pos, self._batch.scratch)
        return self._timed()

    def _timed(self) -> float:
        began = time.perf_counter()
        if self._batch.decode(self._context.handle) != 0:
            raise StartError(FailureCode.COMPUTE)
        self._model.lib.llama_synchronize(self._context.handle)
        return time.perf_counter() - began


def _fewest(choices: Sequence[int], times_s: Sequence[float]) -> int:
    """The first choice that no later one clearly beats."""
    best = 0
    for index in range(1, len(choices)):
        if times_s[index] < MARGIN * times_s[best]:
            best = index
    return choices[best]


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
