"""llama.cpp's own server, the one to beat, as a child process: `python -m tests.bench.llama_server MODEL SLOTS CTX`.

Package xllamacpp holds llama-server's code. It prints its URL, then serves until its standard input ends.
"""

from __future__ import annotations

import sys

import xllamacpp


def parameters(model: str, n_slots: int, n_ctx: int) -> xllamacpp.CommonParams:
    """llama-server's defaults but for what both sides must share."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = n_slots
    params.n_ctx = n_slots * n_ctx
    params.kv_unified = True
    params.n_batch, params.n_ubatch = 2048, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0  # it would copy the memory of every finished request: time that gains nothing here
    params.fit_params = False
    params.ui = False
    params.verbosity = 0
    params.port = 0
    return params


def main() -> None:
    """Serve."""
    model, n_slots, n_ctx = sys.argv[1:]
    server = xllamacpp.Server(parameters(model, int(n_slots), int(n_ctx)))
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
