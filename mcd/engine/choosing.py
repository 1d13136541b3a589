"""Tokens that are chosen beside the loop: by a large grammar, or from a whole vocabulary.

Their sequences are held meanwhile, everybody else's go on. A mask takes 20 to 60 ms of 136,000 tokens, under a grammar
that may go on in many ways at once up to nine seconds, and cannot be stopped. So grammars with few ways have a thread
of their own, and on either thread whoever has had least time is next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mcd.engine import crash
from mcd.engine.aside import Aside, Outcome
from mcd.engine.candidates import Floats
from mcd.engine.sampler import DEAD_END, TOO_SLOW, Deferred, Sampler
from mcd.engine.sequence import Sequence
from mcd.engine.shares import Shares

MAX_CHOICE_S = 20.0
"""Processor time of one token, twice what 4096 ways take. A request that needs more ends: others wait for it."""


class _Lane:
    """One thread and who waits for it. Owner: Choosing."""

    def __init__(self) -> None:
        self._aside: Aside[int] = Aside()
        self._shares: Shares[tuple[int, Callable[[], int]]] = Shares()
        self._asker: int | None = None
        """Whose call runs."""

    def add(self, asker: int, key: int, call: Callable[[], int]) -> None:
        self._shares.add(asker, (key, call))
        self._go_on()

    def take(self) -> tuple[int, Outcome[int]] | None:
        done = self._aside.take()
        if done is None:
            return None
        assert self._asker is not None
        self._shares.took(self._asker, done[1].took_s)
        self._asker = None
        self._go_on()
        return done

    def fileno(self) -> int:
        return self._aside.fileno()

    def close(self) -> None:
        self._aside.close()

    def _go_on(self) -> None:
        if self._asker is None and (following := self._shares.next()) is not None:
            self._asker, (key, call) = following
            self._aside.add(key, call, 0)


class Choosing:
    """Owner: Scheduler."""

    def __init__(self) -> None:
        self._quick, self._slow = _Lane(), _Lane()
        self._keys = itertools.count()
        self._held: dict[int, tuple[Sequence, Floats]] = {}

    def add(self, sequence: Sequence, deferred: Deferred) -> None:
        """Hold a sequence until its token is chosen."""
        sequence.is_held = True
        sequence.sampler.lend()
        key = next(self._keys)
        self._held[key] = sequence, deferred.logits
        lane = self._quick if sequence.sampler.is_quick else self._slow
        lane.add(sequence.job.asker, key, _unless_closed(sequence.sampler, deferred.choose))

    def take(self) -> list[tuple[Sequence, int | None, Floats]]:
        """Sequences whose token is chosen, with the row it was chosen from; None when that failed."""
        taken: list[tuple[Sequence, int | None, Floats]] = []
        for lane in (self._quick, self._slow):
            while (done := lane.take()) is not None:
                sequence, logits = self._held.pop(done[0])
                sequence.is_held = False
                if not sequence.sampler.regain():
                    continue  # it was cancelled meanwhile
                taken.append((sequence, _token(done[1]), logits))
        return taken

    def wakers(self) -> tuple[int, int]:
        """Each readable when `take` has something."""
        return self._quick.fileno(), self._slow.fileno()

    def close(self) -> None:
        """Take no more, and free what was lent."""
        self._quick.close()
        self._slow.close()
        for sequence, _ in self._held.values():
            sequence.sampler.regain()
            sequence.close()
        self._held.clear()


def _token(outcome: Outcome[int]) -> int | None:
    try:
        token = outcome.take()
    except Exception as error:  # noqa: BLE001 - a request that finds a bug of ours must not end all the others
        crash.report(type(error), error, error.__traceback__)
        return None
    return token if outcome.took_s <= MAX_CHOICE_S else TOO_SLOW


def _unless_closed(sampler: Sampler, choose: Callable[[], int]) -> Callable[[], int]:
    return lambda: DEAD_END if sampler.is_closed else choose()
