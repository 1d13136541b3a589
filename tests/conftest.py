"""Run `async def` tests under trio, and every test the same way each time.

Draws, schedules and jitter are those of a fixed seed: what failed once fails again. `make fuzz` looks for new draws.
"""

from __future__ import annotations

import functools
import inspect
import random
import resource
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import trio
from trio._core import _run as trio_scheduler
from trio.testing import MockClock

from tests.fakes.lasting import Lasting, lasting

WANTED_FILES = 8192
SEED = 20_261_128

hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,  # wall clocks decide nothing here: the machine may be busy
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)
hypothesis.settings.register_profile("fuzz", hypothesis.settings.get_profile("fixed"), derandomize=False)
hypothesis.settings.load_profile("fixed")


def pytest_configure() -> None:
    """Allow this process as many open files as it may have: a flood test is attacker and victim in one.

    An ordinary user starts with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start each test with the same random numbers, whichever tests ran before it."""
    random.seed(SEED)
    trio_scheduler._r.seed(SEED)  # trio shuffles the tasks of each turn


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test under trio; ``@pytest.mark.autojump`` gives it virtual time."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    args = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock = MockClock(autojump_threshold=0) if pyfuncitem.get_closest_marker("autojump") else None
    run: Any = functools.partial(pyfuncitem.obj, **args)
    if "lasting" in pyfuncitem.funcargs:
        pyfuncitem.funcargs["lasting"].run(run)
    else:
        trio.run(run, clock=clock)
    return True


@pytest.fixture(scope="module", name="lasting")
def one_run_of_a_module() -> Iterator[Lasting]:
    """For fixtures that start what all tests of a module share; a test that uses one runs beside it."""
    with lasting() as run:
        yield run
