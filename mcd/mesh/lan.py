"""Find peers of our network on the local one by DNS-SD, with zeroconf's threads kept off the trio loop.   [DISC-60]

The library's own mDNS blocks the loop for 1.6 s at start and shares one service name with every libp2p program.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import trio
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from mcd.errors import RemoteProtocolError
from mcd.ids import PeerId
from mcd.units import Seconds
from mcd.wire.messages import MAX_ADDRESSES
from mcd.wire.signing import public_key_of

SERVICE = "_modelcloud._tcp.local."
RESOLVE_TIMEOUT_MS = 3000
"""How long a service that was seen may take to say where it is."""
CLOSE_TIMEOUT_S: Seconds = 0.5
"""Saying goodbye on the network may not hold up the exit; the names run out by themselves."""

ABANDON: Final[dict[str, Any]] = {"abandon_on_cancel": True}
"""Leave a thread of zeroconf's to itself when we are cancelled; the stubs mypy finds are older than the name."""

Found = Callable[[PeerId, Sequence[str]], None]


class Presence(msgspec.Struct, frozen=True):
    """What we tell the local network about ourselves."""

    peer_id: PeerId
    network: str
    port: int
    ips: tuple[str, ...]
    """IP addresses we can be reached at."""


def txt_of(presence: Presence) -> dict[str, str]:
    """The TXT record.   [DISC-61]"""
    return {"id": presence.peer_id, "net": presence.network, "v": "1"}


def read_service(info: ServiceInfo, network: str) -> tuple[PeerId, tuple[str, ...]] | None:
    """Peer id and dialable addresses of a service; None unless it is a peer of our network.   [DISC-62]

    Nothing here is signed: the addresses are hints, the dial proves the id.
    """
    fields = {key: value for key, value in info.properties.items() if value is not None}
    name, net = fields.get(b"id", b""), fields.get(b"net", b"")
    if net != network.encode() or not info.port:
        return None
    peer_id = name.decode("ascii", "replace")
    try:
        public_key_of(peer_id)
    except RemoteProtocolError:
        return None
    addresses = [
        address
        for ip in info.parsed_addresses(IPVersion.All)[:MAX_ADDRESSES]
        if (address := _multiaddr(ip, info.port, peer_id)) is not None
    ]
    return (PeerId(peer_id), tuple(addresses)) if addresses else None


def _multiaddr(ip: str, port: int, peer_id: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError:
        return None  # an IPv6 address with a scope: not dialable from elsewhere
    return f"/ip{parsed.version}/{parsed}/tcp/{port}/p2p/{peer_id}"


class Lan:
    """Our presence on the local network. Owner: the mesh, which runs it under a supervisor."""

    def __init__(self, presence: Presence, on_found: Found, *, interfaces: Sequence[str] | None = None) -> None:
        """Keep what a run needs.

        Args:
            presence: What to announce.
            on_found: Called on the trio thread for each sighting of a peer of our network.
            interfaces: IP addresses of the interfaces to use; None for all.
        """
        self._presence = presence
        self._on_found = on_found
        self._interfaces = None if interfaces is None else list(interfaces)

    async def run(self) -> None:
        """Announce ourselves and report sightings until cancelled.

        Raises:
            OSError: No interface takes multicast; the supervisor tries again later.
        """
        listener = _Sightings(self._presence, self._on_found, trio.lowlevel.current_trio_token())
        zeroconf: Zeroconf | None = None
        try:
            zeroconf = await trio.to_thread.run_sync(self._start, listener, **ABANDON)
            await trio.sleep_forever()
        finally:
            listener.is_closed = True
            if zeroconf is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
                    await trio.to_thread.run_sync(zeroconf.close, **ABANDON)

    def _start(self, listener: _Sightings) -> Zeroconf:
        """Open the sockets, register and browse; takes about two seconds, in a thread."""
        zeroconf = Zeroconf(interfaces=self._interfaces or InterfaceChoice.All)
        try:
            # The name is a peer id: it needs no probing for namesakes, which would find our own earlier run.
            zeroconf.register_service(self._service_info(), cooperating_responders=True)
            ServiceBrowser(zeroconf, SERVICE, listener)
        except BaseException:
            zeroconf.close()
            raise
        if listener.is_closed:
            zeroconf.close()  # cancelled while we started; nobody else will
        return zeroconf

    def _service_info(self) -> ServiceInfo:
        presence = self._presence
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return ServiceInfo(
            SERVICE,
            f"{presence.peer_id}.{SERVICE}",
            addresses=[socket.inet_pton(families[ipaddress.ip_address(ip).version], ip) for ip in presence.ips],
            port=presence.port,
            properties=txt_of(presence),
            server=f"{presence.peer_id}.local.",
        )


class _Sightings(ServiceListener):  # type: ignore[misc]  # zeroconf is untyped to us
    """Runs in zeroconf's thread; hands each peer over to trio's."""

    def __init__(self, presence: Presence, on_found: Found, token: trio.lowlevel.TrioToken) -> None:
        self._presence = presence
        self._on_found = on_found
        self._token = token
        self.is_closed = False

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Resolve a service that appeared and hand it over."""
        if self.is_closed or name.startswith(self._presence.peer_id):
            return
        try:
            info = zc.get_service_info(type_, name, timeout=RESOLVE_TIMEOUT_MS)
        except (ZeroconfError, OSError, ValueError):
            return  # a malformed name or answer from the network
        seen = None if info is None else read_service(info, self._presence.network)
        if seen is None or seen[0] == self._presence.peer_id or self.is_closed:
            return
        try:
            self._token.run_sync_soon(self._on_found, *seen)
        except trio.RunFinishedError:
            return  # the daemon has ended while we resolved

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Treat changed addresses as a new sighting."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Nothing to do: a link, not a name, is what says that a peer is there."""
