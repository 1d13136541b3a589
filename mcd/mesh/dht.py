"""Kademlia with our own protocol id: who provides a model, as a hint to be verified by asking.   [DISC-50]

The library is used without its service loop: that refreshes the whole table at start and every ten minutes (about a
CPU second each in a network of thirty) and republishes after 22 hours. Its store of providers has no bound on keys,
its messages may have 4 MiB and its streams may idle for ever; all three are bounded here.
"""

from __future__ import annotations

import base64
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator, Validator

from mcd.errors import StreamBrokenError
from mcd.ids import ModelDigest, PeerId
from mcd.mesh.counters import Counters
from mcd.units import Seconds

KAD_PROTOCOL: Final = TProtocol("/modelcloud/kad/1.0.0")
"""Ours, so that a Kubo peer that strays in does not join us to the public key space."""
MAX_KAD_MESSAGE_BYTES = 65_536
"""Twenty closer peers with eight addresses and a signed record each are about 20 KiB."""
PROVIDER_TTL_S = 1800
"""Provider records are republished every ten minutes and forgotten after three missed rounds."""
MAX_PROVIDED_KEYS = 4096
"""Keys held for others; the oldest goes first. 20 providers each: about 40 MB if an attacker fills it."""
HINT_ADDRESS_TTL_S = 600
"""How long a hint's addresses are kept; whoever wants the peer asks it at once."""
MAX_PROVIDER_ADDRESSES = 8
MAX_STREAMS_PER_PEER = 4
"""Of the library's twelve in all, so that one peer cannot hold every place."""
STREAM_TIMEOUT_S: Seconds = 20.0
MAX_LINKS_FOR_LOOKUPS = 128
"""A look-up links to those it asks and the links stay; newcomers must find room in the 300 there are."""
MAX_FOUND = 20
FIND_TIMEOUT_S: Seconds = 5.0
LOOKUP_TIMEOUT_S: Seconds = 2.5
"""Of those, the walk towards the key; the rest is for asking who is there."""
MAX_ASKED = 10
REPUBLISH_S: Seconds = 600.0
RETRY_S: Seconds = 15.0
"""When nobody took our provider record: no link yet, or none of them a server."""
SETTLE_S: Seconds = 0.5
"""A fresh link may still be identifying itself."""
REFRESH_S: Seconds = 1800.0
FIRST_REFRESH_S: Seconds = 3.0
"""After the first link: the others of a starting network are about to link too."""

for _module in (common, kad_dht, peer_routing, provider_store, value_store):
    _module.PROTOCOL_ID = KAD_PROTOCOL  # the constructor's protocol_prefix is not used by handlers and queries
    _module.MAX_DHT_MESSAGE_SIZE = MAX_KAD_MESSAGE_BYTES
provider_store.PROVIDER_RECORD_EXPIRATION_INTERVAL = PROVIDER_TTL_S


def cid_of(digest: ModelDigest) -> str:
    """The CID of a model file: version 1, raw, SHA-256, base32.   [DISC-51]"""
    return "b" + base64.b32encode(b"\x01\x55" + multihash_of(digest)).decode().lower().rstrip("=")


def multihash_of(digest: ModelDigest) -> bytes:
    """The DHT key of a model: the multihash of its file, as other implementations derive it from the CID."""
    return b"\x12\x20" + digest


class _NoValues(Validator):  # type: ignore[misc]  # libp2p is untyped to us
    """Refuses every value: this DHT holds provider records only."""

    def validate(self, key: str, value: bytes) -> None:
        raise ValueError("this network stores no values")

    def select(self, key: str, values: list[bytes]) -> int:
        return 0


class _BoundedProviders(ProviderStore):  # type: ignore[misc]  # libp2p is untyped to us
    """Provider records of others, at most MAX_PROVIDED_KEYS keys."""

    def add_provider(self, key: bytes, provider: Any) -> None:
        if key not in self.providers and len(self.providers) >= MAX_PROVIDED_KEYS:
            del self.providers[next(iter(self.providers))]
        super().add_provider(key, PeerInfo(provider.peer_id, list(provider.addrs)[:MAX_PROVIDER_ADDRESSES]))


class _LookupHost:
    """The host as the DHT sees it: look-ups may dial strangers only while there is plenty of room for links."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    async def new_stream(self, peer_id: Any, protocols: Sequence[Any]) -> Any:
        """Open a stream, over a new link if need be.

        Raises:
            StreamBrokenError: There is no link and no room for one more of this kind.
        """
        linked = self._host.get_connected_peers()
        if peer_id not in linked and len(linked) >= MAX_LINKS_FOR_LOOKUPS:
            raise StreamBrokenError("enough links; this look-up does without that peer")
        return await self._host.new_stream(peer_id, protocols)


class _BoundedKad(KadDHT):  # type: ignore[misc]  # libp2p is untyped to us
    """Gives each inbound stream a deadline and each peer a share of the places."""

    def __init__(self, host: Any, counters: Counters) -> None:
        super().__init__(
            host,
            DHTMode.CLIENT,
            enable_random_walk=False,
            validator=NamespacedValidator({"modelcloud": _NoValues()}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
            max_peers_per_subnet=2,
            max_peers_per_subnet_table=3,
        )
        self.provider_store = _BoundedProviders(host=host, peer_routing=self.peer_routing)
        self._counters = counters
        self._n_streams: Counter[Any] = Counter()

    async def handle_stream(self, stream: Any) -> None:
        """Serve one inbound stream for at most STREAM_TIMEOUT_S.   [DISC-54]"""
        peer = stream.muxed_conn.peer_id
        if self._n_streams[peer] >= MAX_STREAMS_PER_PEER:
            self._counters.add("dht_stream_refused")
            await stream.reset()
            return
        self._n_streams[peer] += 1
        try:
            with trio.move_on_after(STREAM_TIMEOUT_S) as scope:
                await super().handle_stream(stream)
            if scope.cancelled_caught:
                self._counters.add("dht_stream_timeout")
                await stream.reset()
        finally:
            self._n_streams[peer] -= 1
            if not self._n_streams[peer]:
                del self._n_streams[peer]


class Dht:
    """Our place in the DHT. Owner: the mesh, which runs it under a supervisor and tells it of links."""

    def __init__(self, host: Any, *, counters: Counters, may_dial: Callable[[str], bool] = lambda _: True) -> None:
        """``may_dial`` judges the addresses that strangers name.   [DISC-76]"""
        self._host = host
        self._counters = counters
        self._may_dial = may_dial
        self._kad = _BoundedKad(_LookupHost(host), counters)
        self._due: dict[ModelDigest, Seconds] = {}
        self._untaken: set[ModelDigest] = set()
        """Digests whose record no peer took yet: a new link is a new chance."""
        self._wake = trio.Event()
        self._linked = trio.Event()
        self._news: dict[PeerId, bool] = {}
        """Fresh links not yet acted upon; True when we dialled."""
        self._news_came = trio.Event()

    def link_up(self, peer: PeerId, *, is_outbound: bool) -> None:
        """Learn of a link: whom we dialled can be dialled, who dialled us shows that we can.   [DISC-52]"""
        self._news[peer] = is_outbound
        self._news_came.set()

    async def become_server(self) -> None:
        """Answer others' queries from now on."""
        if self._kad.mode is DHTMode.CLIENT:
            await self._kad.switch_mode(DHTMode.SERVER)

    def link_down(self, peer: PeerId) -> None:
        """Forget a peer that is gone; its next link brings it back."""
        self._news.pop(peer, None)
        self._kad.routing_table.remove_peer(ID.from_base58(peer))

    async def provide(self, digest: ModelDigest) -> None:
        """Publish, soon and every REPUBLISH_S, that we serve ``digest``.   [DISC-53]"""
        self._due[digest] = trio.current_time()
        self._wake.set()

    def withdraw(self, digest: ModelDigest) -> None:
        """Publish ``digest`` no more; what is out there runs out by itself."""
        self._due.pop(digest, None)
        self._untaken.discard(digest)
        self._kad.provider_store.providing_keys.discard(multihash_of(digest))

    async def run(self) -> None:
        """Join, refresh and republish until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_links)
            nursery.start_soon(self._refresh)
            nursery.start_soon(self._publish)

    async def _follow_links(self) -> None:
        """Put whom we dialled in the table: connecting alone does not (pitfall 10)."""
        while True:
            while self._news:
                peer, is_outbound = self._news.popitem()
                if is_outbound:
                    await self._kad.routing_table.add_peer(ID.from_base58(peer), skip_server_mode_check=True)
                else:
                    await self.become_server()
                self._linked.set()
                if self._untaken:
                    self._due.update(dict.fromkeys(self._untaken, trio.current_time() + SETTLE_S))
                    self._wake.set()
            self._news_came = trio.Event()
            await self._news_came.wait()

    async def _refresh(self) -> None:
        """Look for our own id and for a random one; peers met on the way fill the table.   [DISC-52]"""
        await self._linked.wait()
        await trio.sleep(FIRST_REFRESH_S * (1 + random.random()))  # noqa: S311 # a network that starts at once
        while True:
            await self._kad.peer_routing.find_closest_peers_network(self._host.get_id().to_bytes())
            await self._kad.peer_routing.find_closest_peers_network(secrets.token_bytes(32))
            self._kad.provider_store.cleanup_expired()
            await trio.sleep(REFRESH_S)

    async def _publish(self) -> None:
        while True:
            now = trio.current_time()
            for digest in [digest for digest, due in self._due.items() if due <= now]:
                is_taken = await self._kad.provide(cid_of(digest))
                if digest not in self._due:
                    continue  # withdrawn meanwhile
                self._due[digest] = trio.current_time() + (REPUBLISH_S if is_taken else RETRY_S)
                (self._untaken.discard if is_taken else self._untaken.add)(digest)
            self._wake = trio.Event()
            next_due = min(self._due.values(), default=trio.current_time() + REPUBLISH_S)
            with trio.move_on_at(next_due):
                await self._wake.wait()

    async def find_providers(self, digest: ModelDigest) -> Sequence[PeerId]:
        """Whom the DHT names for ``digest``: each once, not ourselves, at most MAX_FOUND, within 5 s.   [DISC-55]"""
        key = multihash_of(digest)
        store, found = self._kad.provider_store, dict[PeerId, None]()

        def note(info: Any) -> None:
            found[PeerId(info.peer_id.to_base58())] = None
            # where it can be dialled, so that whoever asked can verify the hint
            addresses = [addr for addr in info.addrs if self._may_dial(str(addr))][:MAX_PROVIDER_ADDRESSES]
            self._host.get_peerstore().add_addrs(info.peer_id, addresses, HINT_ADDRESS_TTL_S)

        for info in store.get_providers(key):
            note(info)

        async def ask(peer: Any) -> None:
            providers, _ = await store._get_providers_from_peer_with_closers(peer, key)  # noqa: SLF001
            for info in providers:
                note(info)

        with trio.move_on_after(FIND_TIMEOUT_S):
            nearest = self._kad.routing_table.find_local_closest_peers(key, MAX_ASKED)
            with trio.move_on_after(LOOKUP_TIMEOUT_S):
                nearest = await self._kad.peer_routing.find_closest_peers_network(key)
            async with trio.open_nursery() as nursery:
                for peer in nearest[:MAX_ASKED]:
                    nursery.start_soon(ask, peer)
        found.pop(PeerId(self._host.get_id().to_base58()), None)
        self._counters.add("dht_found", min(len(found), MAX_FOUND))
        return list(found)[:MAX_FOUND]
