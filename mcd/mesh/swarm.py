"""libp2p's swarm with its connection policy replaced by ours.

Taken out: dialling only one address per transport, a fixed 250 ms wait after a successful dial, the pruner, the
automatic connector, retries. Put in: our muxer, a race over all addresses under one deadline, the address gate's
verdict on every finished handshake, a cap on links per peer, and news of links.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.transport.upgrader import TransportUpgrader

from mcd.mesh.limits import Limits, ReceiveBudget
from mcd.mesh.noise_pipe import NoisePipe
from mcd.mesh.tcp import TcpTransport, place_of
from mcd.mesh.yamux import Yamux

YAMUX_PROTOCOL = "/yamux/1.0.0"
HEAD_START_S = 0.15
"""Between the starts of two dials to one peer (happy eyeballs, RFC 8305 says 150-250 ms)."""
MAX_DIAL_ADDRESSES = 8
MAX_DIALS = 32
"""Dials at once over all peers."""
REDIAL_AFTER_S = 10.0
"""A peer none of whose addresses answered is not dialled again so soon, unless someone asks for it by name."""
MAX_FAILED_PEERS = 4096
NOTIFY_S = 2.0
"""For all who are told of a link or its end; less than a handshake may take, which waits for it."""


class YamuxOnly(MuxerMultistream):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """Negotiates yamux and builds ours; the original hard-codes libp2p's class whatever it is told."""

    def __init__(self, budget: ReceiveBudget, timeout_s: float) -> None:
        super().__init__({YAMUX_PROTOCOL: Yamux}, int(timeout_s))
        self._budget = budget

    async def new_conn(self, conn: Any, peer_id: ID) -> Any:
        """Our muxer over a secured connection."""
        protocol = (await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout))[0]
        if protocol != YAMUX_PROTOCOL:
            raise MultiselectError("no common muxer")
        return self._annotate_connection(Yamux(NoisePipe(conn), peer_id, budget=self._budget), conn, protocol)


class _Idle:
    """Takes the places of libp2p's automatic connector, which dials 150 peers by itself, and of its pruner."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Nothing to run."""

    def record_disconnect(self, peer_id: ID) -> None:
        """Nothing to remember."""


class MeshSwarm(Swarm):  # type: ignore[misc]  # as above
    """The swarm under a Host."""

    def __init__(self, peer_id: ID, peerstore: Any, security: Any, transport: TcpTransport, limits: Limits) -> None:
        self.limits = limits
        self.budget = ReceiveBudget(limits.max_unread_bytes)
        upgrader = TransportUpgrader(security, {}, int(limits.upgrade_timeout_s))
        upgrader.muxer_multistream = YamuxOnly(self.budget, limits.upgrade_timeout_s)
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[transport],
            retry_config=RetryConfig(max_retries=0),
            connection_config=ConnectionConfig(
                max_connections=limits.max_links,
                min_connections=0,
                low_watermark=0,
                high_watermark=limits.max_links,
                max_connections_per_peer=limits.max_links_per_peer,
                inbound_upgrade_timeout=limits.upgrade_timeout_s,
                outbound_upgrade_timeout=limits.upgrade_timeout_s,
                inbound_stream_protocol_negotiation_timeout=limits.negotiate_timeout_s,
                outbound_stream_protocol_negotiation_timeout=limits.negotiate_timeout_s,
            ),
        )
        self.auto_connector = self.connection_pruner = _Idle()
        self.on_up: Callable[[Any], None] = lambda _: None
        """Told of every registered link (a SwarmConn)."""
        self.on_down: Callable[[Any], None] = lambda _: None
        """Told once of the end of every link of which ``on_up`` was told."""
        self.n_refused_links = 0
        self._linked: set[Any] = set()
        self._dials: dict[ID, trio.Event] = {}
        self._dial_limiter = trio.CapacityLimiter(MAX_DIALS)
        self._failed_at_s: dict[ID, float] = {}

    # --- links ------------------------------------------------------------------------------------------------

    async def upgrade_inbound_raw_conn(self, raw_conn: Any, maddr: Any) -> Any:
        """Handshake and register, then ask the gate whether the address may have one more link.

        Raises:
            SwarmException: It may not, or the handshake failed.
        """
        muxed = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
        admission = raw_conn.stream.admission
        if admission is not None and not admission.establish():
            self.n_refused_links += 1
            await muxed.close()
            raise SwarmException("too many links from this address")
        return muxed

    async def add_conn(self, muxed_conn: Any, direction: str = "unknown") -> Any:
        """Register a link unless its peer has enough.

        Raises:
            SwarmException: It has.
        """
        if len(self.get_connections(muxed_conn.peer_id)) >= self.limits.max_links_per_peer:
            self.n_refused_links += 1
            await muxed_conn.close()
            raise SwarmException("too many links to this peer")
        return await super().add_conn(muxed_conn, direction)

    async def notify_connected(self, conn: Any) -> None:
        """A link is registered; one that ended meanwhile is struck off again, which the original forgets."""
        if conn.is_closed:
            super().remove_conn(conn)
            return
        self._linked.add(conn)
        self._failed_at_s.pop(conn.muxed_conn.peer_id, None)
        self.on_up(conn)
        await super().notify_connected(conn)

    async def _notify(self, method: str, *args: Any) -> None:
        """Tell libp2p's services, but wait for none of them for ever: they queue what they hear for a task of theirs.

        The original waits, also shielded where a link could not be registered: one service that has stopped, or has
        not started, would keep every dial and the end of the daemon waiting.
        """
        with trio.move_on_after(NOTIFY_S):
            await super()._notify(method, *args)

    async def notify_opened_stream(self, stream: Any) -> None:
        """Tell nobody: of streams none of libp2p's services wants to hear, and each would hear in a task of its own."""

    async def notify_closed_stream(self, stream: Any) -> None:
        """As above."""

    def remove_conn(self, swarm_conn: Any) -> None:
        """A link has ended."""
        super().remove_conn(swarm_conn)
        if swarm_conn in self._linked:
            self._linked.discard(swarm_conn)
            self.on_down(swarm_conn)

    def _schedule_auto_connect(self) -> None:
        """Whom to dial is decided above, never here."""

    def _schedule_prune(self) -> None:
        """Caps refuse at the door; nothing is pruned afterwards."""

    def _trim_connections(self, peer_id: ID) -> None:
        """As above."""

    async def close_all(self) -> None:
        """End every link at once; the original takes 0.1 s for each in turn."""
        async with trio.open_nursery() as nursery:
            for conn in self.get_connections():
                nursery.start_soon(conn.close)

    # --- dialling ---------------------------------------------------------------------------------------------

    def unblock_peer(self, peer_id: ID) -> None:
        """Forget that dialling the peer failed lately."""
        self._failed_at_s.pop(peer_id, None)

    async def dial_peer(self, peer_id: ID) -> list[Any]:
        """Links to the peer, dialled unless there are any. Callers at once share one dial.

        Raises:
            SwarmException: No known address answered now, or lately.
        """
        if live := self._live(peer_id):
            return live
        if peer_id in self._dials:
            await self._dials[peer_id].wait()
            if live := self._live(peer_id):
                return live
        now_s = trio.current_time()
        if now_s - self._failed_at_s.get(peer_id, -REDIAL_AFTER_S) < REDIAL_AFTER_S:
            raise SwarmException("no address of this peer answered lately")
        done = self._dials[peer_id] = trio.Event()
        try:
            with trio.move_on_after(self.limits.dial_timeout_s):
                await self._race(peer_id, self._addresses_of(peer_id))
        finally:
            done.set()
            if self._dials.get(peer_id) is done:
                del self._dials[peer_id]
        live = self._live(peer_id)
        if not live:
            self._remember_failure(peer_id)
            raise SwarmException("no address of this peer answered")
        return live

    def _live(self, peer_id: ID) -> list[Any]:
        return [conn for conn in self.get_connections(peer_id) if not conn.is_closed]

    def _addresses_of(self, peer_id: ID) -> list[Any]:
        try:
            known = self.peerstore.addrs(peer_id)
        except PeerStoreError:
            known = []
        usable = [address for address in known if place_of(address) is not None]
        if not usable:
            raise SwarmException("no usable address of this peer is known")
        return usable[:MAX_DIAL_ADDRESSES]

    async def _race(self, peer_id: ID, addresses: list[Any]) -> None:
        """Dial each address a head start after the one before, or at its failure; the first success ends it."""
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(self._try, peer_id, address, failed, nursery.cancel_scope)
                with trio.move_on_after(HEAD_START_S):
                    await failed.wait()

    async def _try(self, peer_id: ID, address: Any, failed: trio.Event, race: trio.CancelScope) -> None:
        try:
            async with self._dial_limiter:
                await self.dial_addr(address, peer_id)
        except Exception:  # noqa: BLE001  # supervision: libp2p, noise and multiaddr raise a dozen types; each fails this address only
            failed.set()
        else:
            race.cancel()

    def _remember_failure(self, peer_id: ID) -> None:
        self._failed_at_s.pop(peer_id, None)
        if len(self._failed_at_s) >= MAX_FAILED_PEERS:
            del self._failed_at_s[next(iter(self._failed_at_s))]
        self._failed_at_s[peer_id] = trio.current_time()
