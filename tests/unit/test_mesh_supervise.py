"""A service that fails is started again, later each time, and counted; virtual time."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
import trio

from mcd.log import Log
from mcd.mesh.counters import Counters
from mcd.mesh.supervise import HEALTHY_AFTER_S, RESTART_FIRST_S, RESTART_MAX_S, supervise


class Flaky:
    """Fails ``n_failures`` times, each after ``run_s``; notes when it was started."""

    def __init__(self, n_failures: int, run_s: float = 0.0) -> None:
        self.n_failures = n_failures
        self.run_s = run_s
        self.started_s: list[float] = []

    async def __call__(self) -> None:
        self.started_s.append(trio.current_time())
        await trio.sleep(self.run_s)
        if len(self.started_s) <= self.n_failures:
            async with trio.open_nursery():
                raise KeyError("what the peer said")


@pytest.mark.spec("DISC-40")
@pytest.mark.autojump
async def test_restarts_come_later_each_time_and_are_counted() -> None:
    out, counters, service = io.StringIO(), Counters(), Flaky(9)
    await supervise("gossip", service, log=Log(out=out), counters=counters)
    pauses = [b - a for a, b in pairwise(service.started_s)]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])
    assert (RESTART_FIRST_S, RESTART_MAX_S) == (0.5, 30)
    assert counters.snapshot() == {"restarted_gossip": 9}
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {(line["event"], line["service"], line["reason"]) for line in lines} == {
        ("service_restarts", "gossip", "KeyError")
    }
    assert "peer said" not in out.getvalue()


@pytest.mark.spec("DISC-40")
@pytest.mark.autojump
async def test_a_service_that_recovered_starts_again_at_the_first_pause() -> None:
    service = Flaky(5, run_s=HEALTHY_AFTER_S)
    await supervise("dht", service, log=Log(out=io.StringIO()), counters=Counters())
    pauses = [b - a - HEALTHY_AFTER_S for a, b in pairwise(service.started_s)]
    assert pauses == pytest.approx([RESTART_FIRST_S] * 5)


@pytest.mark.autojump
async def test_a_service_that_returns_is_done() -> None:
    service, counters = Flaky(0), Counters()
    await supervise("lan", service, log=Log(out=io.StringIO()), counters=counters)
    assert len(service.started_s) == 1
    assert counters.snapshot() == {}


@pytest.mark.autojump
async def test_cancelling_ends_it_even_while_its_tasks_fail() -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def service() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    counters = Counters()
    with trio.move_on_after(1) as scope:
        await supervise("dht", service, log=Log(out=io.StringIO()), counters=counters)
    assert scope.cancelled_caught
    assert trio.current_time() < 5


@pytest.mark.autojump
async def test_an_interrupt_is_not_swallowed() -> None:
    async def service() -> None:
        async with trio.open_nursery():
            raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        await supervise("dht", service, log=Log(out=io.StringIO()), counters=Counters())
    assert caught.value.subgroup(KeyboardInterrupt) is not None
