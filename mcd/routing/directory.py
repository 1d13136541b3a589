"""The directory: every verified record we believe now, and an immutable view of what they offer.

Records arrive verified (`mcd.wire.records`); here their order, number and age are judged. Whoever publishes speaks
for himself alone: a flood of records spends its sender's own budget, a flood of peers evicts those that expire first
but none we have a live link to, and a peer that contradicts itself keeps what it said first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Literal

import msgspec

from mcd.ids import PeerId
from mcd.routing.snapshot import Offer, OfferIndex, Snapshot
from mcd.units import UnixMs
from mcd.wire.messages import MAX_RECORD_LIFETIME_MS, Record
from mcd.wire.records import SignedRecord, is_goodbye, is_newer

MAX_PEERS = 10_000
"""Peers remembered: at most 40 MB of records, in practice 8 MB."""
RECORD_BURST = 8
"""Records one peer may publish at once: start, models becoming ready, a changed address."""
RECORD_REFILL_MS = 2_000
"""One more record every 2 s; an honest peer publishes a few a minute."""

Judgement = Literal["accept", "ignore"]
"""accept: new, kept, worth relaying. ignore: dropped and counted."""


class KnownPeer(msgspec.Struct, frozen=True):
    """One live peer of the directory, with or without models."""

    peer_id: PeerId
    record: Record
    heard_ms: UnixMs
    """When its newest record came, or it last proved to be alive; our clock."""
    is_suspect: bool


class _Peer:
    """What the directory remembers of one peer. Owner: Directory."""

    def __init__(self, signed: SignedRecord, now_ms: int) -> None:
        self.signed = signed
        """The newest record; its number counts even when the peer has left or is dead."""
        self.until_ms = 0
        self.forget_ms = 0
        self.heard_ms = now_ms
        self.is_dead = False
        self.is_suspect = False
        self.is_linked = False
        self._budget = float(RECORD_BURST)
        self._budget_ms = now_ms

    def is_live(self, now_ms: int) -> bool:
        """Whether its record is believed now."""
        return not self.is_dead and now_ms < self.until_ms

    def spend(self, now_ms: int) -> bool:
        """Take one record out of its budget, if there is one left."""
        refill = max(0, now_ms - self._budget_ms) / RECORD_REFILL_MS
        self._budget = min(RECORD_BURST, self._budget + refill)
        self._budget_ms = now_ms
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def keep(self, signed: SignedRecord, now_ms: int) -> None:
        """Replace the record; a newer one is proof of life."""
        record = signed.record
        self.signed = signed
        # The publisher's clock may only shorten its record's life: ours says when it came.
        self.until_ms = min(record.expires_ms, now_ms + record.expires_ms - record.issued_ms)
        # Its number outlives every older record that could still be replayed.
        self.forget_ms = max(self.until_ms, record.issued_ms + MAX_RECORD_LIFETIME_MS, record.expires_ms)
        self.heard_ms, self.is_dead, self.is_suspect = now_ms, False, False


class Directory:
    """All verified records, by peer. Owner: `mcd.daemon`; fed by the mesh, read by the entry."""

    def __init__(self, own_id: PeerId, network: str) -> None:
        self._own_id = own_id
        self._network = network
        self._own: SignedRecord | None = None
        self._peers: dict[PeerId, _Peer] = {}
        self._expiries: list[tuple[int, PeerId]] = []
        """Heap of instants at which a peer changes by age alone; entries that no longer hold are skipped."""
        self._index = OfferIndex()
        self._changed: set[PeerId] = set()
        self._snapshot = Snapshot()
        self.counters: Counter[str] = Counter()
        """Records accepted, goodbyes, dropped by reason (own, network, late, replay, equivocation, too_fast, full),
        peers expired and evicted."""

    def __len__(self) -> int:
        return len(self._peers)

    # --- what arrives ----------------------------------------------------------------------------------------

    def judge(self, signed: SignedRecord, now_ms: UnixMs | int) -> Judgement:
        """Keep a verified record if it is news. Only what was accepted is relayed."""
        fault = self._fault(signed, now_ms) or self._admit(signed, now_ms)
        if fault is not None:
            self.counters[fault] += 1
            return "ignore"
        peer = self._peers[signed.peer_id]
        peer.keep(signed, now_ms)
        heapq.heappush(self._expiries, (peer.until_ms, signed.peer_id))
        heapq.heappush(self._expiries, (peer.forget_ms, signed.peer_id))
        self._changed.add(signed.peer_id)
        self.counters["goodbye" if is_goodbye(signed.record) else "accepted"] += 1
        return "accept"

    def set_own(self, signed: SignedRecord | None) -> None:
        """State what our own engines offer, so that they compete like any other."""
        self._own = signed
        self._changed.add(self._own_id)

    # --- proof of life ---------------------------------------------------------------------------------------

    def mark_alive(self, peer_id: PeerId, now_ms: UnixMs | int) -> None:
        """A live link or an answer proves the peer to be there. Such a peer is not evicted."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.is_dead, peer.is_suspect, peer.is_linked, peer.heard_ms = False, False, True, int(now_ms)
            self._changed.add(peer_id)

    def mark_suspect(self, peer_id: PeerId) -> None:
        """A probe failed: others are asked first."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.is_suspect, peer.is_linked = True, False
            self._changed.add(peer_id)

    def mark_dead(self, peer_id: PeerId) -> None:
        """It does not answer: it offers nothing until a newer record or a live link."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.is_dead, peer.is_linked = True, False
            self._changed.add(peer_id)

    # --- what is read ----------------------------------------------------------------------------------------

    def snapshot(self, now_ms: UnixMs | int) -> Snapshot:
        """Every offer of this instant, suspects included, the dead and expired not. Free when nothing changed."""
        self._expire(now_ms)
        if self._changed:
            for peer_id in self._changed:
                self._index.show(peer_id, self._offers(peer_id, now_ms))
            self._changed.clear()
            self._snapshot = self._index.freeze()
        return self._snapshot

    def peers(self, now_ms: UnixMs | int) -> tuple[KnownPeer, ...]:
        """Every live peer but ourselves, by id."""
        return tuple(
            KnownPeer(peer_id, peer.signed.record, UnixMs(peer.heard_ms), peer.is_suspect)
            for peer_id, peer in sorted(self._peers.items())
            if peer.is_live(now_ms)
        )

    def newest_first(self, now_ms: UnixMs | int, n_most: int) -> list[SignedRecord]:
        """Records of live peers but ourselves, those first who were heard of last.   [DISC-30]

        By our clock, so that nobody comes first by a date or an id of his choice.
        """
        live = (peer for peer in self._peers.values() if peer.is_live(now_ms))
        return [peer.signed for peer in heapq.nlargest(n_most, live, key=lambda peer: peer.heard_ms)]

    # --- inside ----------------------------------------------------------------------------------------------

    def _fault(self, signed: SignedRecord, now_ms: int) -> str | None:
        record = signed.record
        if signed.peer_id == self._own_id:
            return "own"
        if record.network != self._network:
            return "network"
        if record.expires_ms <= now_ms and not is_goodbye(record):
            return "late"
        peer = self._peers.get(signed.peer_id)
        if peer is None or is_newer(record, peer.signed.record):
            return None
        contradicts = record.seq == peer.signed.record.seq and signed.raw != peer.signed.raw
        return "equivocation" if contradicts else "replay"

    def _admit(self, signed: SignedRecord, now_ms: int) -> str | None:
        peer = self._peers.get(signed.peer_id)
        if peer is None:
            if not self._make_room(now_ms):
                return "full"
            peer = self._peers[signed.peer_id] = _Peer(signed, now_ms)
        elif is_goodbye(signed.record) and peer.is_live(now_ms):
            return None  # paid for by the record it takes back, so that leaving is never too fast
        return None if peer.spend(now_ms) else "too_fast"

    def _expire(self, now_ms: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, peer_id = heapq.heappop(self._expiries)
            peer = self._peers.get(peer_id)
            if peer is None or peer.until_ms > now_ms:
                continue
            self._changed.add(peer_id)
            if peer.forget_ms <= now_ms:
                del self._peers[peer_id]
                self.counters["expired"] += 1

    def _make_room(self, now_ms: int) -> bool:
        """Whether one more peer fits, if need be after evicting the one without a link that expires first."""
        if len(self._peers) < MAX_PEERS:
            return True
        self._expire(now_ms)
        linked: list[tuple[int, PeerId]] = []
        while len(self._peers) >= MAX_PEERS and self._expiries:
            instant, peer_id = heapq.heappop(self._expiries)
            peer = self._peers.get(peer_id)
            if peer is None or instant not in {peer.until_ms, peer.forget_ms}:
                continue
            if peer.is_linked:
                linked.append((instant, peer_id))
                continue
            del self._peers[peer_id]
            self._changed.add(peer_id)
            self.counters["evicted"] += 1
        for entry in linked:
            heapq.heappush(self._expiries, entry)
        return len(self._peers) < MAX_PEERS

    def _offers(self, peer_id: PeerId, now_ms: int) -> tuple[Offer, ...]:
        if peer_id == self._own_id:
            own = self._own
            return () if own is None else tuple(Offer(peer_id, own.record, m, is_own=True) for m in own.record.models)
        peer = self._peers.get(peer_id)
        if peer is None or not peer.is_live(now_ms):
            return ()
        record = peer.signed.record
        return tuple(Offer(peer_id, record, model, peer.is_suspect) for model in record.models)
