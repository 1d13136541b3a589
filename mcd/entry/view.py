"""The entry as the gateway and the command line see it: answers, and cards of models, peers and routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mcd.api.tasks import AnyRequest
from mcd.cards import ModelCard, PeerCard, RouteTerm
from mcd.entry.failover import Failover
from mcd.entry.router import Router
from mcd.errors import ModelNotFoundError, NoProviderError
from mcd.ids import ModelDigest, PeerId
from mcd.ports import Clock, EngineStatus, Link, Mesh, Put
from mcd.routing.directory import Directory, KnownPeer
from mcd.routing.plan import Want, named, preferred_digests
from mcd.routing.snapshot import Offer
from mcd.units import Seconds

LOADING_RETRY_S = 2.0
"""When nobody knows how long loading takes: a small model is there by then."""
_COMING = frozenset({"loading", "asleep", "restarting", "ready"})
"""States of an engine that is served as soon as our record says so."""


class MeshEntry:
    """Implements ports.Entry. One per daemon; read-only but for `answer`."""

    def __init__(
        self,
        failover: Failover,
        router: Router,
        directory: Directory,
        mesh: Mesh,
        clock: Clock,
        n_running: Callable[[PeerId], int | None],
        engines: Callable[[], Sequence[EngineStatus]],
    ) -> None:
        """``n_running`` is what we last heard of a peer's load, ``engines`` are our own."""
        self._failover = failover
        self._router = router
        self._directory = directory
        self._mesh = mesh
        self._clock = clock
        self._n_running = n_running
        self._engines = engines

    async def answer(self, request: AnyRequest, put: Put) -> None:
        """See ports.Entry.answer."""
        try:
            await self._failover.answer(request, put)
        except ModelNotFoundError as problem:
            raise self._not_yet(request.model) or problem from None

    def model(self, name: str) -> ModelCard:
        """See ports.Entry.model."""
        try:
            offers = named(self._directory.snapshot(self._clock.unix_ms()), name)
        except ModelNotFoundError as problem:
            raise self._not_yet(name) or problem from None
        return self._card(offers, self._rtts())

    def _not_yet(self, model: str) -> NoProviderError | None:
        """What to say of a model that this very peer is about to serve: a 404 would be final."""
        alias, _, digest = model.partition("@sha256:")
        waits = [
            status.ready_in_s
            for status in self._engines()
            if status.alias == alias and status.digest.hex().startswith(digest) and status.state in _COMING
        ]
        if not waits:
            return None
        return NoProviderError(
            f"this peer is loading {alias}; try again, or see mcd status", retry_after_s=max(LOADING_RETRY_S, *waits)
        )

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        """See ports.Entry.route."""
        return self._router.explain(
            Want(model, n_prompt_tokens, n_output_tokens, n_ctx=n_prompt_tokens + n_output_tokens)
        )

    def models(self) -> Sequence[ModelCard]:
        """Every model somebody serves now; an alias of several files shows the one that would be asked first.

        What it does is what any of them does: a request goes to one that does all it needs.
        """
        snapshot = self._directory.snapshot(self._clock.unix_ms())
        rtts = self._rtts()
        return [self._card(snapshot.by_alias[alias], rtts) for alias in sorted(snapshot.by_alias)]

    def _rtts(self) -> dict[PeerId, Seconds | None]:
        return {link.peer_id: link.rtt_s for link in self._mesh.links()}

    def _card(self, offers: tuple[Offer, ...], rtts: Mapping[PeerId, Seconds | None]) -> ModelCard:
        chosen = preferred_digests(offers, self._router.health, self._clock.now())[0]
        does = {name for offer in offers for name in offer.model.capabilities}
        return _model_card([offer for offer in offers if offer.model.digest == chosen], does, rtts)

    def peers(self) -> Sequence[PeerCard]:
        """Every peer of the directory but ourselves, nearest first, those without a measured RTT last."""
        now_ms = self._clock.unix_ms()
        links = {link.peer_id: link for link in self._mesh.links()}
        cards = [self._peer_card(known, links.get(known.peer_id), now_ms) for known in self._directory.peers(now_ms)]
        return sorted(cards, key=lambda card: (card.rtt_s is None, card.rtt_s or 0.0, card.peer_id))

    def _peer_card(self, known: KnownPeer, link: Link | None, now_ms: int) -> PeerCard:
        record = known.record
        measured = [
            learned.tpot_s
            for model in record.models
            if (learned := self._router.estimates.learned(known.peer_id, ModelDigest(model.digest))) and learned.tpot_s
        ]
        addresses = record.addresses
        return PeerCard(
            peer_id=known.peer_id,
            name=record.name,
            region=record.region,
            path=link.path if link is not None else "unlinked",
            rtt_s=link.rtt_s if link is not None else None,
            device=record.device,
            models=tuple(model.alias for model in record.models),
            n_running=self._n_running(known.peer_id),
            n_slots=sum(model.n_slots for model in record.models),
            output_tokens_per_s=1 / min(measured) if measured else None,
            claimed_tokens_per_s=max((float(model.output_tokens_per_s) for model in record.models), default=None),
            price_output=min((model.price_output for model in record.models), default=None),
            ok_fraction=self._router.health.ok_fraction(known.peer_id),
            seen_s=0.0 if link is not None else max(0.0, (now_ms - known.heard_ms) / 1000),
            state="suspect" if known.is_suspect else "alive",
            address=link.address if link is not None else (addresses[0] if addresses else ""),
            agent=record.agent,
            is_outbound=link.is_outbound if link is not None else None,
        )


def _model_card(offers: Sequence[Offer], does: set[str], links: Mapping[PeerId, Seconds | None]) -> ModelCard:
    models = [offer.model for offer in offers]
    rtts = [rtt_s for offer in offers if (rtt_s := 0.0 if offer.is_own else links.get(offer.peer_id)) is not None]
    return ModelCard(
        alias=models[0].alias,
        digest=ModelDigest(models[0].digest),
        n_ctx=max(model.n_ctx for model in models),
        capabilities=tuple(sorted(does)),
        n_providers=len(offers),
        n_loaded=sum(model.load_ms == 0 for model in models),
        load_s=min(model.load_ms for model in models) / 1000,
        n_slots=sum(model.n_slots for model in models),
        best_rtt_s=min(rtts, default=None),
        price_prompt=min(model.price_prompt for model in models),
        price_output=min(model.price_output for model in models),
        is_local=any(offer.is_own for offer in offers),
        seen_unix_s=max(offer.record.issued_ms for offer in offers) // 1000,
    )
