"""1,000 random requests at real workers: cancels, kills, oversize prompts, bad schemas, slow readers, bad envelopes.

Every request ends exactly once, and afterwards nothing is left: no request in the daemon, no busy slot, no reserved
cell, no queue.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from mcd.api.request import ChatRequest, ResponseFormat
from mcd.engine import supervise
from mcd.engine.catalogue import resolve
from mcd.engine.messages import EngineOptions
from mcd.errors import EngineDeadError, EngineError, EnvelopeError, RefusedError
from mcd.ports import EngineRequest
from mcd.wire.messages import RefuseReason
from tests.fakes.engine_entry import Answer, EntrySide, chat, running

HELLO = Path(__file__).parents[1] / "fakes" / "scripted" / "hello.json"
N_REQUESTS = 500
"""Each of two backends."""
N_KILLS = 4
AT_ONCE = 20
N_CTX, N_SLOTS = 192, 4
GOOD = msgspec.Raw(
    b'{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"],"additionalProperties":false}'
)
BAD = msgspec.Raw(
    b'{"type":"object","properties":{"a":{"type":"string","pattern":"(?=x)"}},"unevaluatedProperties":false}'
)
LONG = "word " * 3000
QUESTIONS = ("what is mcd?", "hello", "who can read my prompt?", "what is a relay?", "thanks", "how do I start a node?")
KINDS = (
    ("plain", 30), ("left", 25), ("left at once", 6), ("slow", 5), ("choices", 6), ("oversize", 6), ("good schema", 4),
    ("bad schema", 5), ("bad envelope", 5), ("garbage", 3), ("replay", 3), ("bad resume", 2),
)  # fmt: skip
MAY_END = {
    "plain": {"finished"},
    "left": {"finished", "left"},
    "left at once": {"left", "finished"},
    "slow": {"finished"},
    "choices": {"finished", "failed"},
    "oversize": {"failed"},
    "good schema": {"finished"},
    "bad schema": {"failed", "finished"},
    "bad envelope": {"envelope"},
    "garbage": {"envelope"},
    "replay": {"refused REPLAY"},
    "bad resume": {"failed"},
}
"""How each kind may end while its process lives; any may end dead when it was killed meanwhile."""


class Storm:
    """Requests at one engine, and how each ended."""

    def __init__(self, side: EntrySide, seed: int, make: Callable[[str, random.Random], ChatRequest]) -> None:
        self.side = side
        self.choose = random.Random(seed)
        self.make = make
        self.ends: dict[int, list[str]] = {}
        self.kinds: dict[int, str] = {}
        self.n_kills = 0

    async def run(self) -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)
        names, weights = zip(*KINDS, strict=True)
        kill_at = {N_REQUESTS * (index + 1) // (N_KILLS + 1) for index in range(N_KILLS)}
        async with trio.open_nursery() as nursery:
            for index in range(N_REQUESTS):
                kind = self.kinds[index] = self.choose.choices(names, weights)[0]
                await limiter.acquire_on_behalf_of(index)
                nursery.start_soon(self._one, index, kind, limiter)
                if index in kill_at:
                    await trio.sleep(self.choose.random() * 0.05)
                    await self._kill()

    async def _kill(self) -> None:
        await self.side.wait_until("ready")
        assert self.side.engine.pid is not None
        os.kill(self.side.engine.pid, signal.SIGKILL)
        self.n_kills += 1
        await self.side.wait_until("restarting", "degraded", "loading")

    async def _one(self, index: int, kind: str, limiter: trio.CapacityLimiter) -> None:
        patience_s = self.choose.random() * 0.15 if kind == "left" else 60.0
        ended = self.ends.setdefault(index, [])
        lived = self.n_kills
        with trio.move_on_after(0 if kind == "left at once" else patience_s):
            try:
                ended.append(await self._ask(kind))
            except RefusedError as refused:
                ended.append(f"refused {RefuseReason(refused.reason).name}")
            except EnvelopeError:
                ended.append("envelope")
            except EngineDeadError:
                ended.append("dead")
            except EngineError:
                ended.append("broken")
        if not ended:
            ended.append("left")
        if ended == ["dead"] or ended[0].startswith("refused"):
            assert self.n_kills > lived or self.side.engine.status().restarts or kind == "replay"
        limiter.release_on_behalf_of(index)

    async def _ask(self, kind: str) -> str:
        await self.side.wait_until("ready")
        request = self.make(kind, self.choose)
        if kind == "garbage":
            return await self._take(EngineRequest(self.choose.randbytes(136), self.choose.randbytes(200), 0), None)
        sealed, opener = self.side.seal(
            request,
            resume=(1, 2, 1 << 19) if kind == "bad resume" else (),
            salt=self.choose.choice(["", "a", "b"]),
        )
        if kind == "bad envelope":
            at = self.choose.randrange(len(sealed.sealed))
            body = bytearray(sealed.sealed)
            body[at] ^= 1 << self.choose.randrange(8)
            sealed = EngineRequest(sealed.header, bytes(body), 0)
        if kind == "replay":
            async with self.side.engine.submit(sealed) as events:
                await anext(events)
            return await self._take(sealed, None)
        return await self._take(sealed, opener, pause_s=0.02 if kind == "slow" else 0.0)

    async def _take(self, sealed: EngineRequest, opener: object, pause_s: float = 0.0) -> str:
        answer = Answer()
        engine_key = self.side.engine.status().engine_key
        async with self.side.engine.submit(sealed) as events:
            async for event in events:
                if opener is not None:
                    self.side.take(answer, opener, event, engine_key)  # type: ignore[arg-type]
                await trio.sleep(pause_s)
            with pytest.raises(StopAsyncIteration):  # the end is the end
                await anext(events)
        assert (answer.final is None) != (answer.failure is None)
        return "finished" if answer.final is not None else "failed"

    async def check_nothing_is_left(self) -> Counter[str]:
        """After the last request: one end each, and an engine as good as new."""
        assert sorted(self.ends) == list(range(N_REQUESTS))
        assert all(len(ended) == 1 for ended in self.ends.values())
        ends = Counter((self.kinds[index], ended[0]) for index, ended in self.ends.items())
        for (kind, end), n_times in ends.items():
            killed = end == "dead" or end in {"refused KEY_UNKNOWN", "refused LOADING"}
            assert end in MAY_END[kind] or (killed and n_times < N_REQUESTS // 4), (kind, end, n_times)
        await self.side.wait_until("ready")
        assert not self.side.engine.is_busy
        with trio.fail_after(20):
            while (self.side.engine.status().n_running, self.side.engine.status().n_waiting) != (0, 0):  # noqa: ASYNC110
                await trio.sleep(0.01)
        return Counter(ended[0] for ended in self.ends.values())


def llama_request(kind: str, choose: random.Random) -> ChatRequest:
    text = LONG if kind == "oversize" else choose.choice(QUESTIONS)
    members: dict[str, object] = {"max_tokens": choose.choice([1, 4, 12, 40]), "temperature": choose.choice([0.0, 1.0])}
    if kind == "choices":
        members["n"] = 3
    if "schema" in kind:
        members["response_format"] = ResponseFormat(type="json_schema", schema=GOOD if kind == "good schema" else BAD)
    return chat(text, **members)


def scripted_request(kind: str, choose: random.Random) -> ChatRequest:
    if kind == "oversize":
        return chat("word " * 40_000)
    if kind == "choices":
        return chat("hi", n=3)
    return chat(
        "slow" if kind == "slow" else choose.choice(["slow", "load", "unicode", "weather", "think", "hi", "long"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["llama", "scripted"])
async def test_five_hundred_random_requests_leave_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "DEGRADED_BACKOFF_S", 0.1)  # four kills in a minute are no bad model here
    engine = "llama" if backend == "llama" else f"scripted:{HELLO}"
    (spec,) = resolve((), Path("/nowhere"), engine)
    options = EngineOptions(n_threads=1, n_slots=N_SLOTS, n_ctx=N_CTX) if backend == "llama" else EngineOptions()
    async with running(spec, options) as side:
        storm = Storm(side, 21, llama_request if backend == "llama" else scripted_request)
        await storm.run()
        ends = await storm.check_nothing_is_left()
        print(f"{backend}: {dict(ends)}, {storm.n_kills} kills")
        assert side.engine.status().restarts == storm.n_kills == N_KILLS
        assert {"finished", "failed", "envelope", "left", "refused REPLAY"} <= ends.keys()
        if backend == "llama":
            await all_slots_and_cells_are_there(side)


async def all_slots_and_cells_are_there(side: EntrySide) -> None:
    """As many requests as slots, each reserving a whole context: they run together only if no cell is missing."""
    status = side.engine.status()
    together = 0

    async def one() -> None:
        request, _ = side.seal(chat("hello", temperature=1.0))
        async with side.engine.submit(request) as events:
            async for _ in events:
                pass

    with trio.fail_after(30):
        while together < status.n_slots:
            async with trio.open_nursery() as nursery:
                for _ in range(status.n_slots):
                    nursery.start_soon(one)
                while nursery.child_tasks:
                    together = max(together, side.engine.status().n_running)
                    await trio.sleep(0.001)


def test_the_storm_is_a_thousand() -> None:
    assert 2 * N_REQUESTS == 1000
    assert set(MAY_END) == {name for name, _ in KINDS}
