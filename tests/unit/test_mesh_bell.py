"""The bell wakes whoever waits, once, and forgets those who left."""

from __future__ import annotations

import trio

from mcd.mesh.bell import Bell
from tests.fakes.memory_conn import settle


async def test_a_ring_wakes_all_who_wait_and_is_not_remembered() -> None:
    bell = Bell()
    woken: list[str] = []

    async def wait(name: str) -> None:
        await bell.wait()
        woken.append(name)

    bell.ring()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await settle()
        assert woken == []
        bell.ring()
        bell.ring()
    assert sorted(woken) == ["a", "b"]


async def test_who_is_cancelled_waits_no_more() -> None:
    bell = Bell()
    woken: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await bell.wait()
            woken.append(name)

    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "leaves", scopes[0])
        nursery.start_soon(wait, "stays", scopes[1])
        await settle()
        scopes[0].cancel()
        await settle()
        bell.ring()
    assert woken == ["stays"]
