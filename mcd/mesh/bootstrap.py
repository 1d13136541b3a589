"""Keep links: to the bootstrap peers for ever, to suggested peers while there is room.   [DISC-70]"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from mcd.errors import ConfigError, McdError, RemoteProtocolError
from mcd.ids import PeerId
from mcd.mesh.counters import Counters
from mcd.mesh.gossip_gate import Bucket
from mcd.units import Seconds
from mcd.wire.signing import public_key_of

FIRST_RETRY_S: Seconds = 1.0
MAX_RETRY_S: Seconds = 60.0
"""A dead bootstrap address costs one dial a minute."""
QUICK_REDIAL_S: Seconds = 0.3
"""After a loss: a flapping path is back at once, and a restarted daemon within a second."""
LASTING_S: Seconds = 10.0
"""A link that ended sooner was no success: who is full, or has banned us, takes it and drops it."""
MAX_SUGGESTED_TRIES = 3
"""A suggested peer that cannot be dialled is dropped; its next record suggests it again."""
MAX_KEPT_LINKS = 64
"""Links we dial for ourselves; more only cost heartbeats, requests dial whom they need."""
MAX_SUGGESTED = 512
MAX_AT_ONCE = 8
"""Dials under way: a handshake costs 10 ms of CPU on either side."""
SUGGESTED_DIALS_PER_S = 2
"""Anyone may sign records with a victim's address under ever new ids: what a network sends there must stay small."""
SUGGESTED_BURST = 64
"""A joining peer reaches its MAX_KEPT_LINKS at once."""
YIELD_S: Seconds = 2.0
"""Of two peers that hear of each other at once, the one with the greater id waits this long for the other's dial."""

Connect = Callable[[PeerId, Sequence[str]], Awaitable[None]]


class _Target:
    """A peer we want a link to."""

    __slots__ = ("addresses", "due", "had_quick", "is_bootstrap", "n_tries", "retry_s", "up_at")

    def __init__(self, addresses: Sequence[str], due: Seconds, *, is_bootstrap: bool) -> None:
        self.addresses = list(addresses)
        self.due = due
        self.is_bootstrap = is_bootstrap
        self.n_tries = 0
        self.retry_s = FIRST_RETRY_S
        self.up_at: Seconds = 0.0
        self.had_quick = False
        """It was dialled again at once after a loss, and no link has lasted since."""


def peer_of(address: str) -> PeerId:
    """The peer id at the end of a bootstrap address.

    Raises:
        ConfigError: There is none.
    """
    head, _, peer = address.rpartition("/p2p/")
    try:
        public_key_of(peer)
    except RemoteProtocolError:
        head = ""
    if not head:
        raise ConfigError(f"--bootstrap {address} does not end in /p2p/<peer id>; ask that peer for `mcd id`")
    return PeerId(peer)


def may_be_a_peers(address: str) -> bool:
    """Whether an address that a stranger's record names can be another machine's.   [DISC-76]

    Loopback and the like lead to our own machine or to many: a record may not make us knock at local services.
    """
    kind, _, rest = address.removeprefix("/").partition("/")
    try:
        ip = ipaddress.ip_address(rest.partition("/")[0]) if kind in ("ip4", "ip6") else None
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip is None or not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local)


class Dialer:
    """Dials and redials. Owner: the mesh, which runs it under a supervisor and tells it of links."""

    def __init__(self, connect: Connect, *, own_id: PeerId, bootstrap: Sequence[str], counters: Counters) -> None:
        """Keep what a run needs.

        Args:
            connect: Dials a peer; raises McdError when it does not answer.
            own_id: Ours, never dialled.
            bootstrap: Addresses of known peers, each ending in /p2p/<id>.
            counters: Where dials are counted.

        Raises:
            ConfigError: A bootstrap address names no peer.
        """
        self._connect = connect
        self._own_id = own_id
        self._counters = counters
        self._linked: set[PeerId] = set()
        self._dialling: set[PeerId] = set()
        self._targets: dict[PeerId, _Target] = {}
        self._strangers = Bucket(SUGGESTED_DIALS_PER_S, SUGGESTED_BURST)
        self._strangers_at: Seconds = 0.0
        """No suggested peer is due before: one moment for all, as each moment costs a look at every target."""
        self._wake = trio.Event()
        self.is_banned: Callable[[PeerId], bool] = lambda _: False
        self.on_unreached: Callable[[str], None] = lambda _: None
        """Told of a bootstrap address nobody answers at, once until its peer is linked."""
        for address in bootstrap:
            peer = peer_of(address)
            target = self._targets.setdefault(peer, _Target((), 0.0, is_bootstrap=True))
            target.addresses.append(address)
        self._targets.pop(own_id, None)

    def suggest(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Say where a peer may be found; it is dialled if there is room, and redialled once if lost.   [DISC-72]"""
        if peer == self._own_id or not addresses:
            return
        target = self._targets.get(peer)
        if target is not None:
            if not target.is_bootstrap:
                target.addresses = list(addresses)
            return
        if len(self._targets) >= MAX_SUGGESTED:
            self._counters.add("dial_suggestion_dropped")
            return
        yield_s = 0.0 if self._own_id < peer else YIELD_S
        self._targets[peer] = _Target(addresses, trio.current_time() + yield_s, is_bootstrap=False)
        self._wake.set()

    def link_up(self, peer: PeerId) -> None:
        """Learn of a link."""
        self._linked.add(peer)
        target = self._targets.get(peer)
        if target is not None:
            target.n_tries, target.up_at = 0, trio.current_time()

    def link_down(self, peer: PeerId) -> None:
        """Learn of a loss: dial once more at once, and who is lost again soon as if it had not answered.   [DISC-71]"""
        self._linked.discard(peer)
        target = self._targets.get(peer)
        if target is None:
            return
        now = trio.current_time()
        if now - target.up_at >= LASTING_S:
            target.retry_s, target.had_quick = FIRST_RETRY_S, False
        if not target.had_quick:
            target.had_quick = True
            target.due = now + QUICK_REDIAL_S * (1 + random.random())  # noqa: S311 # spreads the herd
            if not target.is_bootstrap:
                target.n_tries = MAX_SUGGESTED_TRIES - 1
        elif target.is_bootstrap:
            _put_off(target)
        else:
            del self._targets[peer]
        self._wake.set()

    def unreached(self) -> list[str]:
        """Bootstrap addresses where nobody answered, of peers without a link; dialled again all the same."""
        lost = [target for peer, target in self._targets.items() if target.is_bootstrap and peer not in self._linked]
        return [address for target in lost if target.n_tries for address in target.addresses]

    async def run(self) -> None:
        """Dial what is due until cancelled."""
        places = trio.Semaphore(MAX_AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                due = [peer for peer, target in self._targets.items() if self._due(target) <= now]
                random.shuffle(due)  # no order to rely on
                for peer in sorted(due, key=lambda peer: not self._targets[peer].is_bootstrap):
                    await places.acquire()
                    if not self._wants(peer) or not self._may_dial(self._targets[peer]):
                        places.release()
                        continue
                    self._dialling.add(peer)
                    nursery.start_soon(self._dial, peer, places)
                self._wake = trio.Event()
                with trio.move_on_at(self._next_due()):
                    await self._wake.wait()

    def _wants(self, peer: PeerId) -> bool:
        target = self._targets.get(peer)
        if target is None or peer in self._linked or peer in self._dialling:
            return False
        if self.is_banned(peer):
            target.due = trio.current_time() + MAX_RETRY_S
            return False
        return target.is_bootstrap or len(self._linked | self._dialling) < MAX_KEPT_LINKS

    def _may_dial(self, target: _Target) -> bool:
        """Whether the rate allows this dial now; else it is put off.   [DISC-74]"""
        now = trio.current_time()
        if self._due(target) > now:
            return False
        if target.is_bootstrap or self._strangers.take(now):
            return True
        self._strangers_at = now + 1 / SUGGESTED_DIALS_PER_S
        return False

    def _due(self, target: _Target) -> Seconds:
        return target.due if target.is_bootstrap else max(target.due, self._strangers_at)

    def _next_due(self) -> Seconds:
        """When the next dial is due; linked peers are not waited for."""
        due = [self._due(target) for peer, target in self._targets.items() if self._wants(peer)]
        return min(due, default=trio.current_time() + MAX_RETRY_S)

    async def _dial(self, peer: PeerId, places: trio.Semaphore) -> None:
        target = self._targets[peer]
        try:
            await self._connect(peer, target.addresses)
            target.due = max(target.due, trio.current_time() + FIRST_RETRY_S)  # it may have been lost again already
            self._counters.add("dial_ok")
        except McdError:
            self._counters.add("dial_failed")
            self._back_off(peer, target)
        finally:
            self._dialling.discard(peer)
            places.release()
            self._wake.set()

    def _back_off(self, peer: PeerId, target: _Target) -> None:
        target.n_tries += 1
        if not target.is_bootstrap and target.n_tries >= MAX_SUGGESTED_TRIES:
            self._targets.pop(peer, None)
            return
        if target.is_bootstrap and target.n_tries == 1:
            for address in target.addresses:
                self.on_unreached(address)
        _put_off(target)


def _put_off(target: _Target) -> None:
    """Dial it later, each time twice as much."""
    target.due = trio.current_time() + target.retry_s * (0.75 + random.random() / 2)  # noqa: S311
    target.retry_s = min(2 * target.retry_s, MAX_RETRY_S)
