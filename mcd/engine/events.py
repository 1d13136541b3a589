"""One request's frames from the worker, as the events the engine port promises; tells the worker what was taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio

from mcd.engine.messages import Chunk, Failed, FailureCode, Finished, Refused, Started, ToDaemon
from mcd.errors import EngineDeadError, EngineError, EnvelopeError, McdError, RefusedError
from mcd.ports import EngineChunk, EngineEvent, EngineFinished, EngineStarted

CREDIT_BATCH = 8
"""Chunks taken before the worker is told; a frame a chunk would double the traffic."""


class RequestEvents:
    """The events of one request, in order. Owner: the consumer inside `EngineProcess.submit`."""

    def __init__(
        self,
        frames: trio.MemoryReceiveChannel[ToDaemon],
        give_credit: Callable[[int], None],
        cancel: Callable[[], None],
    ) -> None:
        self._frames = frames
        self._give_credit = give_credit
        self._cancel = cancel
        self._n_taken = 0
        self.is_over = False

    def close(self) -> None:
        """Take no more; what is still queued is dropped."""
        self._frames.close()

    def cancel(self) -> None:
        """See ports.EngineAnswer."""
        if not self.is_over:
            self._cancel()

    def __aiter__(self) -> AsyncIterator[EngineEvent]:
        return self

    async def __anext__(self) -> EngineEvent:
        if self.is_over:
            raise StopAsyncIteration
        try:
            frame = await self._next()
        except trio.EndOfChannel:
            raise EngineDeadError("the inference process died; it is being restarted") from None
        match frame:
            case Started():
                return EngineStarted(frame.response_key, frame.n_prompt_tokens)
            case Chunk():
                self._took_chunk()
                return EngineChunk(frame.frame, frame.n_tokens)
            case Finished():
                self.is_over = True
                return EngineFinished(frame.frame, frame.receipt, frame.n_prompt_tokens, frame.n_output_tokens)
            case Refused():
                self.is_over = True
                raise RefusedError("the engine refused the request", reason=frame.reason)
            case _:
                self.is_over = True
                raise _failure(frame.code if isinstance(frame, Failed) else FailureCode.INTERNAL)

    async def _next(self) -> ToDaemon:
        """Without letting other tasks run when a frame is there: a burst then leaves as one Noise message."""
        try:
            return self._frames.receive_nowait()
        except trio.WouldBlock:
            return await self._frames.receive()

    def _took_chunk(self) -> None:
        self._n_taken += 1
        if self._n_taken >= CREDIT_BATCH:
            self._give_credit(self._n_taken)
            self._n_taken = 0


def _failure(code: int) -> McdError:
    if code == FailureCode.ENVELOPE:
        return EnvelopeError("the envelope did not open")
    return EngineError("the engine broke the request off")
