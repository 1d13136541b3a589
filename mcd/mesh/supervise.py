"""Keep a background service running: restart it when it fails, later each time, and count.   [DISC-40]

libp2p's own services end for good on any exception a peer can provoke (research: pitfall 21). Here a failure costs
the service a pause, never the daemon. This is one of the two supervision loops that may catch broadly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from mcd.log import Log
from mcd.mesh.counters import Counters
from mcd.units import Seconds

RESTART_FIRST_S: Seconds = 0.5
"""Pause before the first restart: one bad message must not cost much discovery."""
RESTART_MAX_S: Seconds = 30.0
"""Longest pause: about one announcement, so that a healed service misses at most one."""
HEALTHY_AFTER_S: Seconds = 60.0
"""A service that ran this long has recovered: its next pause is the first again."""


async def supervise(name: str, service: Callable[[], Awaitable[None]], *, log: Log, counters: Counters) -> None:
    """Run ``service`` until it returns; restart it when it raises.   [DISC-40]

    Each restart counts under ``restarted_<name>`` and is logged with the exception's class only: its text may quote
    a peer. A service that returns has done its work and is not run again. Cancellation passes through.
    """
    pause_s = RESTART_FIRST_S
    while True:
        started_s = trio.current_time()
        cancelled: BaseException | None = None
        try:
            await service()
        except Exception as error:  # noqa: BLE001 # supervision loop: whatever failed, the daemon goes on
            reason = _first_cause(error)
        except BaseExceptionGroup as group:
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None and not isinstance(failed, ExceptionGroup):
                raise  # KeyboardInterrupt and its like are not ours
            reason = "cancelled" if failed is None else _first_cause(failed)
        else:
            return
        if cancelled is not None:
            raise cancelled
        if trio.current_time() - started_s >= HEALTHY_AFTER_S:
            pause_s = RESTART_FIRST_S
        counters.add(f"restarted_{name}")
        log.warning("service_restarts", service=name, reason=reason)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, RESTART_MAX_S)


def _first_cause(error: BaseException) -> str:
    """The class name of the innermost first exception; nurseries wrap what failed in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
