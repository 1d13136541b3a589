"""Our libp2p host: TCP and Noise only, our own yamux, our own limits; streams by peer id for the rooms above.

Everything that knows libp2p's types stays in this room: peer ids and addresses go in and out as text, errors as
mcd.errors.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import trio
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from mcd.errors import ConfigError, McdError, StreamBrokenError
from mcd.ids import PeerId
from mcd.log import Log
from mcd.mesh import patches, portlock
from mcd.mesh.guard import Guard
from mcd.mesh.limits import AddressGate, Limits
from mcd.mesh.stream import MeshStream, agreement
from mcd.mesh.swarm import MeshSwarm
from mcd.mesh.tcp import TcpTransport, place_of
from mcd.ports import Clock, Link, StreamHandler
from mcd.wire.messages import MAX_ADDRESSES

T = TypeVar("T")

CLOSE_S = 0.8
"""For saying goodbye to everybody at once; then the sockets just close."""
STOP_S = 1.0
"""For libp2p's own tasks, which it ends one after the other and each as slowly as it likes; then all are cancelled."""
ADDRESS_TTL_S = 3600
"""How long an address we were told is good for dialling."""
INTERFACES_AGE_S = 10.0
"""How long a list of interface addresses is believed: a laptop changes networks."""


class Started(Protocol):
    """trio's TaskStatus, which the stubs that libp2p brings along do not know."""

    def started(self) -> None:
        """Let ``nursery.start`` return."""
        ...


class Host:
    """One libp2p host. Its owner runs it in a nursery: ``await nursery.start(host.run)``."""

    def __init__(
        self, seed: bytes, listen: Sequence[str], *, log: Log, clock: Clock, limits: Limits | None = None
    ) -> None:
        """Build the host; nothing is opened before ``run``.

        Args:
            seed: The Ed25519 secret, 32 bytes. It is the peer's identity.
            listen: Multiaddrs to listen on, ``/ip4|ip6/../tcp/..``; may be empty for a host that only dials. One that
                is not this machine's, beside others that are, is a router's that forwards the port: only announced.
            log: Where failures of stream handlers go, by class name only.
            clock: Gives ``Link.since_s``.
            limits: What the network may take; the defaults are for the open Internet.

        Raises:
            ConfigError: An address to listen on is not one.
        """
        patches.apply()
        self._log = log
        self._clock = clock
        self._limits = limits if limits is not None else Limits()
        self._listen = [_listen_address(text) for text in dict.fromkeys(listen)]
        self._forwarded: list[str] = []
        self._interfaces: tuple[float, list[str]] = (0.0, [])
        self._gate = AddressGate(self._limits)
        self._sockets: dict[str, trio.socket.SocketType] = {}
        self._transport = TcpTransport(self._gate, self._sockets)
        key_pair = ed25519_key_pair(seed)
        noise = NoiseTransport(key_pair, noise_privkey=x25519_key_pair().private_key)
        peerstore = patches.BoundedPeerStore()
        own_id = ID.from_pubkey(key_pair.public_key)
        peerstore.add_key_pair(own_id, key_pair)
        self.swarm = MeshSwarm(own_id, peerstore, {NOISE_PROTOCOL: noise}, self._transport, self._limits)
        self.swarm.on_up, self.swarm.on_down = self._link_up, self._link_down
        self.libp2p = BasicHost(
            self.swarm,
            negotiate_timeout=int(self._limits.negotiate_timeout_s),
            addrs_factory=lambda _: [Multiaddr(text) for text in self._reachable()],
            disable_identify_address_discovery=True,
        )
        """The raw libp2p host, for this room's other services only."""
        self._negotiate = self.swarm.common_stream_handler
        self._served: dict[str, StreamHandler] = {}
        self._guard = Guard(self._handle, self._limits.max_streams_per_peer, self._handler_failed)
        self.swarm.set_stream_handler(self._guard)
        self._own_id = PeerId(own_id.to_base58())
        self._links: dict[PeerId, list[tuple[Any, float]]] = {}
        self._ended: Counter[str] = Counter()
        self._told_up: list[Callable[[Link], None]] = []
        self._told_down: list[Callable[[PeerId], None]] = []
        self._closing = trio.Event()
        self._closed = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._own_id

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled or ``close``d; started once every port is open.

        Raises:
            ConfigError: A port is taken or the address is not ours; nothing was opened.
        """
        try:
            self._claim_ports()
            with trio.CancelScope() as life:
                async with self.libp2p.run([Multiaddr(text) for text in self._sockets]):
                    try:
                        task_status.started()
                        await self._closing.wait()
                    finally:
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                            await self.swarm.close_all()
                        life.deadline = trio.current_time() + STOP_S
        finally:
            for socket in self._sockets.values():
                socket.close()
            self._closed.set()

    def _claim_ports(self) -> None:
        for maddr in self._listen:
            place = place_of(maddr)
            assert place is not None
            try:
                self._sockets[str(maddr)] = portlock.claim(*place)
            except portlock.ForeignAddressError:
                if len(self._forwarded) == len(self._listen) - 1:
                    raise  # none is ours
                if not place[1]:
                    raise ConfigError(f"{maddr} is not an address of this machine; name the port it forwards") from None
                self._forwarded.append(str(maddr))

    async def close(self) -> None:
        """Say goodbye to every peer and end ``run``. Under a second, two when libp2p is stuck."""
        self._closing.set()
        await self._closed.wait()

    # --- addresses and links ----------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Where we can be dialled, each ending in /p2p/<our id>, no loopback if there is better."""
        return [f"{text}/p2p/{self._own_id}" for text in self._reachable()]

    def links(self) -> Sequence[Link]:
        """Every peer we are connected to, once."""
        return [_link_of(peer_id, *held[0]) for peer_id, held in self._links.items()]

    def on_link(self, up: Callable[[Link], None], down: Callable[[PeerId], None]) -> None:
        """Be told of the first link to a peer and the loss of the last. May be called more than once."""
        self._told_up.append(up)
        self._told_down.append(down)

    async def connect(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Dial all ``addresses``, a head start apart, unless connected; known ones when there are none given.

        Raises:
            StreamBrokenError: None answered within 5 s, or none is usable.
        """
        target = _libp2p_id(peer_id)
        usable = [maddr for text in addresses if (maddr := _dial_address(text, peer_id)) is not None]
        if usable:
            self.swarm.peerstore.clear_addrs(target)
            self.swarm.peerstore.add_addrs(target, usable, ADDRESS_TTL_S)
        self.swarm.unblock_peer(target)
        await self._dial(target)

    async def disconnect(self, peer_id: PeerId) -> None:
        """End every link to a peer."""
        await self.swarm.close_peer(_libp2p_id(peer_id))

    async def _dial(self, target: ID) -> list[Any]:
        if target == self.swarm.self_id:
            raise StreamBrokenError("this peer is ourselves; it has no link to itself")
        try:
            links: list[Any] = await self.swarm.dial_peer(target)
        except BaseLibp2pError as error:
            raise StreamBrokenError("no address of the peer answers; it may be offline or behind a NAT") from error
        return links

    # --- streams ----------------------------------------------------------------------------------------------

    async def open_stream(self, peer_id: PeerId, protocol: str, first: bytes) -> MeshStream:
        """Open a stream and send ``first`` with the negotiation; see ports.Mesh.

        Raises:
            StreamBrokenError: The peer cannot be reached.
        """
        agreed = agreement(protocol)
        opening = agreed + first
        held = [link for link, _ in self._links.get(peer_id, ()) if not link.is_closed]
        for link in held or await self._dial(_libp2p_id(peer_id)):
            stream = None
            try:
                stream = await link.muxed_conn.open_stream()
                await stream.write(opening)
            except BaseLibp2pError:
                continue  # this link is ending; there may be another
            except trio.Cancelled:
                if stream is not None:
                    stream.reset_now()
                raise
            return MeshStream(stream, peer_id, expected=agreed)
        raise StreamBrokenError("the connection to the peer has just ended, or takes no more streams")

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Run ``handler`` for each inbound stream of ``protocol``; when it returns, the stream ends."""

        async def handle(stream: Any) -> None:
            await handler(_mesh_stream(stream))

        self._served[protocol] = handler
        self.libp2p.set_stream_handler(TProtocol(protocol), handle)

    async def _handle(self, stream: Any) -> None:
        """Agree at once with an opener that named a protocol of ours in its first message, as all of ours do.

        libp2p's negotiation, to which everybody else is left, reads that message byte by byte.
        """
        for protocol, handler in self._served.items():
            agreed = agreement(protocol)
            if stream.muxed_stream.take(agreed):
                stream.set_protocol(protocol)
                await stream.muxed_stream.write(agreed)
                await handler(_mesh_stream(stream))
                return
        await self._negotiate(stream)

    def counters(self) -> dict[str, int]:
        """Monotonic counts of what was refused or failed, and gauges of what is held."""
        return {
            **self._ended,
            "links_refused_by_address": self._gate.n_refused,
            "links_refused_by_peer": self.swarm.n_refused_links,
            "half_open_evicted": self._gate.n_evicted,
            "inbound_failed": self._transport.n_failed,
            "streams_failed": self._guard.n_failed,
            "streams_refused": self._guard.n_refused,
            "half_open": self._gate.n_half_open,
            "unread_bytes": self.swarm.budget.n_bytes,
        }

    # --- inside -----------------------------------------------------------------------------------------------

    def _handler_failed(self, protocol: str, error: Exception) -> None:
        """Log a stream's failure by class name: messages may hold what a peer sent."""
        level = "debug" if isinstance(error, (McdError, BaseLibp2pError)) else "warning"
        self._log.event("stream_handler_failed", level, service=protocol[:64], detail=type(error).__name__)

    def _link_up(self, link: Any) -> None:
        peer_id = PeerId(link.muxed_conn.peer_id.to_base58())
        held = self._links.setdefault(peer_id, [])
        held.append((link, self._clock.now()))
        if len(held) == 1:
            self._tell(self._told_up, _link_of(peer_id, *held[0]))

    def _link_down(self, link: Any) -> None:
        self._ended[f"links_ended_{link.muxed_conn.end_reason.replace(' ', '_')}"] += 1
        peer_id = PeerId(link.muxed_conn.peer_id.to_base58())
        held = [entry for entry in self._links.get(peer_id, []) if entry[0] is not link]
        if held:
            self._links[peer_id] = held
        elif self._links.pop(peer_id, None):
            self._tell(self._told_down, peer_id)

    def _tell(self, listeners: Sequence[Callable[[T], None]], news: T) -> None:
        for listener in listeners:
            try:
                listener(news)
            except Exception as error:  # noqa: BLE001  # supervision: a listener's bug must not end the swarm it runs in
                self._log.error("link_listener_failed", detail=type(error).__name__)

    def _reachable(self) -> list[str]:
        """Transport addresses of our listeners, wildcards expanded; loopback is nobody's but ours."""
        taken_s, found = self._interfaces
        now_s = trio.current_time() if self.swarm.listeners else 0.0
        if found and now_s - taken_s < INTERFACES_AGE_S:
            return found
        expanded = self._forwarded + [
            str(maddr)
            for listener in self.swarm.listeners.values()
            for bound in listener.get_addrs()
            for maddr in expand_wildcard_address(bound)
        ]
        unique = [text for text in dict.fromkeys(expanded) if not text.startswith("/ip6/fe80:")]
        elsewhere = [text for text in unique if not text.startswith(("/ip4/127.", "/ip6/::1/"))]
        found = (elsewhere or unique)[:MAX_ADDRESSES]
        self._interfaces = (now_s, found)
        return found


def _mesh_stream(stream: Any) -> MeshStream:
    return MeshStream(stream.muxed_stream, PeerId(stream.muxed_conn.peer_id.to_base58()))


def _link_of(peer_id: PeerId, link: Any, since_s: float) -> Link:
    host, port = link.muxed_conn.get_remote_address() or ("0.0.0.0", 0)  # noqa: S104  # "unknown", not a bind
    return Link(
        peer_id=peer_id,
        address=f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}",
        path="direct tcp",
        is_outbound=link.muxed_conn.is_initiator,
        rtt_s=link.muxed_conn.rtt_s,
        since_s=since_s,
    )


def _libp2p_id(peer_id: PeerId) -> ID:
    try:
        return ID.from_base58(peer_id)
    except (ValueError, BaseLibp2pError) as error:
        raise StreamBrokenError("not a peer id") from error


def _listen_address(text: str) -> Multiaddr:
    maddr = _parse(text)
    place = place_of(maddr) if maddr is not None else None
    if maddr is None or place is None or not text.startswith(("/ip4/", "/ip6/")) or "/p2p/" in text:
        raise ConfigError(f"--listen {text!r} is not a TCP multiaddr; write for example /ip4/0.0.0.0/tcp/4101")
    return maddr


def _dial_address(text: str, peer_id: PeerId) -> Multiaddr | None:
    """The transport part of an address of ``peer_id``; None when it is no TCP address or another peer's."""
    maddr = _parse(text)
    if maddr is None or place_of(maddr) is None:
        return None
    transport, _, named = text.partition("/p2p/")
    return Multiaddr(transport) if named in ("", peer_id) else None


def _parse(text: str) -> Multiaddr | None:
    with contextlib.suppress(Exception):  # multiaddr raises a dozen unrelated types for text that is not one
        return Multiaddr(text)
    return None
