"""Each parameter of sampling does what it says: judged by the raw probabilities that come along as logprobs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mcd.api.request import ResponseFormat
from mcd.engine.catalogue import EngineSpec, resolve
from mcd.engine.messages import EngineOptions
from mcd.wire.payload import TokenLogprob
from tests.fakes import gguf_make
from tests.fakes.engine_entry import Answer, EntrySide, chat, running

N_TOKENS = 60
SLACK = 1e-3
ONE = EngineOptions(n_threads=1, n_slots=1)
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    path = gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf", text_only=True)
    return EngineSpec(alias="tiny", backend="llama", source=str(path))


async def asked(side: EntrySide, **members: object) -> Answer:
    answer = await side.ask(chat("hello", max_tokens=N_TOKENS, logprobs=True, top_logprobs=20, **members))
    assert len(answer.tokens) == N_TOKENS
    return answer


def choices(answer: Answer) -> list[TokenLogprob]:
    return [logprob for delta in answer.deltas for logprob in delta.logprobs]


def rank(chosen: TokenLogprob) -> int:
    return sum(top.logprob > chosen.logprob for top in chosen.top)


def mass_above(chosen: TokenLogprob) -> float:
    return sum(math.exp(top.logprob) for top in chosen.top if top.logprob > chosen.logprob)


def share_of_best(chosen: TokenLogprob) -> float:
    return math.exp(chosen.logprob - chosen.top[0].logprob)


@pytest.mark.parametrize(
    ("members", "fits"),
    [
        ({"top_k": 3}, lambda chosen: rank(chosen) < 3),
        ({"top_p": 0.9}, lambda chosen: mass_above(chosen) < 0.9 + SLACK),
        ({"min_p": 0.05}, lambda chosen: share_of_best(chosen) > 0.05 - SLACK),
    ],
)
async def test_a_filter_leaves_what_it_says(
    tiny: EngineSpec, members: dict[str, float], fits: Callable[[TokenLogprob], bool]
) -> None:
    async with running(tiny, ONE) as side:
        free = await asked(side, temperature=2.0, seed=7, **OFF)
        assert not all(map(fits, choices(free))), "so that the filter has something to do"
        bound = await asked(side, temperature=2.0, seed=7, **(OFF | members))
        assert all(map(fits, choices(bound)))
        assert {rank(chosen) for chosen in choices(bound)} > {0}, "and is no greedy choice"


async def test_a_temperature_flattens_or_sharpens(tiny: EngineSpec) -> None:
    async with running(tiny, ONE) as side:
        ranks = [
            sum(map(rank, choices(await asked(side, temperature=temperature, seed=7, **OFF))))
            for temperature in (0.0, 0.001, 0.7, 2.0)
        ]
        assert ranks[:2] == [0, 0]
        assert 0 < ranks[2] < ranks[3]


async def test_a_bias_is_added_to_its_token(tiny: EngineSpec) -> None:
    async with running(tiny, ONE) as side:
        greedy = await asked(side, temperature=0.0)
        first = greedy.tokens[0]
        never = await asked(side, temperature=0.0, logit_bias=((str(first), -100.0),))
        assert first not in never.tokens
        always = await asked(side, temperature=1.0, logit_bias=((str(first), 100.0),))
        assert set(always.tokens) == {first}
        # a bias of less than the distance to the best changes nothing, one of more does
        best, second = choices(greedy)[0].top[:2]
        gap = best.logprob - second.logprob
        below = await asked(side, temperature=0.0, logit_bias=((str(first), -gap * 0.9),))
        above = await asked(side, temperature=0.0, logit_bias=((str(first), -gap * 1.1),))
        assert choices(below)[0].token == best.token
        assert choices(above)[0].token == second.token


@pytest.mark.parametrize(("frequency", "presence"), [(0.4, 0.0), (0.0, 1.5), (0.3, 0.7), (-0.2, 0.0)])
async def test_penalties_count_what_the_answer_holds(tiny: EngineSpec, frequency: float, presence: float) -> None:
    """frequency_penalty for each time a token was written, presence_penalty once, both off its logit.

    What an earlier provider wrote counts as well.
    """
    async with running(tiny, ONE) as side:
        members = {"temperature": 0.0, "frequency_penalty": frequency, "presence_penalty": presence}
        whole = await asked(side, **members)
        request = chat("hello", max_tokens=N_TOKENS, logprobs=True, top_logprobs=20, **members)
        rest = await side.ask(request, resume=whole.tokens[:20])
    before = [chosen.token for chosen in choices(whole)[:20]]
    for answer, seen in ((whole, Counter[bytes]()), (rest, Counter(before))):
        n_changed = 0
        for chosen in choices(answer):
            penalised = [
                top.logprob - frequency * seen[top.token] - presence * (seen[top.token] > 0)
                for top in (chosen, *chosen.top)
            ]
            assert penalised[0] >= max(penalised) - SLACK
            n_changed += rank(chosen) > 0
            seen[chosen.token] += 1
        assert bool(n_changed) == (max(frequency, presence) > 0) or answer is rest


async def test_a_bound_answer_draws_once_for_each_token() -> None:
    """And so goes on where it was cut; the trained model, whose choices are no near ties."""
    (nano,) = resolve((), Path("/nowhere"), "llama")
    schema = msgspec.Raw(b'{"type":"string","pattern":"^[a-z]{30}$"}')
    bound = chat(
        "hello",
        response_format=ResponseFormat(type="json_schema", schema=schema),
        temperature=1.5,
        seed=5,
        top_p=1.0,
        min_p=0.0,
    )
    async with running(nano, ONE) as side:
        whole = await side.ask(bound)
        assert whole.final is not None
        assert len(whole.tokens) > 10
        for cut in range(1, len(whole.tokens), 4):
            rest = await side.ask(bound, resume=whole.tokens[:cut])
            assert rest.tokens == whole.tokens[cut:]


async def test_each_choice_draws_its_own_numbers(tiny: EngineSpec) -> None:
    """And the same ones again: choice 2 of seed 7 is what seed 9 gives alone."""
    async with running(tiny, ONE) as side:
        several = await side.ask(chat("hello", max_tokens=20, temperature=1.5, seed=7, n=3))
        alone = [(await side.ask(chat("hello", max_tokens=20, temperature=1.5, seed=seed))).text for seed in (7, 8, 9)]
        assert [several.choice(index) for index in range(3)] == alone
        assert all(one != other for one, other in itertools.combinations(alone, 2))
        assert several.final is not None
        assert several.final.usage.n_output_tokens == 60
