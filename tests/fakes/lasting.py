"""A trio run that goes on from test to test: what takes long to start is started once there, and stays."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import trio

T = TypeVar("T")


class Lasting:
    """Owner: the fixture of this name; conftest runs each test that uses it here."""

    def __init__(self, token: trio.lowlevel.TrioToken, nursery: trio.Nursery) -> None:
        self._token = token
        self._nursery = nursery

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for some work there."""
        return trio.from_thread.run(work, trio_token=self._token)

    @contextmanager
    def holding(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Keep an asynchronous context open within a synchronous one."""
        value, scope = self.run(functools.partial(self._nursery.start, _hold, manager))
        yield value
        trio.from_thread.run_sync(scope.cancel, trio_token=self._token)


async def _hold(
    manager: AbstractAsyncContextManager[T], task_status: trio.TaskStatus[tuple[T, trio.CancelScope]]
) -> None:
    with trio.CancelScope() as scope:
        async with manager as value:
            task_status.started((value, scope))
            await trio.sleep_forever()


@contextmanager
def lasting() -> Iterator[Lasting]:
    """Run it in a thread."""
    made: list[Lasting] = []
    is_up = threading.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            made.append(Lasting(trio.lowlevel.current_trio_token(), nursery))
            is_up.set()
            await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    is_up.wait()
    (run,) = made
    try:
        yield run
    finally:
        trio.from_thread.run_sync(run._nursery.cancel_scope.cancel, trio_token=run._token)
        thread.join()
