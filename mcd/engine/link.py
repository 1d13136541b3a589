"""The worker's end of the socketpair: non-blocking, one write a step, no socket module."""

from __future__ import annotations

import os

from mcd.engine import messages
from mcd.engine.messages import ToDaemon, ToWorker

READ_BYTES = 64 * 1024
"""At once: for 128 KiB or more C's allocator maps memory anew at every read."""
MAX_READS_PER_TURN = 64
"""A flood of submits must not keep the loop from decoding: at most 4 MiB are read per turn."""


class LinkClosedError(Exception):
    """The daemon has gone; the worker has nothing left to do."""


class WorkerLink:
    """Owner of the inherited file descriptor and of what waits to be written to it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        self._inbound = messages.FrameBuffer(messages.MAX_FRAME_TO_WORKER_BYTES)
        self._batch: list[ToDaemon] = []
        self._batch_bytes = 0
        self._outbound = bytearray()

    def fileno(self) -> int:
        """For select."""
        return self._fd

    @property
    def wants_write(self) -> bool:
        """Bytes are waiting for the kernel's buffer to empty."""
        return bool(self._outbound)

    def receive(self) -> list[ToWorker]:
        """Every frame that has arrived; empty when none has.

        Raises:
            LinkClosedError: End of file, or garbage, which only a broken daemon sends.
        """
        frames: list[ToWorker] = []
        for _ in range(MAX_READS_PER_TURN):
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                raise LinkClosedError from None
            if not data:
                raise LinkClosedError
            frames.extend(messages.decode_to_worker(body) for body in self._inbound.feed(data))
        return frames

    def post(self, frame: ToDaemon, size_bytes: int = 64) -> None:
        """Add a frame to this step's batch."""
        self._batch.append(frame)
        self._batch_bytes += size_bytes
        if self._batch_bytes >= messages.BATCH_CUT_BYTES:
            self._close_batch()

    def flush(self) -> None:
        """Write the batch, as much as the kernel takes now.

        Raises:
            LinkClosedError: The daemon has gone.
        """
        self._close_batch()
        while self._outbound:
            try:
                n_written = os.write(self._fd, self._outbound)
            except BlockingIOError:
                return
            except OSError:
                raise LinkClosedError from None
            del self._outbound[:n_written]

    def _close_batch(self) -> None:
        if self._batch:
            self._outbound += messages.encode_to_daemon(self._batch)
            self._batch = []
            self._batch_bytes = 0
