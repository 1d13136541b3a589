"""Run `async def` tests under trio, and forbid nothing else silently."""

from __future__ import annotations

import functools
import inspect
import resource
from typing import Any

import pytest
import trio
from trio.testing import MockClock

WANTED_FILES = 8192


def pytest_configure() -> None:
    """Allow this process as many open files as it may have: a flood test is attacker and victim in one.

    An ordinary user starts with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test under trio; ``@pytest.mark.autojump`` gives it virtual time."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    args = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock = MockClock(autojump_threshold=0) if pyfuncitem.get_closest_marker("autojump") else None
    run: Any = functools.partial(pyfuncitem.obj, **args)
    trio.run(run, clock=clock)
    return True
