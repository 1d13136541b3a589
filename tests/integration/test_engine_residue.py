"""What a finished request leaves in the memory of the inference process, in any spelling: nothing of its text."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from mcd.api.request import ChatRequest, CompletionRequest, ResponseFormat, ToolFunction
from mcd.api.tasks import EmbeddingsRequest, RerankRequest, TokenizeRequest
from mcd.engine import supervise
from mcd.engine.catalogue import EngineSpec, resolve
from mcd.ports import EngineStarted
from mcd.wire.payload import Vectors
from tests.e2e.memory import engine_pids, search, spellings
from tests.e2e.test_canary import token_ids
from tests.fakes.engine_entry import Answer, EntrySide, chat, running
from tests.fakes.gguf_embed import make_encoder

READABLE = "from mcd.engine import sandbox\nsandbox._not_dumpable = lambda profile: 'not for this test'\n"
"""Leaves the worker readable to us, who may not be root; everything else is as ever."""
LIKELY = ("utf-8", "utf-16-le", "utf-32-le", "token ids u32", "token ids json")
"""Of all spellings; each costs a pass over 250 MB."""


@pytest.fixture
def nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    (tmp_path / "sitecustomize.py").write_text(READABLE)
    environment: Callable[[], dict[str, str]] = supervise._environment
    monkeypatch.setattr(
        supervise,
        "_environment",
        lambda: (given := environment()) | {"PYTHONPATH": f"{tmp_path}:{given['PYTHONPATH']}"},
    )
    return resolve((), tmp_path, "llama")[0]


@pytest.fixture
def encoder(nano: EngineSpec, tmp_path: Path) -> EngineSpec:
    """Another model under the same conditions."""
    return EngineSpec(alias="m", backend="llama", source=str(make_encoder(tmp_path / "m.gguf")))


def completion(text: str, **members: Any) -> CompletionRequest:
    return CompletionRequest(model="nano", prompt=text, **members)


async def left(side: EntrySide, needles: dict[str, bytes]) -> set[str]:
    """What is found in the worker, once nothing is; after some tries, whatever is."""
    assert side.engine.pid is not None
    found = set(needles)
    for _ in range(10):
        found = set().union(*(search(pid, needles) for pid in engine_pids(side.engine.pid)))
        if not found:
            break
        await trio.sleep(0.2)
    return found


async def ask_and_look(
    side: EntrySide, asked: ChatRequest, salt: str, needles: dict[str, bytes]
) -> tuple[Answer, set[str]]:
    """An answer, and what was in the worker's memory while it was made: token ids only once its prompt is computed."""
    assert side.engine.pid is not None
    answer, seen = Answer(), set[str]()
    request, opener = side.seal(asked, salt=salt)
    async with side.engine.submit(request) as events:
        async for event in events:
            side.take(answer, opener, event)
            if "token ids u32" not in seen:
                os.kill(side.engine.pid, signal.SIGSTOP)
                seen |= search(side.engine.pid, needles)
                os.kill(side.engine.pid, signal.SIGCONT)
    return answer, seen


async def test_nothing_of_a_finished_request_is_left_in_the_heap(nano: EngineSpec) -> None:
    """Neither text nor token ids, although nobody asks anything after it."""
    async with running(nano) as side:
        for salt in ("", "a salt"):
            canary = f"kanarie {secrets.token_hex(12)} vogel"
            print("the canary:", canary)
            spelt = spellings(canary, token_ids(canary))
            needles = {name: spelt[name] for name in LIKELY}
            asked = chat(f"Remember {canary} and tell me about mcd.", max_tokens=60)
            answer, seen = await ask_and_look(side, asked, salt, needles)
            assert {"utf-8", "token ids u32"} <= seen, "the positive control failed: this test could not find a leak"
            assert await left(side, needles) == set()
            assert len(answer.text) > 20
            assert await left(side, {"utf-8": answer.text[:20].encode()}) == set()


REFUSED: dict[str, dict[str, Any]] = {
    "a schema that cannot be": {"response_format": ResponseFormat("json_schema", msgspec.Raw(b'{"type": "no type"}'))},
    "a token that is none": {"logit_bias": (("1000000000", 1.0),)},
    "more than fits": {"max_tokens": 100_000},
    "a tool that is none": {
        "tools": (ToolFunction("f", parameters=msgspec.Raw(b'{"not": 1}')),),
        "tool_choice": "required",
    },
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
async def test_nothing_is_left_of_a_request_that_was_refused(nano: EngineSpec, members: dict[str, Any]) -> None:
    """An error that is handed on as a value held the frames that it was raised in, and they the request."""
    async with running(nano) as side:
        canary = f"kanarie {secrets.token_hex(12)} vogel"
        needles = {"utf-8": canary.encode()}
        answer = await side.ask(chat(f"Remember {canary}.", **{"max_tokens": 4, **members}))
        assert answer.failure is not None
        assert await left(side, needles) == set()


@pytest.mark.parametrize("ask", [chat, completion])
async def test_nothing_is_left_of_a_prompt_after_which_one_token_came(
    nano: EngineSpec, ask: Callable[..., ChatRequest]
) -> None:
    """llama.cpp reused the prompt's graph for the batch that should overwrite it, and that keeps its tokens."""
    async with running(nano) as side:
        canary = f"kanarie {secrets.token_hex(12)} vogel"
        needles = {"token ids u32": spellings(canary, token_ids(canary))["token ids u32"]}
        asked = ask(f"Remember {canary} and tell me about mcd.", max_tokens=1)
        _, seen = await ask_and_look(side, asked, "", needles)
        assert seen, "the positive control failed: this test could not find a leak"
        assert await left(side, needles) == set()


async def test_nothing_of_an_embedded_text_is_left(encoder: EngineSpec) -> None:
    """Neither of the first text nor of the last one, which no other has overwritten."""
    async with running(encoder) as side:
        canary = " ".join(secrets.choice(["mesh", "peer", "cat", "dog", "relay", "stream"]) for _ in range(20))
        print("the canary:", canary)
        ids = (await side.ask(TokenizeRequest(model="m", text=canary))).ids
        spelt = spellings(canary, tuple(ids))
        needles = {name: spelt[name] for name in LIKELY}
        request, opener = side.seal(EmbeddingsRequest(model="m", inputs=(canary, *(["other words"] * 1500), canary)))
        answer, seen = Answer(), set[str]()
        answer.part_kind = Vectors
        assert side.engine.pid is not None
        async with side.engine.submit(request) as events:
            async for event in events:
                side.take(answer, opener, event)
                if isinstance(event, EngineStarted):
                    os.kill(side.engine.pid, signal.SIGSTOP)
                    seen = search(side.engine.pid, needles)
                    os.kill(side.engine.pid, signal.SIGCONT)
        assert "utf-8" in seen, "the positive control failed: this test could not find a leak"
        assert len(answer.vectors) == 1502
        assert await left(side, needles) == set()
        await side.ask(RerankRequest(model="m", query=canary, documents=(canary,)))
        assert await left(side, needles) == set()
