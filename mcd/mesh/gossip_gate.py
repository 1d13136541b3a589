"""Who may bring gossip and how much of it: rates, strikes and bans; pure, `now` is an argument.   [DISC-20]

A neighbour is the peer a message came from, an origin the peer that signed it. Limits on the neighbour are checked
before its signature costs us anything; limits on the origin after it, or anyone could use up another's share by
forging its name. libp2p's own scores forget a peer when it disconnects, so bans are kept here.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, TypeVar

from mcd.ids import PeerId
from mcd.units import Seconds
from mcd.wire.discovery import ORIGIN_BURST, ORIGIN_INTERVAL_S

NEIGHBOUR_MESSAGES_PER_S = 40
"""What one neighbour may bring, verified or not; 1,000 peers announcing every 30 s are 33 a second."""
NEIGHBOUR_BURST = 400
"""A neighbour that was away catches up at once."""
VERIFIES_PER_S = 500
"""Signatures checked in all: 168 us each on a 2.8 GHz core, so at most 8 % of one."""
STRIKES_TO_BAN = 20
STRIKE_FADES_S: Seconds = 30.0
"""One strike is forgiven in this time."""
DROPS_PER_STRIKE = 100
"""Messages over the rate that weigh as much as one bad record."""
BAN_PEER_S: Seconds = 24 * 3600.0
BAN_SUBNET_S: Seconds = 3600.0
SUBNET_PEERS_TO_BAN = 3
"""Banned peers of one /24 (IPv6: /48) after which the whole of it is refused for an hour."""
MAX_TRACKED = 8192
"""Buckets, strikes and bans kept of each kind; the longest unused goes first. About 1 MB in all."""

K = TypeVar("K")
V = TypeVar("V")
DropReason = Literal["banned", "neighbour_rate", "origin_rate"]


class Bucket:
    """A token bucket: ``rate`` a second, at most ``burst`` saved up."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at: Seconds | None = None

    def take(self, now: Seconds) -> bool:
        """Take one token; False when there is none."""
        if self._at is not None:
            self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Recent(OrderedDict[K, V]):
    """A dictionary of so many entries that forgets the longest unused."""

    def __init__(self, max_entries: int | None = None) -> None:
        super().__init__()
        self.max_entries = MAX_TRACKED if max_entries is None else max_entries

    def touch(self, key: K, make: Callable[[], V]) -> V:
        """The entry of ``key``, made when absent, now the most recently used."""
        value = self.get(key)
        if value is None:
            value = make()
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Set the entry of ``key`` and forget the longest unused one when there are too many."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.max_entries:
            self.popitem(last=False)


class _Strikes:
    """How badly a neighbour behaved lately."""

    __slots__ = ("at", "n_drops", "points")

    def __init__(self) -> None:
        self.points = 0.0
        self.at: Seconds = 0.0
        self.n_drops = 0


class Gate:
    """Rates, strikes and bans of one mesh. Owner: its gossip service; it outlives connections and restarts of it."""

    def __init__(self) -> None:
        self._neighbours: Recent[PeerId, Bucket] = Recent()
        self._origins: Recent[tuple[PeerId, str], Bucket] = Recent()
        self._verifies = Bucket(VERIFIES_PER_S, VERIFIES_PER_S)
        self._strikes: Recent[PeerId, _Strikes] = Recent()
        self._peer_bans: Recent[PeerId, Seconds] = Recent()
        self._subnet_bans: Recent[str, Seconds] = Recent()
        self._subnet_peers: Recent[str, set[PeerId]] = Recent()

    def admit_neighbour(self, neighbour: PeerId, now: Seconds) -> DropReason | None:
        """Whether a message from ``neighbour`` may be looked at; called before its signature is.   [DISC-21]"""
        if self.is_banned(neighbour, now):
            return "banned"
        bucket = self._neighbours.touch(neighbour, lambda: Bucket(NEIGHBOUR_MESSAGES_PER_S, NEIGHBOUR_BURST))
        if not bucket.take(now):
            return "neighbour_rate"
        return None

    def may_verify(self, now: Seconds) -> bool:
        """Whether one more signature may be checked now.   [DISC-21]"""
        return self._verifies.take(now)

    def admit_origin(self, origin: PeerId, shard: str, now: Seconds) -> DropReason | None:
        """Whether ``origin``, whose signature was verified, may say more on ``shard``.   [DISC-22]"""
        if self.is_banned(origin, now):
            return "banned"
        bucket = self._origins.touch((origin, shard), lambda: Bucket(1 / ORIGIN_INTERVAL_S, ORIGIN_BURST))
        return None if bucket.take(now) else "origin_rate"

    def strike(self, neighbour: PeerId, points: float, now: Seconds, address: str = "") -> bool:
        """Hold ``points`` against a neighbour; True when this bans it.   [DISC-23]

        Args:
            neighbour: Who brought it.
            points: 1 for a bad record; more for what no working implementation sends.
            now: Monotonic time.
            address: Its IP address, for the ban of a subnet; empty when unknown.
        """
        if self.is_banned(neighbour, now):
            return False
        record = self._strikes.touch(neighbour, _Strikes)
        record.points = max(0.0, record.points - (now - record.at) / STRIKE_FADES_S) + points
        record.at = now
        if record.points < STRIKES_TO_BAN:
            return False
        self.ban(neighbour, now, address)
        return True

    def count_drop(self, neighbour: PeerId, now: Seconds, address: str = "") -> bool:
        """Count a message over the neighbour's rate; True when the flood bans it.   [DISC-23]"""
        record = self._strikes.touch(neighbour, _Strikes)
        record.n_drops += 1
        if record.n_drops < DROPS_PER_STRIKE:
            return False
        record.n_drops = 0
        return self.strike(neighbour, 1.0, now, address)

    def ban(self, peer: PeerId, now: Seconds, address: str = "") -> None:
        """Refuse ``peer`` for a day, and its subnet for an hour once enough of it is banned.   [DISC-24]"""
        self._peer_bans.put(peer, now + BAN_PEER_S)
        self._strikes.pop(peer, None)
        subnet = subnet_of(address)
        if subnet is None:
            return
        peers = {other for other in self._subnet_peers.get(subnet, ()) if self.is_banned(other, now)} | {peer}
        self._subnet_peers.put(subnet, peers)
        if len(peers) >= SUBNET_PEERS_TO_BAN:
            self._subnet_bans.put(subnet, now + BAN_SUBNET_S)
            self._subnet_peers.pop(subnet, None)

    def is_banned(self, peer: PeerId, now: Seconds, address: str = "") -> bool:
        """Whether nothing of ``peer``, or of the subnet of ``address``, is wanted now.   [DISC-24]"""
        until = self._peer_bans.get(peer)
        if until is not None:
            if now < until:
                return True
            del self._peer_bans[peer]
        subnet = subnet_of(address)
        banned = None if subnet is None else self._subnet_bans.get(subnet)
        return banned is not None and now < banned


def subnet_of(address: str) -> str | None:
    """The /24 or /48 of a public IP address; None for private, loopback and unreadable ones.

    Neighbours behind one home router share an address and loopback peers share a machine, so those are never banned
    together.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if not ip.is_global:
        return None
    return str(ipaddress.ip_network(f"{ip}/{24 if ip.version == 4 else 48}", strict=False))
