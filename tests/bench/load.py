"""A load generator for OpenAI-style endpoints: closed loop, counts chunks, keeps arrival times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

from aiohttp import ClientSession, ClientTimeout, TCPConnector

TIMEOUT = ClientTimeout(total=120)


class Result:
    """What one load run saw."""

    def __init__(self) -> None:
        self.n_requests = 0
        self.n_failed = 0
        self.n_cut = 0
        """Streams that ended without [DONE]."""
        self.n_events = 0
        self.ttfts_s: list[float] = []
        self.gaps_s: list[float] = []
        self.wall_s = 0.0


async def _one(session: ClientSession, url: str, body: bytes, result: Result) -> None:
    began = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    async with session.post(url, data=body, headers=headers) as response:
        result.n_requests += 1
        if response.status != 200:
            result.n_failed += 1
            await response.read()
            return
        if b'"stream": true' not in body:
            await response.read()
            result.ttfts_s.append(time.perf_counter() - began)
            return
        is_done, last = False, 0.0
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                is_done = True
                continue
            if b'"content":""' in line or b'"content": ""' in line or b'"delta":{}' in line:
                continue
            now = time.perf_counter()
            result.n_events += 1
            if last:
                result.gaps_s.append(now - last)
            else:
                result.ttfts_s.append(now - began)
            last = now
        result.n_cut += not is_done


async def _run(url: str, bodies: Sequence[bytes], n_at_once: int, result: Result) -> None:
    queue = list(reversed(bodies))

    async def worker(session: ClientSession) -> None:
        while queue:
            await _one(session, url, queue.pop(), result)

    async with ClientSession(connector=TCPConnector(limit=0), timeout=TIMEOUT) as session:
        began = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(n_at_once)))
        result.wall_s = time.perf_counter() - began


def body(model: str, content: str, *, stream: bool, **parameters: float) -> bytes:
    """A chat request."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, "stream": stream, **parameters}).encode()


def run(base_url: str, bodies: Sequence[bytes], n_at_once: int) -> Result:
    """Send all bodies, ``n_at_once`` in flight, and wait for every answer."""
    result = Result()
    asyncio.run(_run(f"{base_url}/chat/completions", bodies, n_at_once, result))
    return result


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value below which ``fraction`` of ``values`` lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0.0
