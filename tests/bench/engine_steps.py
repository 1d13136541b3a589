"""Where the CPU time of a token goes in the worker: llama_decode, sampling in C, everything of ours.

python -m tests.bench.engine_steps

The real loop with the real sealing, in this process: only the socket is cut off. The two calls into llama.cpp are
wrapped for the time of this benchmark; what the clock itself costs is taken off again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mcd.api.chat import encode_canonical
from mcd.engine import abi
from mcd.engine.catalogue import embedded_path
from mcd.engine.compiling import Compiling
from mcd.engine.link import LinkClosedError, WorkerLink
from mcd.engine.llama import LlamaBackend
from mcd.engine.messages import Chunk, Credit, Finished, Submit, ToDaemon, ToWorker
from mcd.engine.model import Model
from mcd.engine.prompts import Prompts
from mcd.engine.rendering import Rendering
from mcd.engine.seal import SealKeys
from mcd.engine.worker import Worker
from mcd.wire.codec import encode_body
from mcd.wire.envelope import Terms, seal_request
from mcd.wire.keyconfig import certify, choose_config, verify_key_config
from mcd.wire.payload import Body
from mcd.wire.signing import SigningKey
from tests.bench.engine_sides import N_SLOTS, NEVER, OPTIONS, SAMPLING
from tests.bench.engine_tables import spread, table
from tests.fakes.engine_entry import chat

N_TOKENS = 128
N_ROUNDS = 5
N_EDGE = 8
"""Tokens a stream left out at the start and the end: only the steady state counts."""
GOAL_US = 20
_DIGEST = bytes(32)


class Timed:
    """A function of llama.cpp and the thread's CPU time spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.n_calls = 0
        self.cpu_s = 0.0

    def __call__(self, *arguments: Any) -> Any:
        began = time.thread_time()
        result = self._function(*arguments)
        self.cpu_s += time.thread_time() - began
        self.n_calls += 1
        return result


class Mark:
    """All counters at the start of one turn of the loop."""

    def __init__(self, decode: Timed, sample: Timed) -> None:
        self.cpu_s = time.thread_time()
        self.decode_s, self.n_decodes = decode.cpu_s, decode.n_calls
        self.sample_s, self.n_tokens = sample.cpu_s, sample.n_calls


class BenchLink(WorkerLink):
    """Hands in all requests at once, takes and drops what is written, ends the loop with the last answer."""

    def __init__(self, fd: int, submits: list[ToWorker], mark: Callable[[], Mark]) -> None:
        super().__init__(fd)
        self._inbox = submits
        self._n_left = len(submits)
        self._mark = mark
        self.marks: list[Mark] = []

    def receive(self) -> list[ToWorker]:
        self.marks.append(self._mark())
        taken, self._inbox = self._inbox, []
        return taken

    def post(self, frame: ToDaemon, size_bytes: int = 64) -> None:
        self._n_left -= isinstance(frame, Finished)
        if isinstance(frame, Chunk):
            self._inbox.append(Credit(frame.id, 1))
        super().post(frame, size_bytes)

    def flush(self) -> None:
        self._close_batch()
        self._outbound.clear()
        if not self._n_left:
            raise LinkClosedError


def _keys() -> tuple[SealKeys, SigningKey]:
    peer = SigningKey(os.urandom(32))
    keys = SealKeys(peer.public_key, _DIGEST)
    keys.install_certificate(certify(keys.engine_public_key, _unix_ms(), peer))
    keys.rotate(_unix_ms())
    return keys, peer


def _submits(keys: SealKeys, peer: SigningKey, n_streams: int) -> list[ToWorker]:
    configs = [verify_key_config(c, keys.certificate, peer.public_key, _unix_ms()) for c in keys.configs()]
    submits: list[ToWorker] = []
    for i in range(n_streams):
        request = chat(f"question {i}: what is mcd?", max_tokens=N_TOKENS, logit_bias=_never_ends(), **SAMPLING)
        body = Body(kind="chat", request=msgspec.Raw(encode_canonical(request)))
        terms = Terms(os.urandom(16), _DIGEST, _unix_ms(), 60_000)
        header, sealed, _ = seal_request(encode_body(body), choose_config(configs), terms)
        submits.append(Submit(i + 1, header, sealed, 0, 0))
    return submits


def _never_ends() -> tuple[tuple[str, float], ...]:
    return (("1533", NEVER), ("1535", NEVER))  # the embedded model's end tokens


def _round(backend: LlamaBackend, n_streams: int, decode: Timed, sample: Timed) -> tuple[float, float, float, float]:
    """(total, decode, sampling, ours) in microseconds of CPU a token."""
    keys, peer = _keys()
    ours, theirs = socket.socketpair()
    theirs.send(b"0")  # never read: the loop finds its first requests without waiting
    decode.n_calls = sample.n_calls = 0
    decode.cpu_s = sample.cpu_s = 0.0
    link = BenchLink(ours.fileno(), _submits(keys, peer, n_streams), lambda: Mark(decode, sample))
    try:
        Worker(link, keys, backend).run()
    except LinkClosedError:
        pass
    finally:
        ours.close()
        theirs.close()
    first = next(m for m in link.marks if m.n_tokens >= N_EDGE * n_streams)
    last = next(m for m in link.marks if m.n_tokens >= (N_TOKENS - N_EDGE) * n_streams)
    n_tokens = last.n_tokens - first.n_tokens
    clock_s = _clock_cost_s() * (n_tokens + last.n_decodes - first.n_decodes)
    total_s = last.cpu_s - first.cpu_s - clock_s
    decode_s, sample_s = last.decode_s - first.decode_s, last.sample_s - first.sample_s
    scale = 1e6 / n_tokens
    return total_s * scale, decode_s * scale, sample_s * scale, (total_s - decode_s - sample_s) * scale


def _clock_cost_s() -> float:
    """CPU time of one empty `Timed` call."""
    n_calls = 10_000
    empty = Timed(_nothing)
    began = time.thread_time()
    for _ in range(n_calls):
        empty()
    return (time.thread_time() - began) / n_calls


def _nothing() -> None:
    return None


def _unix_ms() -> int:
    return int(time.time() * 1000)


def main(path: str) -> None:
    """Measure 1, 4 and 16 streams, print microseconds a token."""
    lib = abi.load_library()
    decode, sample = Timed(lib.llama_decode), Timed(lib.llama_sampler_sample)
    plain = lib.llama_decode, lib.llama_sampler_sample
    lib.llama_decode, lib.llama_sampler_sample = decode, sample
    rows = []
    try:
        model = Model(lib, path)
        backend = LlamaBackend(model, OPTIONS, Prompts(model, Rendering.start(), None, None), Compiling.start())
        for n_streams in (1, 4, N_SLOTS):
            found = [_round(backend, n_streams, decode, sample) for _ in range(N_ROUNDS)]
            rows.append((str(n_streams), *(spread(column, ".0f") for column in zip(*found, strict=True))))
        backend.close()
    finally:
        lib.llama_decode, lib.llama_sampler_sample = plain
    table(("streams", "total us/token", "llama_decode", "sampling in C", "ours"), rows)
    print(f"  goal: ours <= {GOAL_US} us/token at {N_SLOTS} streams")


if __name__ == "__main__":
    main(str(embedded_path()))
