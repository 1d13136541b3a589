"""ports.Mesh over libp2p: one host and the discovery services around it.   [DISC-01]"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from mcd.errors import StreamBrokenError
from mcd.ids import ModelDigest, PeerId
from mcd.log import Log
from mcd.mesh import loopback
from mcd.mesh.bootstrap import Dialer, may_be_a_peers
from mcd.mesh.counters import Counters
from mcd.mesh.dht import Dht
from mcd.mesh.gossip import Gossip
from mcd.mesh.host import Host, Started
from mcd.mesh.intake import Intake, Judge
from mcd.mesh.lan import Lan, Presence
from mcd.mesh.limits import Limits, public_network_of
from mcd.mesh.record_exchange import RecordExchange
from mcd.mesh.supervise import supervise
from mcd.ports import Clock, Link, Stream, StreamHandler
from mcd.wire.discovery import RECORDS_PROTOCOL

MAX_PER_ADDRESS_ON_LOOPBACK = 64
"""Links of one address when we listen on loopback only: then all peers there are share this machine's."""


class Libp2pMesh:
    """The mesh of one daemon. Its owner runs it in a nursery: ``await nursery.start(mesh.run)``.

    Streams and links are the host's; records, hints and dialling are services under restart supervisors, so that
    none of them can hold up or end the rest.
    """

    def __init__(
        self,
        seed: bytes,
        *,
        listen: Sequence[str],
        network: str,
        bootstrap: Sequence[str] = (),
        use_lan: bool = True,
        log: Log,
        clock: Clock,
    ) -> None:
        """Build the mesh; nothing is opened before ``run``.

        Args:
            seed: The peer's Ed25519 secret, 32 bytes.
            listen: Multiaddrs to listen on.
            network: Its name; peers of others ignore our records and we theirs.
            bootstrap: Addresses of known peers, each ending in /p2p/<id>.
            use_lan: Announce and browse on the local network.
            log: Where events go.
            clock: The daemon's.

        Raises:
            ConfigError: An address cannot be used; the message says how to mend it.
        """
        self._network = network
        self._use_lan = use_lan
        self._log = log
        self._counters = Counters()
        is_bench = bool(listen) and all(_is_loopback(address) for address in listen)
        limits = Limits(max_per_address=MAX_PER_ADDRESS_ON_LOOPBACK) if is_bench else Limits()
        self._host = Host(seed, listen, log=log, clock=clock, limits=limits)
        self._ips: dict[PeerId, str] = {}
        self._nursery: trio.Nursery | None = None
        self._handlers: dict[str, StreamHandler] = {}
        self._intake = Intake(counters=self._counters, ip_of=self._ip_of, on_ban=self._part_with)
        self._gossip = Gossip(self._host.libp2p, network=network, intake=self._intake, ip_of=self._ip_of)
        self._dht = Dht(self._host.libp2p, counters=self._counters, may_dial=self._may_dial)
        self._records = RecordExchange(self._host.open_stream, linked=lambda: list(self._ips), intake=self._intake)
        self._dialer = Dialer(
            self._host.connect, own_id=self._host.peer_id, bootstrap=bootstrap, counters=self._counters
        )
        self._dialer.is_banned = self._intake.is_banned
        self._dialer.on_unreached = self._say_unreached
        self._host.serve(RECORDS_PROTOCOL, self._records.serve)
        self._host.on_link(self._link_up, self._link_down)

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, then keep the services going until cancelled; started as soon as every port is open.

        Raises:
            ConfigError: A port is taken or an address is not ours; nothing was opened.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._host.run)  # type: ignore[arg-type]  # the stubs' TaskStatus is not trio's
            self._nursery = nursery
            services: dict[str, Callable[[], Awaitable[None]]] = {
                "gossip": self._gossip.run,
                "dht": self._run_dht,
                "records": self._records.run,
                "dialer": self._dialer.run,
            }
            if self._use_lan:
                services["lan"] = self._run_lan
            for name, service in services.items():
                nursery.start_soon(partial(supervise, name, service, log=self._log, counters=self._counters))
            task_status.started()

    # --- ports.Mesh: streams and links --------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._host.peer_id

    def addresses(self) -> Sequence[str]:
        """Where we can be dialled, as ports.Mesh says; so for all below."""
        return self._host.addresses()

    def links(self) -> Sequence[Link]:
        """Every live connection, one entry a peer."""
        return self._host.links()

    def address_of(self, peer_id: PeerId) -> str:
        """The public address of a linked peer."""
        return public_network_of(self._ip_of(peer_id))

    async def connect(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Dial a peer unless connected."""
        await self._host.connect(peer_id, addresses)

    async def open_stream(self, peer_id: PeerId, protocol: str, first: bytes) -> Stream:
        """Open a stream with the first bytes riding along; one to ourselves never leaves the process."""
        if peer_id == self.peer_id:
            return await self._open_to_self(protocol, first)
        return await self._host.open_stream(peer_id, protocol, first)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Handle inbound streams of a protocol."""
        self._handlers[protocol] = handler
        self._host.serve(protocol, handler)

    def on_link(self, up: Callable[[Link], None], down: Callable[[PeerId], None]) -> None:
        """Be told of links; may be called more than once."""
        self._host.on_link(up, down)

    # --- ports.Mesh: records and hints --------------------------------------------------------------------------

    def on_record(self, judge: Judge) -> None:
        """Set who judges records, however they came."""
        self._intake.judge = judge

    def on_records_wanted(self, supply: Callable[[], Sequence[bytes]]) -> None:
        """Set who names the records we hold."""
        self._records.supply = supply

    def suggest(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Say where a peer may be found; local addresses count only while ours are local too."""
        self._dialer.suggest(peer_id, [address for address in addresses if self._may_dial(address)])

    async def publish(self, record: bytes, digests: Sequence[ModelDigest]) -> None:
        """Gossip our record."""
        await self._gossip.publish(record, digests)

    async def provide(self, digest: ModelDigest) -> None:
        """Tell the DHT what we serve, again and again."""
        await self._dht.provide(digest)

    def withdraw(self, digest: ModelDigest) -> None:
        """Tell it no more."""
        self._dht.withdraw(digest)

    async def find_providers(self, digest: ModelDigest) -> Sequence[PeerId]:
        """Ask the DHT: hints only."""
        return await self._dht.find_providers(digest)

    def unreached(self) -> Sequence[str]:
        """Bootstrap addresses where nobody answers now; they are dialled for ever."""
        return self._dialer.unreached()

    def counters(self) -> dict[str, int]:
        """What was dropped, refused and restarted."""
        return {**self._host.counters(), **self._counters.snapshot()}

    # --- inside -------------------------------------------------------------------------------------------------

    def _say_unreached(self, address: str) -> None:
        self._log.warning("bootstrap_unreached", address=address, detail="no answer as that peer; trying for ever")

    def _link_up(self, link: Link) -> None:
        self._ips[link.peer_id] = link.address.split("/")[2]
        if self._intake.is_banned(link.peer_id):
            self._counters.add("link_refused_banned")
            self._part_with(link.peer_id)
            return
        self._dialer.link_up(link.peer_id)
        self._dht.link_up(link.peer_id, is_outbound=link.is_outbound)
        self._records.ask_soon(link.peer_id)

    def _link_down(self, peer_id: PeerId) -> None:
        self._ips.pop(peer_id, None)
        self._dialer.link_down(peer_id)
        self._dht.link_down(peer_id)

    async def _open_to_self(self, protocol: str, first: bytes) -> Stream:
        handler = self._handlers.get(protocol)
        if handler is None or self._nursery is None:
            raise StreamBrokenError("we do not serve this protocol now")
        ours, theirs = loopback.pair(self.peer_id)
        self._nursery.start_soon(self._serve_self, handler, theirs)
        await ours.send(first)
        return ours

    async def _serve_self(self, handler: StreamHandler, stream: loopback.LoopStream) -> None:
        try:
            await handler(stream)
        except Exception as problem:  # noqa: BLE001  # supervision, as Guard does it for remote streams: it ends this one only
            self._log.warning("stream_handler_failed", peer_id=self.peer_id, reason=type(problem).__name__)
        finally:
            await stream.reset()

    def _may_dial(self, address: str) -> bool:
        """Whether an address that a stranger names is worth a knock; local ones only while ours are local too."""
        return may_be_a_peers(address) or all(_is_loopback(ours) for ours in self._host.addresses())

    def _ip_of(self, peer_id: PeerId) -> str:
        return self._ips.get(peer_id, "")

    def _part_with(self, peer_id: PeerId) -> None:
        """Close every link to a peer, soon: we may be inside a task that reads one of them."""
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(self._host.disconnect, peer_id)

    async def _run_dht(self) -> None:
        ips = [ipaddress.ip_address(address.split("/")[2]) for address in self._host.addresses()]
        if (ips and any(ip.is_global for ip in ips)) or all(ip.is_loopback for ip in ips):
            await self._dht.become_server()
        await self._dht.run()

    async def _run_lan(self) -> None:
        places = [address.split("/") for address in self._host.addresses()]
        if not places:
            return  # we only dial: nobody could find us, and browsing alone is not worth two threads
        port = int(places[0][4])
        ips = tuple(place[2] for place in places if int(place[4]) == port)
        await Lan(Presence(self.peer_id, self._network, port, ips), self._dialer.suggest).run()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.split("/")[2]).is_loopback
    except (IndexError, ValueError):
        return False
