"""The Protocols through which the rooms meet. Only `mcd.daemon` knows which adapter stands behind each.

All async members run under trio. Cancellation is trio's: every call may be cancelled at any await, leaves
nothing running and no half-written frame behind. Implementations raise only `mcd.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

from mcd.api.events import AnswerEvent
from mcd.api.tasks import AnyRequest
from mcd.cards import ModelCard, PeerCard, RouteTerm
from mcd.ids import ModelDigest, PeerId
from mcd.units import Seconds, UnixMs
from mcd.wire.messages import EngineKeys

# --- time ----------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The only source of time, so that tests can be their own."""

    def now(self) -> Seconds:
        """Monotonic seconds."""
        ...

    def unix_ms(self) -> UnixMs:
        """Wall clock, milliseconds."""
        ...


# --- mesh ----------------------------------------------------------------------------------------------------


class Stream(Protocol):
    """One ordered two-way byte channel to a peer; one exchange per stream.

    The checker in tests/fakes/check_stream.py states its behaviour; real and fake pass it.
    """

    @property
    def peer_id(self) -> PeerId:
        """The authenticated other side."""
        ...

    async def send(self, data: bytes) -> None:
        """Queue all of ``data``; waits for window. Cancelling never corrupts the connection, only this stream.

        Raises:
            StreamBrokenError: The stream or connection is gone.
        """
        ...

    async def receive(self) -> bytes:
        """At least one byte, at most 64 KiB; ``b""`` once the other side has closed its half.

        Raises:
            StreamBrokenError: Reset by the peer, or the connection died.
        """
        ...

    async def close(self) -> None:
        """End our half; the other side reads ``b""`` after what was sent. Does not stop the other's sending."""
        ...

    async def reset(self) -> None:
        """End both halves at once; the only call that stops a sender. Idempotent, never raises."""
        ...

    def abandon(self) -> None:
        """End our half as `close` does, and read no more: what still comes is dropped. Idempotent, never raises."""
        ...


StreamHandler = Callable[[Stream], Awaitable[None]]


class Link(msgspec.Struct, frozen=True):
    """A live connection to a peer, as the mesh sees it."""

    peer_id: PeerId
    address: str
    """Multiaddr text of the remote end."""
    path: Literal["direct tcp", "relay"]
    is_outbound: bool
    rtt_s: Seconds | None
    """Smoothed round trip of the muxer's pings; None until the first answer."""
    since_s: Seconds
    """Monotonic instant of connecting."""


Verdict = Literal["accept", "ignore", "reject"]
"""accept: use and relay. ignore: drop quietly (old, duplicate). reject: drop and hold it against the sender."""


class Mesh(Protocol):
    """The peer-to-peer network: streams by peer id, records by gossip, hints by DHT."""

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        ...

    def addresses(self) -> Sequence[str]:
        """Our dialable multiaddrs, each ending in /p2p/<our id>; at most MAX_ADDRESSES."""
        ...

    def links(self) -> Sequence[Link]:
        """Every live connection, one entry a peer."""
        ...

    def address_of(self, peer_id: PeerId) -> str:
        """The public address that a linked peer has now: IPv4, or IPv6 /64; empty where it has none."""
        ...

    async def connect(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Dial unless connected. At most 5 s.

        Raises:
            StreamBrokenError: No address answered.
        """
        ...

    async def open_stream(self, peer_id: PeerId, protocol: str, first: bytes) -> Stream:
        """Open a stream with ``first`` riding along the negotiation (one round trip on a warm connection).

        A refusal of the protocol surfaces at the first ``receive`` as StreamBrokenError. Needs a connection or
        known addresses (from ``connect``, discovery or the DHT).

        Raises:
            StreamBrokenError: Not reachable.
        """
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Run ``handler`` for each inbound stream of ``protocol``; its failure resets that stream only."""
        ...

    def on_record(self, judge: Callable[[bytes, PeerId], Verdict]) -> None:
        """Set who judges each gossiped record (signed bytes, and the neighbour it came from) before relaying."""
        ...

    def on_link(self, up: Callable[[Link], None], down: Callable[[PeerId], None]) -> None:
        """Be told of the first connection to a peer and of the loss of the last. Called on the trio thread."""
        ...

    def on_records_wanted(self, supply: Callable[[], Sequence[bytes]]) -> None:
        """Set who names the signed records we hold, newest first; a fresh link is told up to 64 of them."""
        ...

    def suggest(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Say where a peer may be found; the mesh keeps links to up to 64 such peers and redials a lost one once."""
        ...

    async def publish(self, record: bytes, digests: Sequence[ModelDigest]) -> None:
        """Gossip our signed record on the shards of ``digests`` (of our peer id when empty)."""
        ...

    async def provide(self, digest: ModelDigest) -> None:
        """Tell the DHT that we serve ``digest``; the mesh republishes until told otherwise."""
        ...

    def withdraw(self, digest: ModelDigest) -> None:
        """Stop republishing ``digest``; what the DHT holds of it runs out within half an hour."""
        ...

    async def find_providers(self, digest: ModelDigest) -> Sequence[PeerId]:
        """Peers the DHT names for ``digest``: hints, to be verified by asking them. At most 20, within 5 s."""
        ...

    def counters(self) -> dict[str, int]:
        """Monotonic counts for metrics: drops by reason, refused connections, restarted services."""
        ...


# --- engine --------------------------------------------------------------------------------------------------

EngineState = Literal["loading", "asleep", "ready", "restarting", "degraded", "failed", "stopped"]
"""asleep: a process with keys and without the model, which the next request loads."""


class LoadFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What loading a model on this machine taught; remembered, so that it can be offered before it is loaded again."""

    n_ctx: int
    n_slots: int
    capabilities: tuple[str, ...]
    prefill_tokens_per_s: float
    output_tokens_per_s: float
    sealing: int
    device: str
    load_ms: int
    """From the request to load to ready."""


class Measured(Protocol):
    """The memory of `LoadFacts`, by model and by what computes."""

    def get(self, digest: ModelDigest, device: str) -> LoadFacts | None:
        """What the newest loading of this model taught; None when it was never loaded here."""
        ...

    def put(self, digest: ModelDigest, device: str, facts: LoadFacts) -> None:
        """Remember it. Best effort: what is lost is measured again."""
        ...


class EngineStatus(msgspec.Struct, frozen=True):
    """What the supervisor knows of one model's inference process; no user data."""

    alias: str
    digest: ModelDigest
    state: EngineState
    n_ctx: int
    n_slots: int
    n_running: int
    n_waiting: int
    capabilities: tuple[str, ...]
    prefill_tokens_per_s: float
    output_tokens_per_s: float
    sealing: int
    device: str
    restarts: int
    load_ms: int
    """How long loading takes, as last measured; 0 when never loaded."""
    ready_in_s: Seconds = 0.0
    """Expected time until it can begin, were it asked now; 0 when loaded or when nothing is known."""
    fit: str = ""
    """What of it lies where, and why, in words for the operator."""
    detail: str = ""
    """Why it is not ready, in words for the operator."""
    engine_key: bytes = b""
    key_id: bytes = b""


class EngineStarted(msgspec.Struct, frozen=True):
    """The envelope opened and the prompt was tokenised; Y is the response key."""

    response_key: bytes
    n_prompt_tokens: int


class EngineChunk(msgspec.Struct, frozen=True):
    """One sealed response frame."""

    frame: bytes
    n_tokens: int


class EngineFinished(msgspec.Struct, frozen=True):
    """The sealed final (or error) frame and the signed receipt."""

    frame: bytes
    receipt: bytes
    n_prompt_tokens: int
    n_output_tokens: int


EngineEvent = EngineStarted | EngineChunk | EngineFinished
"""In order: EngineStarted, EngineChunk*, EngineFinished."""


class EngineRequest(msgspec.Struct, frozen=True):
    """What the provider hands to an engine: ciphertext only."""

    header: bytes
    sealed: bytes
    max_output_tokens: int
    resume_from: int = 0
    asker: int = 0
    """Equal for requests of one address: several choices take several slots.   [EX-46]"""
    max_slots: int = 0
    """All requests of the asker together; 0 is no bound."""


class EngineAnswer(Protocol):
    """The events of one request, in order; drained at the consumer's pace: a slow one pauses its own slot only."""

    def __aiter__(self) -> AsyncIterator[EngineEvent]:
        """Itself."""
        ...

    async def __anext__(self) -> EngineEvent:
        """The next event; raises what `Engine.submit` says."""
        ...

    def cancel(self) -> None:
        """Compute no more: within a decode step what was sealed follows, then EngineFinished for it.   [ENV-38]"""
        ...


class Engine(Protocol):
    """One model's inference process behind its supervisor."""

    def status(self) -> EngineStatus:
        """A snapshot; cheap enough for every admission."""
        ...

    def keys(self) -> EngineKeys:
        """Certificate and current key configs; empty configs while not ready."""
        ...

    def submit(
        self, request: EngineRequest, on_computed: Callable[[], None] = ...
    ) -> AbstractAsyncContextManager[EngineAnswer]:
        """Run one request. Leaving the context early drops it in the engine within one decode step: no end is sealed.

        A model that is asleep is loaded first; entering the context then takes that long. ``on_computed`` is called
        when its slots are free, which may be long before the consumer has taken the last event.

        Raises (on entering or iterating):
            RefusedError: KEY_UNKNOWN, EXPIRED, REPLAY, BUSY, TOO_LARGE or LOADING; nothing was computed.
            EnvelopeError: The envelope did not open.
            EngineDeadError: The process died; it is being restarted.
        """
        ...

    def wake(self) -> None:
        """Have the model loaded if it is asleep; returns at once."""
        ...

    async def run(self) -> None:
        """Supervise the process until cancelled: start, restart with back-off, rotate keys. Never raises."""
        ...


# --- entry, as the gateway sees it ---------------------------------------------------------------------------


Put = Callable[[Sequence[AnswerEvent]], Awaitable[None]]
"""Takes the next events of an answer, all that came together; waits while the answer's reader lags."""


class Entry(Protocol):
    """The entry side as the gateway sees it."""

    async def answer(self, request: AnyRequest, put: Put) -> None:
        """Serve one request over the mesh, to its end; cancelling this call cancels it at the provider.

        Raises:
            ModelNotFoundError, NoProviderError, UserError, PeerError: as their docstrings say.
        """
        ...

    def models(self) -> Sequence[ModelCard]:
        """Every model somebody serves now, by alias."""
        ...

    def model(self, name: str) -> ModelCard:
        """The model that a request with this name would get; raises as `answer` where there is none."""
        ...

    def peers(self) -> Sequence[PeerCard]:
        """Every peer of the directory but ourselves, nearest first."""
        ...

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        """The plan a request of that size would get now.

        Raises:
            ModelNotFoundError: Nobody offers it.
        """
        ...


class DaemonStatus(msgspec.Struct, frozen=True):
    """What `mcd status` and `/health` show; no user data."""

    version: str
    peer_id: PeerId
    name: str
    network: str
    roles: tuple[str, ...]
    uptime_s: Seconds
    http: str
    addresses: tuple[str, ...]
    n_links: int
    n_peers: int
    n_models: int
    engines: tuple[EngineStatus, ...]
    n_requests: int
    n_failed: int
    n_served: int
    n_prompt_tokens: int
    n_output_tokens: int
    ttft_p50_s: Seconds | None
    ttft_p95_s: Seconds | None
    warnings: tuple[str, ...]
    counters: dict[str, int]
