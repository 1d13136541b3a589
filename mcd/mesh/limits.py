"""Every limit of the mesh core, and the gate that keeps one address from taking all of them.

None of libp2p's own limits is relied upon: by default 250 idle sockets of one address lock everybody out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import msgspec

from mcd.rate import Rate


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one host grants to the network. Defaults are for the open Internet."""

    max_links: int = 300
    """Connections, both directions: 54 kB each, and 50-100 new ones a second saturate a core."""
    max_inbound_links: int = 236
    """Of them inbound: the 64 that we dial for ourselves, and the providers of our requests, always find a place. Else
    whoever has twenty addresses (or one IPv6 /48) could fill all of them and decide whom we may talk to."""
    max_per_address: int = 16
    """Established inbound connections of one IPv4 address or IPv6 /64: a household, not a botnet."""
    max_half_open_per_address: int = 16
    """Inbound connections of one address still in the handshake; the oldest makes room for the newest."""
    max_half_open: int = 128
    """The same over all addresses; the address that holds most pays."""
    handshakes_per_s: float = 20.0
    """Handshakes of one address a second: each costs us 2.5 ms of CPU before we know who it is, so 5 % of a core."""
    handshake_burst: int = 40
    """And so many at once: a rack of peers behind one address starting together."""
    max_links_per_peer: int = 4
    """Simultaneous dials leave two; more buy a peer nothing."""
    max_streams_per_peer: int = 512
    """Inbound streams of one peer over all its links, open at once: one exchange each, 8 kB each."""
    upgrade_timeout_s: float = 4.0
    """From accept to a ready muxer; honest peers need 5 round trips."""
    negotiate_timeout_s: float = 5.0
    """From an inbound stream's first byte to its agreed protocol."""
    dial_timeout_s: float = 5.0
    """From the first SYN to a ready link, all addresses together."""
    max_unread_bytes: int = 128 * 1024 * 1024
    """Received and not yet read, over all links; beyond it the heaviest stream is reset."""


class Sheds(Protocol):
    """A connection that can give memory back."""

    n_unread_bytes: int

    def shed(self) -> None:
        """Reset the heaviest stream."""
        ...


class ReceiveBudget:
    """Unread bytes over all connections of a host; they share it, the host owns it."""

    def __init__(self, max_bytes: int = Limits().max_unread_bytes) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.members: set[Sheds] = set()

    @property
    def is_exceeded(self) -> bool:
        """True when something must go."""
        return self.n_bytes > self.max_bytes

    def shed(self) -> None:
        """Let the connection that holds most lose its heaviest stream, whoever sent the last byte."""
        if self.members:
            max(self.members, key=lambda member: member.n_unread_bytes).shed()


class Admission:
    """One inbound connection's place at the gate, from accept to close."""

    def __init__(self, gate: AddressGate, key: str, evict: Callable[[], None]) -> None:
        self._gate = gate
        self.key = key
        self.evict = evict
        self.is_established = False

    def may_begin(self, now_s: float) -> bool:
        """Whether its handshake may begin now; ask again in a moment otherwise."""
        return self._gate.rate.take(self.key, now_s)

    def establish(self) -> bool:
        """The handshake is done; False when its address has all the links it may have."""
        return self._gate._establish(self)  # noqa: SLF001  # the two classes are one thing

    def release(self) -> None:
        """The connection is gone. Idempotent."""
        self._gate._release(self)  # noqa: SLF001  # the two classes are one thing


class AddressGate:
    """Decides which inbound connections may exist.

    Half-open ones are cheap to make, so the newest always gets in and the oldest of the same address goes: idle
    sockets cannot keep anyone out, not even an honest peer behind the same address. Established ones cost a
    handshake each and are capped.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.rate = Rate(limits.handshakes_per_s, limits.handshake_burst)
        self._half_open: dict[str, list[Admission]] = {}
        self._n_half_open = 0
        self._established: dict[str, int] = {}
        self._n_established = 0
        self.n_refused = 0
        self.n_evicted = 0

    def admit(self, address: str, evict: Callable[[], None]) -> Admission | None:
        """A place for a new connection from ``address``, or None when it, or all, hold their share of links.

        ``evict`` must close the connection; it is called at most once, and only while half-open.
        """
        key = network_of(address)
        if self._is_full(key):
            self.n_refused += 1
            return None
        mine = self._half_open.setdefault(key, [])
        if len(mine) >= self._limits.max_half_open_per_address:
            self._evict_oldest(key)
        elif self._n_half_open >= self._limits.max_half_open:
            self._evict_oldest(max(self._half_open, key=lambda other: len(self._half_open[other])))
        admission = Admission(self, key, evict)
        self._half_open.setdefault(key, []).append(admission)
        self._n_half_open += 1
        return admission

    @property
    def n_half_open(self) -> int:
        """Connections still in the handshake."""
        return self._n_half_open

    def _is_full(self, key: str) -> bool:
        """Whether this address, or all together, have the links they may have.   [DISC-75]"""
        is_used_up = self._n_established >= self._limits.max_inbound_links
        return is_used_up or self._established.get(key, 0) >= self._limits.max_per_address

    def _evict_oldest(self, key: str) -> None:
        oldest = self._half_open[key][0]
        self._release(oldest)
        self.n_evicted += 1
        oldest.evict()

    def _establish(self, admission: Admission) -> bool:
        if not self._leave_half_open(admission):
            return False
        if self._is_full(admission.key):
            self.n_refused += 1
            return False
        self._established[admission.key] = self._established.get(admission.key, 0) + 1
        self._n_established += 1
        admission.is_established = True
        return True

    def _release(self, admission: Admission) -> None:
        if admission.is_established:
            admission.is_established = False
            self._n_established -= 1
            left = self._established[admission.key] - 1
            if left:
                self._established[admission.key] = left
            else:
                del self._established[admission.key]
        else:
            self._leave_half_open(admission)

    def _leave_half_open(self, admission: Admission) -> bool:
        mine = self._half_open.get(admission.key, [])
        if admission not in mine:
            return False
        mine.remove(admission)
        self._n_half_open -= 1
        if not mine:
            del self._half_open[admission.key]
        return True


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 a single IPv6 subscriber is given."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


@lru_cache(maxsize=1024)  # every request of a peer asks twice, and parsing takes 5 us
def public_network_of(address: str) -> str:
    """`network_of` an address of the Internet, else empty: behind one of our own net may be anybody's machines."""
    network = network_of(address)
    try:
        return network if ipaddress.ip_network(network).is_global else ""
    except ValueError:
        return ""
