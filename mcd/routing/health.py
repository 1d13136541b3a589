"""Whom not to ask just now: a circuit breaker for each peer, and the waits that providers asked for.

A failure (stream broken, time-out, protocol broken, engine died) opens the breaker for 0.5 s, doubling with each
further one up to a minute; then one trial at a time may prove the peer well again. Being busy is no failure: it only
moves the instant before which that model is not asked of that peer. Time is an argument, monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from mcd.ids import ModelDigest, PeerId
from mcd.units import Seconds

BACKOFF_FIRST_S = 0.5
"""After one failure: a lost packet or a restart is over by then."""
MAX_BACKOFF_S = 60.0
"""A peer that comes back is used again within a minute."""
TRIAL_TIMEOUT_S = 30.0
"""A trial that never reported stops blocking the next one: an entry that forgot must not cost a peer its place."""
MAX_WAIT_S = 60.0
"""Longest that a provider can keep itself out by one retry-after."""
REFUSED_AGAIN_S = 0.1
"""Least wait after a second refusal in a row, doubling with each further one: who always says "in no time" and never
works would be tried before everybody else for ever."""
MAX_REFUSED_AGAIN_S = 10.0
"""Longest such wait; what the provider itself asks for may be longer."""
MAX_TRACKED = 10_000
"""Peers (and peer-model pairs) remembered, least recently used first out."""
MEMORY = 0.95
"""Weight of the past in the fraction of good exchanges: the last 20 count most."""


class _Breaker:
    """One peer's record of late. Owner: Health."""

    def __init__(self) -> None:
        self.n_failures = 0
        """Failures in a row."""
        self.n_refusals = 0
        """Refusals in a row, those during one wait counted once."""
        self.closed_at: Seconds = 0.0
        """When the back-off ends."""
        self.trial_until: Seconds = 0.0
        self.n_good = 0.0
        self.n_tried = 0.0

    def count(self, is_good: bool) -> None:
        self.n_good = self.n_good * MEMORY + is_good
        self.n_tried = self.n_tried * MEMORY + 1


class Standing(msgspec.Struct, frozen=True):
    """Whether a peer may be asked for a model now."""

    not_before: Seconds
    """May be asked from this instant on; in the past when it may be asked now."""
    why: str
    """Empty, or why it has to wait."""
    fail_fraction: float
    """Expected fraction of exchanges that fail, with one good exchange assumed beforehand."""


class Health:
    """Breakers and waits of all peers. Owner: the entry."""

    def __init__(self) -> None:
        self._breakers: OrderedDict[PeerId, _Breaker] = OrderedDict()
        self._waits: OrderedDict[tuple[PeerId, ModelDigest], Seconds] = OrderedDict()

    def standing(self, peer_id: PeerId, digest: ModelDigest, now: Seconds) -> Standing:
        """What we hold against asking a peer for a model now."""
        wait_until = self._waits.get((peer_id, digest), 0.0)
        breaker = self._breakers.get(peer_id)
        if breaker is None:
            return Standing(wait_until, "busy" if wait_until > now else "", 0.0)
        fail_fraction = 1 - (breaker.n_good + 1) / (breaker.n_tried + 1)
        blocked_until, why = wait_until, "busy"
        if breaker.n_failures:
            is_trial = breaker.trial_until > now
            until = breaker.trial_until if is_trial else breaker.closed_at
            if until > blocked_until:
                blocked_until, why = until, "on trial" if is_trial else "breaker open"
        return Standing(blocked_until, why if blocked_until > now else "", fail_fraction)

    def asked(self, peer_id: PeerId, now: Seconds) -> None:
        """A request goes out to the peer. While it has failures behind it, that is its trial."""
        breaker = self._breakers.get(peer_id)
        if breaker is not None and breaker.n_failures:
            breaker.trial_until = now + TRIAL_TIMEOUT_S

    def succeeded(self, peer_id: PeerId) -> None:
        """An exchange ended well: the breaker closes."""
        breaker = self._breaker(peer_id)
        breaker.count(is_good=True)
        breaker.n_failures, breaker.n_refusals, breaker.trial_until = 0, 0, 0.0

    def failed(self, peer_id: PeerId, now: Seconds) -> None:
        """An exchange failed by the peer's fault: the breaker opens, for twice as long each time in a row."""
        breaker = self._breaker(peer_id)
        breaker.count(is_good=False)
        backoff_s = min(MAX_BACKOFF_S, BACKOFF_FIRST_S * 2 ** min(breaker.n_failures, 16))
        breaker.n_failures += 1
        breaker.closed_at, breaker.trial_until = now + backoff_s, 0.0

    def refused(self, peer_id: PeerId, digest: ModelDigest, retry_after_s: Seconds, now: Seconds) -> None:
        """The provider cannot take this model's request now; an honest no is proof of life, not a failure."""
        breaker = self._breaker(peer_id)
        breaker.n_failures, breaker.trial_until = 0, 0.0
        breaker.n_refusals += self._waits.get((peer_id, digest), 0.0) <= now
        n_again = min(breaker.n_refusals, 16) - 1
        least_s = min(MAX_REFUSED_AGAIN_S, REFUSED_AGAIN_S * 2 ** (n_again - 1)) if n_again > 0 else 0.0
        self._waits[peer_id, digest] = now + min(MAX_WAIT_S, max(least_s, retry_after_s))
        self._waits.move_to_end((peer_id, digest))
        if len(self._waits) > MAX_TRACKED:
            self._waits.popitem(last=False)

    def released(self, peer_id: PeerId) -> None:
        """A request ended without a verdict on the peer, e.g. cancelled by our user: another trial may begin."""
        breaker = self._breakers.get(peer_id)
        if breaker is not None:
            breaker.trial_until = 0.0

    def ok_fraction(self, peer_id: PeerId) -> float | None:
        """Exchanges that ended well, of those tried, the newest weighing most; None when none was."""
        breaker = self._breakers.get(peer_id)
        return breaker.n_good / breaker.n_tried if breaker is not None and breaker.n_tried else None

    def _breaker(self, peer_id: PeerId) -> _Breaker:
        breaker = self._breakers.setdefault(peer_id, _Breaker())
        self._breakers.move_to_end(peer_id)
        if len(self._breakers) > MAX_TRACKED:
            self._breakers.popitem(last=False)
        return breaker
