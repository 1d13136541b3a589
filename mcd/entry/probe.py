"""Keeps the directory true: judges records, asks new links for theirs and for seal keys, drops who is gone."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from weakref import WeakValueDictionary

import trio

from mcd.conversation import receive_one
from mcd.errors import McdError, PeerTimeoutError, RecordError, RemoteProtocolError, StreamBrokenError
from mcd.ids import ModelDigest, PeerId
from mcd.log import Log
from mcd.ports import Clock, Link, Mesh, Stream, Verdict
from mcd.routing.directory import Directory
from mcd.units import Seconds
from mcd.wire import info
from mcd.wire.codec import decode_info, encode_info
from mcd.wire.framing import frame
from mcd.wire.messages import (
    INFO_PROTOCOL,
    EngineKeys,
    InfoReply,
)
from mcd.wire.records import alias_key, open_record

INFO_TIMEOUT_S = 5.0
NONCE_BYTES = 16
SEARCH_TIMEOUT_S = 3.0
"""How long a user waits for the DHT before hearing that nobody serves a model."""
SEARCH_AGAIN_S = 15.0
MAX_SEARCHED = 1024
"""Aliases remembered as searched for."""
MAX_ASKING = 8
"""Info requests under way at once: a burst of links must not starve requests of users."""
LOAD_PAUSE_S = 2.0
"""Between two asks for loads, of all providers: half a per mille of a core."""
LOAD_INTERVAL_S = 30.0
LOAD_LIFETIME_S = 180.0
"""A load heard before is no longer shown.   [ID-35]"""


class _Ask:
    """One question for a peer's keys on behalf of all who need them meanwhile. Owner: they."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.is_over = False
        """It was answered or failed; not set when who asked was cancelled, so the next one asks."""


class Probe:
    """Owner of the directory. All methods run on the trio thread."""

    def __init__(self, mesh: Mesh, directory: Directory, network: str, clock: Clock, log: Log) -> None:
        self.directory = directory
        self._mesh = mesh
        self._network = network
        self._clock = clock
        self._log = log
        self._keys: dict[PeerId, dict[ModelDigest, tuple[bytes, EngineKeys]]] = {}
        """What a peer last told, each with the seal key id of the record that came along. Gone with its link."""
        self._asks: WeakValueDictionary[PeerId, _Ask] = WeakValueDictionary()
        self._asked_at: dict[PeerId, Seconds] = {}
        self._loads: dict[PeerId, tuple[Seconds, int]] = {}
        """When a peer last told how many requests run there, and how many. Both gone with its link."""
        self._wanted_tx, self._wanted_rx = trio.open_memory_channel[PeerId](1024)
        self._asking = trio.CapacityLimiter(MAX_ASKING)
        self._searched: dict[str, float] = {}
        mesh.on_record(self.judge)
        mesh.on_link(self.link_up, self.link_down)

    # --- what the mesh tells us -----------------------------------------------------------------------------

    def judge(self, data: bytes, sender: PeerId) -> Verdict:
        """Verify one signed record and take it into the directory; every drop is counted by its reason."""
        now_ms = self._clock.unix_ms()
        try:
            signed = open_record(data, now_ms=now_ms, network=self._network)
        except RecordError as problem:
            self.directory.counters[f"dropped_{problem.why}"] += 1
            return "reject" if problem.why in {"signature", "malformed", "size"} else "ignore"
        verdict = self.directory.judge(signed, now_ms=now_ms)
        if verdict == "accept":
            self._mesh.suggest(signed.peer_id, signed.record.addresses)
        if verdict == "accept" and signed.peer_id == sender:
            self.directory.mark_alive(sender, now_ms)
        return verdict

    def link_up(self, link: Link) -> None:
        """A first connection: the peer lives; ask it who it is."""
        self.directory.mark_alive(link.peer_id, self._clock.unix_ms())
        self._want(link.peer_id)

    def link_down(self, peer_id: PeerId) -> None:
        """The last connection is gone: nobody is sent there until a newer record or a new link."""
        self.directory.mark_dead(peer_id)
        self._keys.pop(peer_id, None)
        self._loads.pop(peer_id, None)
        self._log.debug("link_lost", peer_id=peer_id)

    def _want(self, peer_id: PeerId) -> None:
        try:
            self._wanted_tx.send_nowait(peer_id)
        except trio.WouldBlock:
            self._log.warning("info_queue_full", peer_id=peer_id)

    # --- what we ask ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask wanted peers, and linked providers for their load, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_loads)
            async for peer_id in self._wanted_rx:
                nursery.start_soon(self._ask_quietly, peer_id)

    async def _ask_for_loads(self) -> None:
        while True:
            await trio.sleep(LOAD_PAUSE_S)
            linked = {link.peer_id for link in self._mesh.links()}
            for gone in self._asked_at.keys() - linked:
                self._asked_at.pop(gone)
                self._loads.pop(gone, None)
            now = self._clock.now()
            known = self.directory.peers(self._clock.unix_ms())
            due = [
                (self._asked_at.get(peer.peer_id, 0.0), peer.peer_id)
                for peer in known
                if peer.record.models and peer.peer_id in linked
            ]
            if due and now - min(due)[0] >= LOAD_INTERVAL_S:
                self._want(min(due)[1])

    def n_running(self, peer_id: PeerId) -> int | None:
        """Requests that run on all engines of a peer, as it last said; None when that is too long ago."""
        heard_at, n_running = self._loads.get(peer_id, (-math.inf, 0))
        return n_running if self._clock.now() - heard_at <= LOAD_LIFETIME_S else None

    async def _ask_quietly(self, peer_id: PeerId) -> None:
        try:
            async with self._asking:
                await self.ask(peer_id)
        except McdError as problem:
            if isinstance(problem, PeerTimeoutError):
                self.directory.mark_suspect(peer_id)
            self._log.debug("info_failed", peer_id=peer_id, code=problem.code)

    async def ask(self, peer_id: PeerId) -> info.Answer:
        """Fetch a peer's record and seal keys; both are kept.

        Raises:
            StreamBrokenError, PeerTimeoutError, RemoteProtocolError, RecordError: No usable answer within 5 s.
        """
        nonce = os.urandom(NONCE_BYTES)
        self._asked_at[peer_id] = self._clock.now()
        with trio.move_on_after(INFO_TIMEOUT_S):
            stream = await self._mesh.open_stream(peer_id, INFO_PROTOCOL, frame(encode_info(info.ask(nonce))))
            try:
                reply = await _read_reply(stream)
            finally:
                await stream.reset()
            now_ms = self._clock.unix_ms()
            answer = info.open_answer(reply, nonce=nonce, peer_id=peer_id, now_ms=now_ms, network=self._network)
            if answer.record is not None:
                self.directory.judge(answer.record, now_ms)
                self.directory.mark_alive(peer_id, now_ms)
                if answer.loads:
                    self._loads[peer_id] = self._clock.now(), sum(load.n_running for load in answer.loads)
                key_ids = {offer.digest: offer.key_id for offer in answer.record.record.models}
                self._keys[peer_id] = {
                    ModelDigest(keys.model_digest): (key_ids[keys.model_digest], keys) for keys in answer.engines
                }
            return answer
        raise PeerTimeoutError("the peer did not answer an info request in time")

    async def search(self, alias: str) -> bool:
        """Look for providers that no record told us of: DHT hints, each asked itself.   [DISC-56]

        Returns whether one of them offers the alias now. At most SEARCH_TIMEOUT_S; an alias that was not found is not
        searched for again for SEARCH_AGAIN_S, so that a typo in a loop costs the mesh nothing.
        """
        now = self._clock.now()
        if not self._mesh.links() or now < self._searched.get(alias, -SEARCH_AGAIN_S) + SEARCH_AGAIN_S:
            return False
        if len(self._searched) >= MAX_SEARCHED:
            self._searched.clear()
        self._searched[alias] = now
        with trio.move_on_after(SEARCH_TIMEOUT_S):
            hints = await self._mesh.find_providers(alias_key(alias))
            async with trio.open_nursery() as nursery:
                for peer_id in hints:
                    nursery.start_soon(self._ask_quietly, peer_id)
        return alias in self.directory.snapshot(self._clock.unix_ms()).by_alias

    async def engine_keys(self, peer_id: PeerId, digest: ModelDigest, key_id: bytes) -> EngineKeys:
        """The key material of one engine, asked for again when its record names a newer seal key.

        Who needs a peer's keys while they are asked for waits for that answer: a hundred requests at once ask once.

        Raises:
            PeerError: The peer does not answer, or serves this model no longer.
        """
        held = self._held_keys(peer_id, digest)
        if held is None or held[0] != key_id:
            ask = self._asks.setdefault(peer_id, _Ask())
            async with ask.lock:
                if not ask.is_over:
                    await self._ask_for_all(peer_id, ask)
            held = self._held_keys(peer_id, digest)
        if held is None:
            raise StreamBrokenError("the provider has no seal key for this model now")
        return held[1]

    async def _ask_for_all(self, peer_id: PeerId, ask: _Ask) -> None:
        try:
            await self.ask(peer_id)
        except McdError:
            ask.is_over = True
            raise
        ask.is_over = True

    def _held_keys(self, peer_id: PeerId, digest: ModelDigest) -> tuple[bytes, EngineKeys] | None:
        held = self._keys.get(peer_id, {}).get(digest)
        return held if held is not None and held[1].configs else None

    def forget_keys(self, peer_id: PeerId, digest: ModelDigest, key_ids: Collection[bytes]) -> None:
        """A provider called one of these keys unknown: ask again next time, unless newer ones are here already."""
        held = self._keys.get(peer_id, {}).get(digest)
        if held is not None and held[0] in key_ids:
            self._keys.pop(peer_id)


async def _read_reply(stream: Stream) -> InfoReply:
    reply = decode_info(await receive_one(stream, info.MAX_INFO_FRAME_BYTES))
    if not isinstance(reply, InfoReply):
        raise RemoteProtocolError("the info stream brought another message than the answer")
    return reply
