"""What is done with every record, whichever way it came: measure, judge, count, hold against.   [DISC-25]"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mcd.ids import PeerId
from mcd.mesh.counters import Counters
from mcd.mesh.gossip_gate import Gate, Recent
from mcd.ports import Verdict
from mcd.units import Seconds
from mcd.wire.messages import MAX_RECORD_BYTES

REPEAT_S: Seconds = 10.0
"""The same record is not opened again within this time: a signature check saved for each further way it comes."""
MAX_REMEMBERED = 1024
"""At most 4 MiB of records."""

Judge = Callable[[bytes, PeerId], Verdict]


def ignore_all(record: bytes, neighbour: PeerId) -> Verdict:
    """The judge until the daemon sets one."""
    del record, neighbour
    return "ignore"


class Intake:
    """Judges records and keeps account of who brought bad ones. Owner: the mesh; it outlives service restarts."""

    def __init__(
        self,
        *,
        counters: Counters,
        ip_of: Callable[[PeerId], str] = lambda _: "",
        on_ban: Callable[[PeerId], None] = lambda _: None,
    ) -> None:
        self.gate = Gate()
        self.judge: Judge = ignore_all
        self.counters = counters
        self._judged: Recent[bytes, Seconds] = Recent(MAX_REMEMBERED)
        self._ip_of = ip_of
        self._on_ban = on_ban

    def offer(self, record: bytes, neighbour: PeerId) -> Verdict:
        """Judge one record; a bad one is held against the peer that brought it.   [DISC-25]"""
        if len(record) > MAX_RECORD_BYTES:
            self.counters.add("record_oversized")
            verdict: Verdict = "reject"
        elif self._is_repeated(record):
            verdict = "ignore"
        else:
            verdict = self.judge(record, neighbour)
            if verdict != "reject":
                self._judged.put(record, trio.current_time())
        self.counters.add(f"record_{verdict}")
        if verdict == "reject":
            self.strike(neighbour, 1.0)
        return verdict

    def _is_repeated(self, record: bytes) -> bool:
        """Whether these bytes were judged and found no fault with a moment ago: each link brings them once more."""
        return trio.current_time() - self._judged.get(record, -REPEAT_S) < REPEAT_S

    def strike(self, neighbour: PeerId, points: float) -> None:
        """Hold ``points`` against a neighbour, and part with it when it has too many.   [DISC-23]"""
        if self.gate.strike(neighbour, points, trio.current_time(), self._ip_of(neighbour)):
            self._part_with(neighbour)

    def admits(self, neighbour: PeerId) -> bool:
        """Whether a gossip message from ``neighbour`` may be looked at now.   [DISC-21]"""
        now = trio.current_time()
        reason = self.gate.admit_neighbour(neighbour, now)
        if reason is None:
            return True
        self.counters.add(f"gossip_{reason}")
        if reason == "neighbour_rate" and self.gate.count_drop(neighbour, now, self._ip_of(neighbour)):
            self._part_with(neighbour)
        return False

    def admits_origin(self, origin: PeerId, shard: str) -> bool:
        """Whether ``origin``, whose signature was verified, may say more on ``shard`` now.   [DISC-22]"""
        reason = self.gate.admit_origin(origin, shard, trio.current_time())
        if reason is not None:
            self.counters.add(f"gossip_{reason}")
        return reason is None

    def may_verify(self) -> bool:
        """Whether the budget of signatures allows one more now.   [DISC-21]"""
        allowed = self.gate.may_verify(trio.current_time())
        if not allowed:
            self.counters.add("gossip_verify_rate")
        return allowed

    def is_banned(self, peer: PeerId) -> bool:
        """Whether nothing of ``peer`` or its subnet is wanted.   [DISC-24]"""
        return self.gate.is_banned(peer, trio.current_time(), self._ip_of(peer))

    def _part_with(self, peer: PeerId) -> None:
        self.counters.add("peer_banned")
        self._on_ban(peer)
