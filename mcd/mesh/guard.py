"""Stand between the swarm and every inbound stream: what one stream does ends that stream, never the daemon.

In libp2p 0.8.1 any exception out of any stream handler, its own included, cancels the swarm: one 5-byte message
that is not UTF-8 ends the process.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mcd.mesh.yamux_stream import YamuxStream

RESET_S = 1.0

NetStreamHandler = Callable[[Any], Awaitable[None]]


class Guard:
    """Runs inbound streams under the per-peer limit, contains their failures and cleans up after them."""

    def __init__(
        self, handler: NetStreamHandler, max_streams_per_peer: int, on_failed: Callable[[str, Exception], None]
    ) -> None:
        self._handler = handler
        self._on_failed = on_failed
        self._max_streams_per_peer = max_streams_per_peer
        self._open: Counter[str] = Counter()
        self.n_failed = 0
        self.n_refused = 0

    async def __call__(self, stream: Any) -> None:
        """Handle one libp2p INetStream. Raises nothing but cancellation."""
        peer = str(stream.muxed_conn.peer_id)
        if self._open[peer] >= self._max_streams_per_peer:
            self.n_refused += 1
            await _reset(stream)
            return
        self._open[peer] += 1
        try:
            await self._handler(stream)
        except Exception as error:  # noqa: BLE001  # supervision: the one place that keeps a stream's failure its own
            self.n_failed += 1
            self._on_failed(str(stream.get_protocol() or ""), error)
            await _reset(stream)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
            if isinstance(stream.muxed_stream, YamuxStream):
                stream.muxed_stream.abandon()


async def _reset(stream: Any) -> None:
    with trio.move_on_after(RESET_S):
        with contextlib.suppress(Exception):  # the stream is over either way
            await stream.reset()
