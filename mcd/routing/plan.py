"""The plan: the providers of a model in the order in which to ask them, each with the reasons.

An alias may stand for several files (digests): the one with most providers is asked first, and a request may name
one as ``alias@sha256:<first hex digits>``. Nothing is ever answered by a model that was not asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from random import Random

import msgspec

from mcd.errors import ModelNotFoundError, NoProviderError, UnsupportedError
from mcd.ids import ModelAlias, ModelDigest, PeerId
from mcd.routing.estimate import Estimates, Facts, Prediction
from mcd.routing.health import Health, Standing
from mcd.routing.snapshot import Offer, Snapshot
from mcd.units import Seconds
from mcd.wire.messages import ModelOffer

NEAR_EQUAL = 1.1
"""Candidates within this factor of the best are shuffled: many entries with one view must not pick one provider."""
MAX_CANDIDATES = 64
"""Longest plan; nobody tries more, and the prediction of each costs 5 us."""
FAILING = 0.5
"""Fraction of failed exchanges from which a provider no longer speaks for its file."""
MAX_SUGGESTED = 5
"""Other models named where one does not do what is asked."""
DEFAULT_RETRY_S = 2.0
"""When nothing is known about when a provider will be usable again."""

_NAMED = re.compile(r"(?P<alias>[^@]{1,96})(?:@sha256:(?P<digest>[0-9a-f]{8,64}))?\Z")
_NOBODY = "no peer offers this model; `mcd models` lists what is served now"


class Want(msgspec.Struct, frozen=True):
    """What a request needs from a provider."""

    model: str
    """As the user typed it: alias, or alias@sha256:hex."""
    n_prompt_tokens: int = 0
    n_output_tokens: int = 0
    """Expected sizes; estimates, used for time only."""
    n_ctx: int = 0
    """Tokens that the context should hold, an estimate too: providers with less are asked last."""
    capabilities: frozenset[str] = frozenset()
    digest: ModelDigest | None = None
    """Only this very file, under whatever alias: set when an answer has begun and must be continued."""
    exclude: frozenset[PeerId] = frozenset()
    """Already tried for this request."""


class Known(msgspec.Struct, frozen=True):
    """What we know of the providers ourselves."""

    estimates: Estimates
    health: Health
    links: Mapping[PeerId, Seconds | None] = {}
    """Round trip of each live connection; None when not measured yet."""


class Candidate(msgspec.Struct, frozen=True):
    """One provider of a plan, with every part of its predicted time."""

    peer_id: PeerId
    name: str
    model: ModelOffer
    addresses: tuple[str, ...]
    facts: Facts
    prediction: Prediction
    is_own: bool = False
    not_before: Seconds = 0.0
    held_back: str = ""
    """Why it has to wait, and for how long."""
    is_short: bool = False
    """Its context holds less than is wanted."""

    @property
    def digest(self) -> ModelDigest:
        """Which file it serves."""
        return ModelDigest(self.model.digest)

    @property
    def why(self) -> str:
        """Notes for people, joined by commas."""
        short = f"context of {self.model.n_ctx}" if self.is_short else ""
        return ", ".join((*self.prediction.notes, *filter(None, (self.held_back, short))))


def plan(snapshot: Snapshot, want: Want, known: Known, now: Seconds, random: Random) -> tuple[Candidate, ...]:
    """Order the usable providers by predicted time, files by how many serve them.

    Args:
        snapshot: What everybody offers.
        want: What the request needs.
        known: Learned numbers, breakers and links.
        now: Monotonic seconds.
        random: Breaks ties among near-equals.

    Raises:
        ModelNotFoundError: Nobody offers the model.
        UnsupportedError: Nobody offers it with the capabilities asked for.
        NoProviderError: It is offered, but none may be asked now; says when to retry.
    """
    everyone = candidates(snapshot, want, known, now, n_enough=MAX_CANDIDATES)
    usable = [candidate for candidate in everyone if candidate.not_before <= now]
    if not usable:
        waits = [candidate.not_before - now for candidate in everyone]
        retry_after_s = min(waits, default=DEFAULT_RETRY_S)
        raise NoProviderError(
            f"every provider of this model is busy or failing; retry in {retry_after_s:.0f} s (mcd route --explain)",
            retry_after_s=retry_after_s,
        )
    n_near = _count_near(usable)
    near = usable[:n_near]
    random.shuffle(near)
    return tuple((near + usable[n_near:])[:MAX_CANDIDATES])


def candidates(
    snapshot: Snapshot, want: Want, known: Known, now: Seconds, *, n_enough: float = math.inf
) -> tuple[Candidate, ...]:
    """Every provider of the model, those that have to wait included, in the order of `plan` before ties are broken.

    Files behind those that have ``n_enough`` providers to ask now are left out; they would stand behind them.

    Raises:
        ModelNotFoundError, UnsupportedError: As `plan`.
    """
    ranked: list[Candidate] = []
    for group in _groups(snapshot, want, known.health, now):
        judged = [_judge(offer, want, known, now) for offer in group if offer.peer_id not in want.exclude]
        judged.sort(key=lambda candidate: (candidate.prediction.total_s, candidate.peer_id))
        ranked += judged
        n_enough -= sum(candidate.not_before <= now and not candidate.is_short for candidate in judged)
        if n_enough <= 0:
            break
    return tuple(sorted(ranked, key=lambda candidate: (candidate.not_before > now, candidate.is_short)))


def named(snapshot: Snapshot, name: str) -> tuple[Offer, ...]:
    """What is offered under a name as people write it: alias, or alias@sha256:hex.   [GW-42]

    Raises:
        ModelNotFoundError: Nothing is.
    """
    match = _NAMED.match(name)
    offers = snapshot.by_alias.get(ModelAlias(match["alias"]), ()) if match else ()
    if match and (prefix := match["digest"]):
        offers = tuple(offer for offer in offers if offer.model.digest.hex().startswith(prefix))
    if not offers:
        raise ModelNotFoundError(_NOBODY, param="model")
    return offers


def preferred_digests(
    offers: tuple[Offer, ...], health: Health | None = None, now: Seconds = 0.0
) -> tuple[ModelDigest, ...]:
    """The files behind an alias: most providers first, then the lowest digest, so that all entries agree.

    What we have learned ourselves goes first: providers that failed us as often as not do not count, or a handful of
    peers that offer a popular name and never answer would be asked before everybody else for ever. And a file that one
    has answered us with goes before those of strangers, or ever new ids with lower digests would.
    """
    digests = {ModelDigest(offer.model.digest) for offer in offers}
    if len(digests) < 2:  # the usual case; what each provider's past says of its file decides nothing then
        return tuple(digests)
    ranks: dict[ModelDigest, tuple[bool, int, float, int]] = {}
    for offer in offers:
        digest = ModelDigest(offer.model.digest)
        is_proven, n_good, best, count = ranks.get(digest, (False, 0, 0.0, 0))
        fails = 0.0 if health is None else health.standing(offer.peer_id, digest, now).fail_fraction
        answers = fails < FAILING and health is not None and bool(health.ok_fraction(offer.peer_id))
        ranks[digest] = (is_proven or answers, n_good + (fails < FAILING), max(best, 1 - fails), count + 1)
    return tuple(sorted(ranks, key=lambda digest: (*(-rank for rank in ranks[digest]), digest)))


def _groups(snapshot: Snapshot, want: Want, health: Health, now: Seconds) -> list[list[Offer]]:
    if want.digest is not None:
        offers = snapshot.by_digest.get(want.digest, ())
        digests: tuple[ModelDigest, ...] = (want.digest,)
    else:
        offers = named(snapshot, want.model)
        digests = preferred_digests(offers, health, now)
    if not offers:
        raise ModelNotFoundError(_NOBODY, param="model")
    capable = tuple(offer for offer in offers if want.capabilities.issubset(offer.model.capabilities))
    if not capable:
        raise _incapable(snapshot, want, offers)
    of_file: dict[ModelDigest, list[Offer]] = {digest: [] for digest in digests}
    for offer in capable:
        of_file[ModelDigest(offer.model.digest)].append(offer)
    return list(of_file.values())


def _incapable(snapshot: Snapshot, want: Want, offers: tuple[Offer, ...]) -> UnsupportedError:
    """Say what the model does, and who does what was asked."""
    does = {name for offer in offers for name in offer.model.capabilities}
    missing = ", ".join(sorted(want.capabilities - does)) or "all of that at one provider"
    others = sorted(
        alias
        for alias, offered in snapshot.by_alias.items()
        if any(want.capabilities.issubset(offer.model.capabilities) for offer in offered)
    )
    if others:
        shown = ", ".join(others[:MAX_SUGGESTED]) + (", ..." if len(others) > MAX_SUGGESTED else "")
        advice = f"use a model that does {missing}: {shown}"
    else:
        advice = f"no peer serves a model that does {missing} now (mcd pull --list names some to serve)"
    name = want.model.partition("@")[0]
    return UnsupportedError(f"model {name} does {', '.join(sorted(does)) or 'nothing'}; {advice}", param="model")


def _judge(offer: Offer, want: Want, known: Known, now: Seconds) -> Candidate:
    model = offer.model
    standing = known.health.standing(offer.peer_id, ModelDigest(model.digest), now)
    facts = facts_of(offer, standing, known.links)
    prediction = known.estimates.predict(facts, want.n_prompt_tokens, want.n_output_tokens, now)
    return Candidate(
        peer_id=offer.peer_id,
        name=offer.record.name,
        model=model,
        addresses=offer.record.addresses,
        facts=facts,
        prediction=prediction,
        is_own=offer.is_own,
        not_before=standing.not_before,
        held_back=f"{standing.why} for {standing.not_before - now:.1f} s" if standing.why else "",
        is_short=model.n_ctx < want.n_ctx,
    )


def facts_of(offer: Offer, standing: Standing, links: Mapping[PeerId, Seconds | None]) -> Facts:
    """What an offer claims, and what our connections and past exchanges add to it."""
    return Facts(
        peer_id=offer.peer_id,
        digest=ModelDigest(offer.model.digest),
        claimed_prefill_tokens_per_s=offer.model.prefill_tokens_per_s,
        claimed_output_tokens_per_s=offer.model.output_tokens_per_s,
        n_slots=offer.model.n_slots,
        load_s=offer.model.load_ms / 1000,
        rtt_s=links.get(offer.peer_id),
        is_linked=offer.peer_id in links,
        is_suspect=offer.is_suspect,
        is_own=offer.is_own,
        fail_fraction=standing.fail_fraction,
    )


def _count_near(usable: list[Candidate]) -> int:
    best = usable[0]
    limit_s = best.prediction.total_s * NEAR_EQUAL
    n_near = 0
    while n_near < len(usable):
        candidate = usable[n_near]
        is_alike = (candidate.digest, candidate.is_short) == (best.digest, best.is_short)
        if not is_alike or candidate.prediction.total_s > limit_s:
            break
        n_near += 1
    return n_near
