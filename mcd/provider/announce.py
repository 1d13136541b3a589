"""Our own record: built from what the engines are now, signed, gossiped, answered to who asks, withdrawn on exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from mcd import __version__
from mcd.config import Config
from mcd.conversation import receive_one
from mcd.errors import RemoteProtocolError
from mcd.ids import ModelDigest
from mcd.ports import Clock, Engine, EngineStatus, Mesh, Stream
from mcd.rate import Rate
from mcd.wire import info
from mcd.wire.codec import decode_info, encode_info, encode_record
from mcd.wire.discovery import ORIGIN_BURST, ORIGIN_INTERVAL_S
from mcd.wire.framing import frame
from mcd.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_MODELS,
    MAX_RECORD_BYTES,
    MAX_RECORD_LIFETIME_MS,
    EngineLoad,
    InfoRequest,
    ModelOffer,
    Record,
)
from mcd.wire.records import RECORD_HEAD_BYTES, RECORD_VERSION, SignedRecord, alias_key, goodbye, next_seq, sign_record
from mcd.wire.signing import SigningKey

MAX_SAID = 65_535
"""Of requests in a load, U16; more is not said."""
ANNOUNCE_EVERY_S = 30.0
"""A quarter of a record's lifetime: three announcements may be lost."""
REPEAT_AFTER_S = (1.0, 4.0, 10.0)
"""A change is said again this long after it: a neighbour whose gossip link was still forming missed the first time."""
LOOK_EVERY_S = 0.5
"""How soon a change of the engines is announced; a provider must be routable within 2 s of being up."""
LIFETIME_MS = MAX_RECORD_LIFETIME_MS
INFO_TIMEOUT_S = 5.0
INFO_PER_S = 4.0
INFO_BURST = 64
"""How often one address is answered: a hundred entries behind it each ask every 30 s.   [ID-36]"""
FAREWELL_S = 0.3
"""How long a goodbye may take to leave."""
MAX_BODY_BYTES = MAX_RECORD_BYTES - RECORD_HEAD_BYTES - 3 * 9
"""Of a record without its number and times, which grow to nine bytes each."""
MAX_U32 = 4_294_967_295
SERVABLE = ("ready", "loading", "asleep")


class Announcer:
    """Owns our record's sequence number. One per daemon."""

    def __init__(
        self,
        config: Config,
        key: SigningKey,
        mesh: Mesh,
        engines: Sequence[Engine],
        clock: Clock,
        on_change: Callable[[SignedRecord], None],
        statuses: Callable[[], Sequence[EngineStatus]],
    ) -> None:
        """Begin without a record.

        Args:
            config: Our name and network.
            key: Signs the records.
            mesh: Spreads them.
            engines: What is announced.
            clock: Times of records.
            on_change: Hears of every new record of ours, so that our own engines are routed to like any other.
            statuses: The engines' statuses, with those who wait for a slot.
        """
        self._config = config
        self._key = key
        self._mesh = mesh
        self._engines = tuple(engines)
        self._clock = clock
        self._on_change = on_change
        self._statuses = statuses
        self._seq = 0
        self._record: Record | None = None
        self._signed = b""
        self._n_left_out = 0
        self._provided: set[ModelDigest] = set()
        """What the DHT names us for: each model's digest and alias key."""
        self._published_at = -ANNOUNCE_EVERY_S
        self._askers = Rate(INFO_PER_S, INFO_BURST)
        self._said = Rate(1 / ORIGIN_INTERVAL_S, ORIGIN_BURST - 1)
        """Others carry one more than we say, which is the goodbye.   [DISC-13]"""

    def signed_record(self) -> bytes:
        """The newest signed record, rebuilt when anything in it changed or a third of its life is over."""
        now_ms = self._clock.unix_ms()
        body = self._describe()
        old = self._record
        # One of the future is not young: the clock went back, and nobody believes it until the time it names.
        is_young = old is not None and 0 <= now_ms - old.issued_ms < LIFETIME_MS // 3
        if old is None or not is_young or not _same(old, body):
            self._number(body, now_ms)
        return self._signed

    def _renew(self) -> None:
        """Give the record a new number and life, unchanged otherwise."""
        self._number(self._describe(), self._clock.unix_ms())

    def _number(self, body: Record, now_ms: int) -> None:
        self._seq = next_seq(self._seq, now_ms)
        self._record = msgspec.structs.replace(body, seq=self._seq, issued_ms=now_ms, expires_ms=now_ms + LIFETIME_MS)
        self._signed = sign_record(self._record, self._key)
        self._on_change(SignedRecord(self._mesh.peer_id, self._key.public_key, self._record, self._signed))

    async def run(self) -> None:
        """Gossip the record at every change, again shortly after, and every 30 s until cancelled.   [DISC-13]"""
        last: Record | None = None
        due: list[float] = []
        while True:
            now = self._clock.now()
            self.signed_record()
            assert self._record is not None
            is_new = last is None or not _same(last, self._record)
            is_due = is_new or bool(due and due[0] <= now) or now - self._published_at >= ANNOUNCE_EVERY_S
            if not is_due or not self._said.take("", now):
                await trio.sleep(LOOK_EVERY_S)
                continue
            if is_new:
                due = [now + after_s for after_s in REPEAT_AFTER_S]
            elif due and due[0] <= now:
                self._renew()  # with a new number: those who have it relay it to those who do not
            due = [instant for instant in due if instant > now]
            last = self._record
            await self._publish(self.signed_record())

    async def _publish(self, signed: bytes) -> None:
        self._published_at = self._clock.now()
        assert self._record is not None
        digests = [ModelDigest(offer.digest) for offer in self._record.models]
        await self._mesh.publish(signed, digests)
        keys = {*digests, *(alias_key(offer.alias) for offer in self._record.models)}
        for gone in self._provided - keys:
            self._mesh.withdraw(gone)
        self._provided = keys
        for key in keys:
            await self._mesh.provide(key)

    async def withdraw(self) -> None:
        """Say goodbye, so that others drop us at once instead of after a time-out."""
        if self._record is None:
            return
        now_ms = self._clock.unix_ms()
        self._seq = next_seq(self._seq, now_ms)
        last = sign_record(goodbye(self._record, now_ms, self._seq), self._key)
        digests = [ModelDigest(offer.digest) for offer in self._record.models]
        with trio.move_on_after(FAREWELL_S):
            await self._mesh.publish(last, digests)

    async def serve_info(self, stream: Stream) -> None:
        """Answer one info request with our record and the seal keys of our engines.   [ID-30, ID-36]"""
        if not self._askers.take(self._mesh.address_of(stream.peer_id) or stream.peer_id, self._clock.now()):
            await stream.reset()
            return
        with trio.move_on_after(INFO_TIMEOUT_S) as limit:
            request = await _read_request(stream)
            engines = [engine for engine in self._engines if engine.status().state in SERVABLE][:MAX_MODELS]
            keys = [engine.keys() for engine in engines]
            loads = [_load(status) for status in self._statuses() if status.state in SERVABLE][:MAX_MODELS]
            reply = info.answer(request, self.signed_record(), keys, loads)
            await stream.send(frame(encode_info(reply)))
            await stream.close()
        if limit.cancelled_caught:
            await stream.reset()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of us others do not hear of, in words for the operator."""
        if not self._n_left_out:
            return ()
        return (f"{self._n_left_out} models are not announced: a record holds {MAX_RECORD_BYTES} bytes",)

    def _describe(self) -> Record:
        known = (_offer(engine.status()) for engine in self._engines if engine.status().engine_key)
        offers = [offer for offer in known if offer is not None]
        device = next((engine.status().device for engine in self._engines if engine.status().device), "")
        whole = Record(
            version=RECORD_VERSION,
            network=self._config.network,
            seq=0,
            issued_ms=0,
            expires_ms=0,
            name=self._config.name,
            agent=f"mcd {__version__}",
            addresses=tuple(self._mesh.addresses()),
            models=tuple(offers[:MAX_MODELS]),
            device=device,
        )
        fitting = _fitting(whole)
        self._n_left_out = len(offers) - len(fitting.models)
        return fitting


def _fitting(record: Record) -> Record:
    """A record small enough to be signed: without its last addresses, one kept, then without its last models."""
    while len(encode_record(record)) > MAX_BODY_BYTES:
        if len(record.addresses) > 1:
            record = msgspec.structs.replace(record, addresses=record.addresses[:-1])
        else:
            record = msgspec.structs.replace(record, models=record.models[:-1])
    return record


def _same(one: Record, other: Record) -> bool:
    """Whether two records say the same, their number and life aside."""
    return _unnumbered(one) == _unnumbered(other)


def _unnumbered(record: Record) -> Record:
    return msgspec.structs.replace(record, seq=0, issued_ms=0, expires_ms=0)


def _load(status: EngineStatus) -> EngineLoad:
    return EngineLoad(status.digest, min(status.n_running, MAX_SAID), min(status.n_waiting, MAX_SAID))


def _offer(status: EngineStatus) -> ModelOffer | None:
    """What we announce of one engine, loaded or cold; nothing of one that cannot serve."""
    if status.state not in SERVABLE:
        return None
    return ModelOffer(
        alias=status.alias,
        digest=status.digest,
        n_ctx=status.n_ctx,
        n_slots=status.n_slots,
        capabilities=status.capabilities,
        price_prompt=0,
        price_output=0,
        prefill_tokens_per_s=min(MAX_U32, int(status.prefill_tokens_per_s)),
        output_tokens_per_s=min(MAX_U32, int(status.output_tokens_per_s)),
        engine_key=status.engine_key,
        key_id=status.key_id,
        load_ms=0 if status.state == "ready" else max(1, status.load_ms),
        sealing=status.sealing,
    )


async def _read_request(stream: Stream) -> InfoRequest:
    request = decode_info(await receive_one(stream, MAX_FRAME_BYTES))
    if not isinstance(request, InfoRequest):
        raise RemoteProtocolError("the info stream began with another message")
    return request
