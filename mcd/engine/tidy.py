"""What finished requests leave behind is overwritten in time: token ids in llama.cpp's buffers, caches, KV memory.

Four things with four prices. The buffers cost a graph that is not computed, so they are scrubbed soon after every
request, busy or not. Prefix caches are wanted, so they are kept until nobody has come back for MAX_IDLE_CACHE_S.
The numbers in cells that belong to nobody are out of reach of every request; overwriting them costs a pass over the
whole KV memory, half a second for some gigabytes, so it waits for a pause. So does what a picture left in the
projector: overwriting it takes another picture, a white one.
"""

from __future__ import annotations

from mcd.engine.batch import Batch
from mcd.engine.kv import KvMemory
from mcd.engine.model import Context
from mcd.engine.vision import Vision
from mcd.units import Seconds

SCRUB_AFTER_S: Seconds = 0.25
"""Requests that end one after another share a scrub."""
WIPE_PICTURES_AFTER_S: Seconds = 10.0
"""Without a request. It costs as much as a picture, and who comes meanwhile waits for it."""
WIPE_AFTER_S: Seconds = 30.0
"""Without a request, and without a cache that one could use."""


class Tidy:
    """Owner of the deadlines. Nothing it does is seen by a request."""

    def __init__(self, context: Context, batch: Batch, kv: KvMemory, vision: Vision | None = None) -> None:
        self._vision = vision
        self._context = context
        self._batch = batch
        self._kv = kv
        self._scrub_at: Seconds | None = None
        self._ended_at: Seconds = 0.0

    def ended(self, now: Seconds) -> None:
        """A request is over."""
        self._ended_at = now
        if self._scrub_at is None:
            self._scrub_at = now + SCRUB_AFTER_S

    def due_at(self, *, is_idle: bool) -> Seconds | None:
        """When `run` will have something to do."""
        times = [self._scrub_at, self._kv.expires_at]
        if is_idle and self._kv.is_unused and not self._kv.is_clean:
            times.append(self._ended_at + WIPE_AFTER_S)
        if is_idle and self._has_seen:
            times.append(self._ended_at + WIPE_PICTURES_AFTER_S)
        return min((at for at in times if at is not None), default=None)

    @property
    def _has_seen(self) -> bool:
        return self._vision is not None and not self._vision.is_clean

    def run(self, now: Seconds, *, is_idle: bool) -> None:
        """Do what is due."""
        if self._scrub_at is not None and now >= self._scrub_at:
            self._batch.scrub(self._context.handle, self._batch.scratch)
            self._scrub_at = None
        if self._vision is not None and is_idle and self._has_seen and now >= self._ended_at + WIPE_PICTURES_AFTER_S:
            self._batch.scrub_embeddings(self._context.handle, *self._vision.wipe())
        self._kv.expire(now)
        if is_idle and self._kv.is_unused and not self._kv.is_clean and now >= self._ended_at + WIPE_AFTER_S:
            self._kv.clear_all()
            self._batch.clear_scratch(self._context.handle)
