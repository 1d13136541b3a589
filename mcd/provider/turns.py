"""Whose turn it is: which of the requests that wait gets a slot of the engine that comes free, pure.

Order of arrival is fair to requests and not to people: who sends thirty at once has thirty turns before the next one.
So slots are counted for whoever holds them, and one that comes free goes to who holds fewest [EX-33]. Peer ids cost
nothing, addresses something: what is counted first is the address, then the entry behind it.

Who holds equally many is served in a round: whoever was given a slot or gave one back goes behind all others, and so
does a newcomer. On one slot, of which nobody holds any when it comes free, that alone is the fairness.

One sort gives the whole line. Who holds r slots would hold r + k when its k-th waiting request gets its turn, so taking
the least again and again is sorting by r + k. The first is exact; behind it ends and newcomers will change the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mcd.ids import PeerId
from mcd.units import Seconds

MIN_SLOTS_TO_SPARE = 4
"""With so many slots one is kept from an address that holds all others. Of fewer it would be a third or half."""


class Turn:
    """One accepted request's claim to a slot. Owner: `Turns`."""

    __slots__ = ("address", "began_at", "call", "has_slot", "held_s", "n_bytes", "peer_id")

    def __init__(self, peer_id: PeerId, address: str, n_bytes: int, call: Callable[[], None]) -> None:
        """``call`` is called once, when it gets its slot. An empty ``address`` counts nobody but the peer."""
        self.peer_id = peer_id
        self.address = address or peer_id
        self.n_bytes = n_bytes
        """What it holds of our memory."""
        self.call = call
        self.has_slot = False
        """It has its slot, or had it."""
        self.began_at: Seconds | None = None
        """When it got its slot; None before, and where the model was not loaded then."""
        self.held_s: Seconds | None = None
        """How long it held it, once that is over."""


class Turns:
    """The slots of one engine and the line before them. Owner: `mcd.provider.serve`, one for each engine."""

    def __init__(self, own_id: PeerId) -> None:
        self.n_slots = 1
        self._own_id = own_id
        self._running: list[Turn] = []
        self._waiting: list[Turn] = []
        self._round: dict[str, int] = {}
        """Of every address and every peer that is here, when it came, or last was given a slot or gave one back."""
        self._n_marks = 0

    @property
    def n_running(self) -> int:
        """Slots in use."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Requests in the line."""
        return len(self._waiting)

    @property
    def n_waiting_bytes(self) -> int:
        """What they hold of our memory."""
        return sum(turn.n_bytes for turn in self._waiting)

    def __contains__(self, turn: Turn) -> bool:
        """Whether it is in line or has a slot."""
        return turn in self._waiting or turn in self._running

    def n_of(self, address: str) -> int:
        """Slots that an address holds."""
        return sum(turn.address == address for turn in self._running)

    def held_s(self, now: Seconds) -> Seconds:
        """How long those who run have had their slots, on the mean."""
        ages = [now - turn.began_at for turn in self._running if turn.began_at is not None]
        return sum(ages) / len(ages) if ages else 0.0

    def most_of(self, turn: Turn) -> int:
        """Slots that its address may hold at once.   [EX-35]"""
        spares = self.n_slots >= MIN_SLOTS_TO_SPARE and turn.peer_id != self._own_id
        return self.n_slots - spares

    def line(self, *newcomers: Turn) -> list[Turn]:
        """Those who wait in the order of their turns, and where ``newcomers`` would stand.   [EX-33]"""
        arrived = [*self._waiting, *newcomers]
        if len(arrived) < 2:
            return arrived
        by_peer = self._ranks(arrived, lambda turn: turn.peer_id)
        arrived.sort(key=by_peer.__getitem__)
        by_address = self._ranks(arrived, lambda turn: turn.address)
        arrived.sort(key=by_address.__getitem__)
        return arrived

    def _ranks(self, arrived: list[Turn], of: Callable[[Turn], str]) -> dict[Turn, tuple[int, int]]:
        """What each would hold when it begins, and its place in the round."""
        n_held = Counter(map(of, self._running))
        ranks = {}
        for turn in arrived:
            ranks[turn] = n_held[of(turn)], self._round.get(of(turn), self._n_marks + 1)
            n_held[of(turn)] += 1
        return ranks

    def _mark(self, *names: str) -> None:
        self._n_marks += 1
        self._round.update(dict.fromkeys(names, self._n_marks))

    def may_begin(self, turn: Turn) -> bool:
        """Whether one who is first in line would get a slot now."""
        return self.n_running < self.n_slots and self.n_of(turn.address) < self.most_of(turn)

    def join(self, turn: Turn) -> None:
        """Stand in line."""
        self._waiting.append(turn)
        self._mark(*({turn.address, turn.peer_id} - self._round.keys()))

    def leave(self, turn: Turn) -> None:
        """Give the slot back, or leave the line. Idempotent."""
        turns = self._running if turn.has_slot else self._waiting
        if turn in turns:
            turns.remove(turn)
            if turn.has_slot:
                self._mark(turn.address, turn.peer_id)
            here = {name for other in (*self._running, *self._waiting) for name in (other.address, other.peer_id)}
            for name in {turn.address, turn.peer_id} - here:
                del self._round[name]

    def deal(self, now: Seconds | None) -> None:
        """Give away every slot that somebody may have.   [EX-34]

        Args:
            now: None while the model is not loaded: what loading takes is not what holding a slot takes.
        """
        while (turn := self._next()) is not None:
            self._waiting.remove(turn)
            self._running.append(turn)
            self._mark(turn.address, turn.peer_id)
            turn.has_slot, turn.began_at = True, now
            turn.call()

    def _next(self) -> Turn | None:
        if self.n_running >= self.n_slots or not self._waiting:
            return None
        return next((turn for turn in self.line() if self.may_begin(turn)), None)
