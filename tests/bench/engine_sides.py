"""The two sides of `bench-engine` behind one interface: our supervised engine, and llama.cpp's own server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

import psutil
import trio

from mcd.engine.catalogue import EngineSpec
from mcd.engine.messages import EngineOptions
from mcd.ports import EngineStarted
from tests.fakes.engine_entry import Answer, EntrySide, chat, running

N_SLOTS, N_CTX = 16, 640
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
NEVER = -100.0
"""Bias of the end tokens: both sides generate exactly the tokens asked for."""
OPTIONS = EngineOptions(n_threads=1, n_slots=N_SLOTS, n_ctx=N_CTX)
_N_TOKENS = re.compile(rb'"completion_tokens":(\d+),"prompt_tokens":(\d+)')
_FIRST = re.compile(rb'"content":"[^"]')


def process_cpu_s(pid: int) -> float:
    """CPU time of another process: to the nanosecond where its clock can be read (Linux), else as psutil knows it."""
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | 2)
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


class Sample:
    """One answered request."""

    __slots__ = ("n_prompt_tokens", "n_tokens", "ttft_s")

    def __init__(self, n_prompt_tokens: int, n_tokens: int, ttft_s: float) -> None:
        self.n_prompt_tokens = n_prompt_tokens
        self.n_tokens = n_tokens
        self.ttft_s = ttft_s


class Side(Protocol):
    """Answers chat requests."""

    name: str

    async def ask(self, prompt: str, n_tokens: int, salt: str = "") -> Sample:
        """Stream one answer of exactly ``n_tokens``; ``salt`` allows the reuse of earlier prompts."""
        ...

    def cpu_s(self) -> float:
        """CPU time the serving process has used."""
        ...


class Ours:
    """EngineProcess: sealed request in, sealed frames out and opened."""

    name = "mcd"

    def __init__(self, side: EntrySide, ends: tuple[int, ...]) -> None:
        self._side = side
        self._bias = tuple((str(token), NEVER) for token in ends)
        pid = side.engine.pid
        assert pid is not None
        self._pid = pid

    async def ask(self, prompt: str, n_tokens: int, salt: str = "") -> Sample:
        request = chat(prompt, max_tokens=n_tokens, logit_bias=self._bias, **SAMPLING)
        began = time.perf_counter()
        sealed, opener = self._side.seal(request, salt=salt)
        answer, ttft_s = Answer(), 0.0
        async with self._side.engine.submit(sealed) as events:
            async for event in events:
                self._side.take(answer, opener, event)
                if not ttft_s and not isinstance(event, EngineStarted):
                    ttft_s = time.perf_counter() - began
        return Sample(answer.n_prompt_tokens, answer.n_clear_tokens, ttft_s)

    def cpu_s(self) -> float:
        return process_cpu_s(self._pid)


class Server:
    """llama-server over HTTP on loopback: a raw client that only counts, so that it costs little."""

    name = "llama-server"

    def __init__(self, process: subprocess.Popen[str], ends: tuple[int, ...]) -> None:
        assert process.stdout is not None
        self._address = urlsplit(process.stdout.readline().strip())
        self._bias = {str(token): NEVER for token in ends}
        self._pid = process.pid

    async def ask(self, prompt: str, n_tokens: int, salt: str = "") -> Sample:
        body = json.dumps(
            {"messages": [{"role": "user", "content": prompt}], "max_tokens": n_tokens, "stream": True}
            | {"stream_options": {"include_usage": True}, "logit_bias": self._bias, "cache_prompt": True}
            | SAMPLING
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._address.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        received, ttft_s = bytearray(), 0.0
        began = time.perf_counter()
        async with await trio.open_tcp_stream(self._address.hostname or "", self._address.port or 0) as stream:
            await stream.send_all(head.encode() + body)
            async for data in stream:
                received += data
                if not ttft_s and _FIRST.search(received):
                    ttft_s = time.perf_counter() - began
                if b"data: [DONE]" in data[-64:]:
                    break
        found = _N_TOKENS.search(received, max(0, len(received) - 1024))
        if found is None:
            raise RuntimeError(f"llama-server broke off: {bytes(received[:200])!r}")
        return Sample(int(found[2]), int(found[1]), ttft_s)

    def cpu_s(self) -> float:
        return process_cpu_s(self._pid)


@asynccontextmanager
async def both(path: str, ends: tuple[int, ...]) -> AsyncIterator[tuple[Ours, Server]]:
    """Start both on one model file; stop both."""
    command = [sys.executable, "-m", "tests.bench.llama_server", path, str(N_SLOTS), str(N_CTX)]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True)  # noqa: ASYNC220
    try:
        async with running(EngineSpec(alias="bench", backend="llama", source=path), OPTIONS) as side:
            if side.engine.status().state != "ready":
                raise RuntimeError(side.engine.status().detail)
            yield Ours(side, ends), await trio.to_thread.run_sync(Server, process, ends)
    finally:
        process.communicate()  # ends its standard input and waits
