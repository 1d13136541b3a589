"""Tokens that are chosen beside the loop: by a large grammar, or from a whole vocabulary.

Their sequences are held meanwhile, everybody else's go on. One at a time, in order of arrival: whoever asks for much
waits for others who do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mcd.engine import crash
from mcd.engine.aside import Aside
from mcd.engine.candidates import Floats
from mcd.engine.sampler import DEAD_END, Deferred, Sampler
from mcd.engine.sequence import Sequence


class Choosing:
    """Owner: Scheduler."""

    def __init__(self) -> None:
        self._aside: Aside[int] = Aside()
        self._keys = itertools.count()
        self._held: dict[int, tuple[Sequence, Floats]] = {}

    def add(self, sequence: Sequence, deferred: Deferred) -> None:
        """Hold a sequence until its token is chosen."""
        sequence.is_held = True
        sequence.sampler.lend()
        key = next(self._keys)
        self._held[key] = sequence, deferred.logits
        self._aside.add(key, _unless_closed(sequence.sampler, deferred.choose), 0)

    def take(self) -> list[tuple[Sequence, int | None, Floats]]:
        """Sequences whose token is chosen, with the row it was chosen from; None when that failed."""
        taken: list[tuple[Sequence, int | None, Floats]] = []
        while (done := self._aside.take()) is not None:
            sequence, logits = self._held.pop(done[0])
            sequence.is_held = False
            if not sequence.sampler.regain():
                continue  # it was cancelled meanwhile
            try:
                taken.append((sequence, done[1].take(), logits))
            except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
                crash.report(type(error), error, error.__traceback__)
                taken.append((sequence, None, logits))
        return taken

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._aside.fileno()

    def close(self) -> None:
        """Take no more, and free what was lent."""
        self._aside.close()
        for sequence, _ in self._held.values():
            sequence.sampler.regain()
            sequence.close()
        self._held.clear()


def _unless_closed(sampler: Sampler, choose: Callable[[], int]) -> Callable[[], int]:
    return lambda: DEAD_END if sampler.is_closed else choose()
