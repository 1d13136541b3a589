"""Both loops in one thread: neither starves, forgets or outlives the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import sniffio
import trio

from mcd.gateway.loops import TurnedLoop, run_loops


def serve(body: Callable[[trio.Event], object], trio_side: Callable[[trio.Event], object] | None = None) -> None:
    """Run ``body`` on asyncio's side and ``trio_side`` on trio's, which share one event of trio's."""

    async def trio_main(ready: Callable[[trio.Event], None]) -> None:
        event = trio.Event()
        ready(event)
        if trio_side is not None:
            await trio_side(event)  # type: ignore[misc]
        await trio.sleep_forever()

    async def asyncio_main(event: trio.Event, stop: asyncio.Event) -> None:
        async with asyncio.timeout(10):
            await body(event)  # type: ignore[misc]

    run_loops(trio_main, asyncio_main)


def test_timers_threads_and_calls_from_either_side_wake_the_other() -> None:
    woken: list[str] = []
    future: list[asyncio.Future[str]] = []

    async def body(event: trio.Event) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        woken.append("timer")
        woken.append(await loop.run_in_executor(None, lambda: "thread"))
        future.append(loop.create_future())
        event.set()
        woken.append(await future[0])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)

    async def trio_side(event: trio.Event) -> None:
        await event.wait()
        await trio.sleep(0.01)
        future[0].set_result("trio")

    serve(body, trio_side)
    assert woken == ["timer", "thread", "trio"]


def test_a_busy_side_does_not_starve_the_other() -> None:
    async def body(event: trio.Event) -> None:
        while not event.is_set():  # noqa: ASYNC110 - being busy is the point
            await asyncio.sleep(0)

    async def trio_side(event: trio.Event) -> None:
        await trio.sleep(0.01)
        event.set()

    serve(body, trio_side)

    async def wait(event: trio.Event) -> None:
        await asyncio.sleep(0.02)
        event.set()

    async def spin(event: trio.Event) -> None:
        while not event.is_set():
            await trio.lowlevel.checkpoint()

    serve(wait, spin)


def test_an_idle_loop_is_not_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    n_turns = 0
    run_once = TurnedLoop.run_forever

    def count(loop: TurnedLoop) -> None:
        nonlocal n_turns
        n_turns += 1
        run_once(loop)

    monkeypatch.setattr(TurnedLoop, "run_forever", count)

    async def body(_: trio.Event) -> None:
        before = n_turns
        await asyncio.sleep(0.3)
        assert n_turns - before <= 4

    serve(body)


def test_libraries_see_the_loop_that_runs_them() -> None:
    seen: list[str] = []

    async def body(event: trio.Event) -> None:
        seen.append(sniffio.current_async_library())
        event.set()
        await asyncio.sleep(0.01)
        seen.append(sniffio.current_async_library())

    async def trio_side(event: trio.Event) -> None:
        await event.wait()
        seen.append(sniffio.current_async_library())

    serve(body, trio_side)
    assert seen == ["asyncio", "trio", "asyncio"]


@pytest.mark.parametrize("is_trio_at_fault", [True, False])
def test_an_error_of_either_side_ends_both_and_is_raised(is_trio_at_fault: bool) -> None:
    ended: list[str] = []

    async def trio_main(ready: Callable[[None], None]) -> None:
        ready(None)
        try:
            await trio.sleep(0.01)
            if is_trio_at_fault:
                raise ZeroDivisionError
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            ended.append("trio")

    async def asyncio_main(_: None, stop: asyncio.Event) -> None:
        if not is_trio_at_fault:
            raise ZeroDivisionError
        await stop.wait()
        ended.append("asyncio")

    with pytest.raises(ZeroDivisionError):
        run_loops(trio_main, asyncio_main)
    assert ended == (["trio", "asyncio"] if is_trio_at_fault else ["trio"])


def test_a_trio_side_that_fails_before_it_is_ready_needs_no_asyncio_side() -> None:
    async def trio_main(_: Callable[[None], None]) -> None:
        raise ZeroDivisionError

    async def asyncio_main(_: None, stop: asyncio.Event) -> None:
        pytest.fail("nothing to serve")

    with pytest.raises(ZeroDivisionError):
        run_loops(trio_main, asyncio_main)
