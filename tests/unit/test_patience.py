"""Providers that live and deliver nothing, and those that are only slow, on virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from mcd.api.events import AnswerEvent
from mcd.api.tasks import EmbeddingsRequest
from mcd.entry.router import CHARS_PER_TOKEN
from mcd.errors import PeerTimeoutError
from mcd.exchange.states import MIN_PATIENCE_S, PATIENCE_FACTOR
from mcd.wire.payload import Vectors
from tests.fakes.sealing_engine import ALIAS, DIGEST, Play
from tests.unit.test_entry_and_provider import nodes, text, words

pytestmark = pytest.mark.autojump


@pytest.mark.spec("EX-55")
@pytest.mark.parametrize("at", [0, 3])
async def test_an_answer_goes_on_elsewhere_when_its_provider_computes_no_more(at: int) -> None:
    """It proved its life every four seconds, and its user had nothing for an hour."""
    async with nodes(ada=Play(idle_at=at), bob=Play(idle_at=at)) as (entry, providers):
        engines = [node.engines[0] for node in providers.values()]

        async def spare_the_other() -> None:
            await trio.sleep(MIN_PATIENCE_S / 2)
            for engine in engines:
                engine.play.idle_at = None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spare_the_other)
            events = await entry.ask()
        assert text(events) == words(5)
        assert sorted(engine.n_tokens_made for engine in engines) == sorted([at, 5 - at])
        assert MIN_PATIENCE_S < trio.current_time() < MIN_PATIENCE_S + 10


@pytest.mark.spec("EX-55", "EX-56")
async def test_who_waited_in_vain_expects_to_wait_there_again() -> None:
    """A provider that fails costs its requests ten seconds at most, routing thought, so it was asked again at once."""
    async with nodes(ada=Play(idle_at=0)) as (entry, providers):
        with pytest.raises(PeerTimeoutError):
            await entry.ask()
        learned = entry.router.estimates.learned(providers["ada"].peer_id, DIGEST)
        assert learned is not None
        assert learned.usual_wait_s(trio.current_time()) > MIN_PATIENCE_S - 1


async def test_a_provider_as_slow_as_it_said_is_waited_for() -> None:
    """It announces 1000 tokens of prompt a second; this prompt has four times what its characters let one guess."""
    n_guessed = 60_000
    play = Play(prefill_s=6 * n_guessed / 1000, n_ctx=1_000_000)
    async with nodes(ada=play) as (entry, providers):
        events = await entry.ask(content="x" * (n_guessed * CHARS_PER_TOKEN))
        assert text(events) == words(5)
        assert providers["ada"].engines[0].n_tokens_made == 5
        assert play.prefill_s > MIN_PATIENCE_S
        assert play.prefill_s < MIN_PATIENCE_S + PATIENCE_FACTOR * n_guessed / 1000


async def test_a_provider_that_computes_a_token_every_minute_and_a_half_is_waited_for() -> None:
    async with nodes(ada=Play(token_s=90.0)) as (entry, providers):
        assert text(await entry.ask()) == words(5)
        assert providers["ada"].engines[0].n_tokens_made == 5


@pytest.mark.spec("EX-55")
async def test_results_of_a_task_are_output() -> None:
    async with nodes(ada=Play(token_s=90.0)) as (entry, providers):
        got: list[AnswerEvent] = []

        async def put(events: Sequence[AnswerEvent]) -> None:
            got.extend(events)

        await entry.entry.answer(EmbeddingsRequest(model=ALIAS, inputs=("a",) * 4), put)
        assert len([event for event in got if isinstance(event, Vectors)]) == 4
        assert providers["ada"].provider.served.n_finished == 1
