"""Models whose memory cannot be cut anywhere, in real worker processes: what is reused must change nothing.

Compared are tokens and their log-probabilities: a state that is off by one token shows in them at once.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from mcd.api.request import ChatMessage, ChatRequest
from mcd.engine.catalogue import EngineSpec
from mcd.engine.messages import EngineOptions
from mcd.engine.slots import CHECKPOINT_TOKENS
from tests.fakes import gguf_arch
from tests.fakes.engine_entry import Answer, EntrySide, running
from tests.integration.test_engine_llama import WORDS, ask_all, fill_every_cell, prompts, wait_idle

TOLERANCE = 0.03
"""Cells are 16-bit and sums run in another order when a prompt is cut elsewhere; another state is off by far more."""
FOUR = EngineOptions(n_threads=1, n_slots=4)
SIXTEEN = EngineOptions(n_threads=1, n_slots=16)
SYSTEM = " ".join(WORDS * 4)
"""About 300 tokens: more than the windows of these models."""


@pytest.fixture(scope="module", params=gguf_arch.KINDS)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    return EngineSpec(alias=request.param, backend="llama", source=str(gguf_arch.make(path, request.param)))


def talk(*texts: str, system: str = SYSTEM, **members: object) -> ChatRequest:
    roles = ("user", "assistant")
    turns = [ChatMessage(role=roles[i % 2], content=text) for i, text in enumerate(texts)]
    given = {"temperature": 0.0, "max_tokens": 12, "logprobs": True} | members
    return ChatRequest(model="m", messages=(ChatMessage(role="system", content=system), *turns), **given)


def cached(answer: Answer) -> int:
    assert answer.final is not None
    return answer.final.usage.n_cached_tokens


def logprobs(answer: Answer) -> list[float]:
    return [entry.logprob for delta in answer.deltas for entry in delta.logprobs]


def assert_same(reused: Answer, fresh: Answer) -> None:
    assert reused.tokens == fresh.tokens
    assert logprobs(reused) == pytest.approx(logprobs(fresh), abs=TOLERANCE)


async def test_second_turn_goes_on_where_the_first_ended(spec: EngineSpec) -> None:
    first = talk("what is a mesh")
    async with running(spec, FOUR) as side:
        answer = await side.ask(first, salt="mine")
        # what a client sends back is not what was generated, token for token: the first turn's prompt is what is shared
        second = talk("what is a mesh", "it is something else", "go on")
        fresh = await side.ask(second)
        reused = await side.ask(second, salt="mine")
        again = await side.ask(second, salt="mine")
        foreign = await side.ask(second, salt="theirs")
    assert cached(reused) >= answer.n_prompt_tokens - 1
    assert cached(again) == again.n_prompt_tokens - 1
    assert cached(fresh) == cached(foreign) == 0
    for other in (reused, again, foreign):
        assert_same(other, fresh)
    assert fresh.tokens != answer.tokens or logprobs(fresh) != pytest.approx(logprobs(answer), abs=TOLERANCE)


async def test_fifteen_prompts_share_their_prefix(spec: EngineSpec) -> None:
    """The first may have passed the place where they part before anyone knew it; the second keeps it for the rest."""
    requests = [talk(text) for text in prompts(15, seed=6)]
    async with running(spec, SIXTEEN) as side:
        fresh = [await side.ask(request) for request in requests]
        together = await ask_all(side, requests, salt="team")
    n_cached = sorted(cached(answer) for answer in together)
    assert n_cached[0] == 0
    assert n_cached[2] > 250
    for one, other in zip(together, fresh, strict=True):
        assert_same(one, other)


async def test_third_prompt_profits_from_where_the_second_parted(spec: EngineSpec) -> None:
    async with running(spec, FOUR) as side:
        answers = [await side.ask(talk(text), salt="mine") for text in ("first of all", "second to that", "then")]
        fresh = await side.ask(talk("then"))
    assert cached(answers[2]) > 250
    assert_same(answers[2], fresh)


async def test_long_prompt_is_continued_from_its_last_checkpoint(tmp_path: Path, spec: EngineSpec) -> None:
    path = gguf_arch.make(tmp_path / "long.gguf", spec.alias, n_ctx=8192)
    words = [random.Random(4).choice(WORDS) for _ in range(600)]
    async with running(EngineSpec(alias="long", backend="llama", source=str(path)), FOUR) as side:
        await side.ask(talk(" ".join(words)), salt="mine")
        changed = talk(" ".join([*words[:500], *words[510:]]))
        reused = await side.ask(changed, salt="mine")
        fresh = await side.ask(changed)
    assert cached(reused) >= CHECKPOINT_TOKENS
    assert_same(reused, fresh)


async def test_choices_share_a_prompt(spec: EngineSpec) -> None:
    async with running(spec, FOUR) as side:
        answer = await side.ask(talk("three of them", n=6, max_tokens=6))
        fresh = await side.ask(talk("three of them", max_tokens=6))
    assert {answer.choice(index) for index in range(6)} == {fresh.text}
    assert len(answer.tokens) == 6 * len(fresh.tokens)


async def test_resumed_answer_goes_on(spec: EngineSpec) -> None:
    request = talk("tell me more", max_tokens=24)
    async with running(spec, FOUR) as side:
        whole = await side.ask(request)
        for cut in (1, 9, 23):
            rest = await side.ask(request, resume=whole.tokens[:cut], salt="mine")
            assert rest.tokens == whole.tokens[cut:]


async def test_cancels_and_evictions_leave_every_answer_right(spec: EngineSpec) -> None:
    """120 turns of 6 conversations and 3 requesters on 4 slots, a quarter left early: no answer differs from a fresh
    one, and afterwards every slot and cell is free."""
    choose = random.Random(21)
    texts = prompts(6, seed=22)
    limiter = trio.CapacityLimiter(10)
    wrong: list[str] = []
    n_reused = 0

    async def one(side: EntrySide, request: ChatRequest, expected: Answer, salt: str, patience_s: float) -> None:
        nonlocal n_reused
        async with limiter:
            with trio.move_on_after(patience_s):
                answer = await side.ask(request, salt=salt)
                n_reused += cached(answer) > 0
                if answer.tokens != expected.tokens:
                    wrong.append(request.messages[-1].content or "")

    async with running(spec, FOUR) as side:
        requests = [talk(text) for text in texts]
        requests += [talk(text, "I see", other) for text, other in zip(texts, reversed(texts), strict=True)]
        fresh = [await side.ask(request) for request in requests]
        async with trio.open_nursery() as nursery:
            for _ in range(120):
                index = choose.randrange(len(requests))
                patience_s = choose.random() * 0.05 if choose.random() < 0.25 else 60.0
                salt = choose.choice(["a", "b", ""])
                nursery.start_soon(one, side, requests[index], fresh[index], salt, patience_s)
        await wait_idle(side)
        await fill_every_cell(side, logit_bias=((str(gguf_arch.END_TOKEN), -100.0),))
        assert side.engine.status().restarts == 0
    assert not wrong
    assert n_reused > 5
