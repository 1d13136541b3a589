"""One engine's front desk: tells admission what is under way, and hands out the slots as they come free."""

from __future__ import annotations

from collections import Counter

import msgspec

from mcd.ids import PeerId
from mcd.ports import Clock, Engine, EngineStatus
from mcd.provider.admission import Accept, Admission, Ask, Decision, Load, Refuse
from mcd.provider.turns import Turn, Turns
from mcd.wire.messages import RefuseReason

MAX_WAITING_PER_SLOT = 16
"""Queue places for each slot: what ten seconds hold of short requests. Of longer ones admission refuses sooner."""
MAX_PER_PEER = 256
"""Exchanges one entry may have open here: it may front for a whole team."""
PEER_SHARE_PERCENT = 75
"""Of all places, what one entry or address may hold at most: the rest is for others.   [EX-26]"""


class Desk:
    """Who may use one engine, and who does. Owner: Provider."""

    def __init__(self, engine: Engine, clock: Clock, own_id: PeerId) -> None:
        self.engine = engine
        self.admission = Admission(1, 0, 1)
        self.turns = Turns(own_id)
        self._open: Counter[str] = Counter()
        self._clock = clock

    def status(self) -> EngineStatus:
        """The engine's, which knows nothing of those who wait here."""
        status = self.engine.status()
        return msgspec.structs.replace(status, n_waiting=status.n_waiting + self.turns.n_waiting)

    def decide(self, turn: Turn, ask: Ask) -> Decision:
        """What to say to one that asks."""
        status = self.engine.status()
        self.admission.max_running = self.turns.n_slots = n_slots = max(1, status.n_slots)
        self.admission.max_waiting = n_waiting = MAX_WAITING_PER_SLOT * n_slots
        self.admission.per_peer = min(MAX_PER_PEER, (n_slots + n_waiting) * PEER_SHARE_PERCENT // 100)
        decision = self.admission.decide(status, self._load(turn), ask)
        if status.state == "asleep" and isinstance(decision, Refuse) and decision.reason is RefuseReason.LOADING:
            self.engine.wake()  # who asks again finds it loaded
        return decision

    def place(self, turn: Turn, ask: Ask) -> Accept:
        """Where one stands that was accepted, and for how long."""
        self._deal()  # the engine may have more slots than when anything happened last
        status = self.engine.status()
        if turn.has_slot:
            return Accept(0, status.ready_in_s)
        load = self._load(turn)
        return Accept(load.n_ahead + 1, self.admission.wait_s(status, load, ask) + status.ready_in_s)

    def _load(self, turn: Turn) -> Load:
        turns = self.turns
        line = turns.line() if turn in turns else turns.line(turn)
        most, may_begin = turns.most_of(turn), turns.may_begin(turn)
        return Load(
            n_open=self._open.total(),
            n_of_asker=self._open[turn.address],
            n_ahead=line.index(turn),
            may_begin=may_begin,
            n_hoped_for=most if turns.n_of(turn.address) >= most else turns.n_slots,
            held_s=turns.held_s(self._clock.now()),
            n_held_bytes=turns.n_waiting_bytes,
        )

    def enter(self, turn: Turn) -> None:
        """Take a place, and a slot as soon as it is its turn."""
        self._open[turn.address] += 1
        self.turns.join(turn)
        self._deal()

    def free(self, turn: Turn) -> None:
        """The engine computes no more for it: the next may begin. Idempotent."""
        if turn.has_slot and turn in self.turns and turn.began_at is not None:
            turn.held_s = self._clock.now() - turn.began_at
        self.turns.leave(turn)
        self._deal()

    def answered(self, turn: Turn) -> None:
        """An answer came of it, and what that took is what others wait for; what cannot be opened takes no time."""
        if turn.held_s is not None:
            self.admission.observe(turn.held_s)

    def leave(self, turn: Turn) -> None:
        """Give the place back."""
        self.free(turn)
        self._open[turn.address] -= 1
        if not self._open[turn.address]:
            del self._open[turn.address]

    def _deal(self) -> None:
        if not self.turns.n_waiting:
            return
        status = self.engine.status()
        self.turns.n_slots = max(1, status.n_slots)
        self.turns.deal(self._clock.now() if status.state == "ready" else None)
