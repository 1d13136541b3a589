"""Run `async def` tests under trio, and forbid nothing else silently."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import trio
from trio.testing import MockClock


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
