"""What everybody offers at one instant: offers by alias and by digest, immutable, rebuilt only where they changed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

import msgspec

from mcd.ids import ModelAlias, ModelDigest, PeerId
from mcd.wire.messages import ModelOffer, Record

K = TypeVar("K", ModelAlias, ModelDigest)


class Offer(msgspec.Struct, frozen=True):
    """One model that one peer offers."""

    peer_id: PeerId
    record: Record
    model: ModelOffer
    is_suspect: bool = False
    """Its last probe failed: asked after the others."""
    is_own: bool = False
    """Our own engine: no network between."""


class Snapshot(msgspec.Struct, frozen=True):
    """What everybody offers at one instant. Holds still while the directory moves on."""

    by_alias: Mapping[ModelAlias, tuple[Offer, ...]] = MappingProxyType({})
    by_digest: Mapping[ModelDigest, tuple[Offer, ...]] = MappingProxyType({})


class _Column(Generic[K]):
    """Offers under one kind of key, with a frozen copy of each list. Owner: OfferIndex."""

    def __init__(self) -> None:
        self._offers: dict[K, dict[PeerId, Offer]] = {}
        self._frozen: dict[K, tuple[Offer, ...]] = {}
        self._changed: set[K] = set()

    def put(self, key: K, offer: Offer) -> None:
        self._offers.setdefault(key, {})[offer.peer_id] = offer
        self._changed.add(key)

    def drop(self, key: K, peer_id: PeerId) -> None:
        self._offers[key].pop(peer_id, None)
        self._changed.add(key)

    def freeze(self) -> Mapping[K, tuple[Offer, ...]]:
        for key in self._changed:
            offers = self._offers[key]
            if offers:
                self._frozen[key] = tuple(offer for _, offer in sorted(offers.items()))
            else:
                del self._offers[key]
                self._frozen.pop(key, None)
        self._changed.clear()
        return MappingProxyType(dict(self._frozen))


class OfferIndex:
    """The changing side of a Snapshot. Owner: the directory."""

    def __init__(self) -> None:
        self._shown: dict[PeerId, tuple[Offer, ...]] = {}
        self._by_alias: _Column[ModelAlias] = _Column()
        self._by_digest: _Column[ModelDigest] = _Column()

    def show(self, peer_id: PeerId, offers: tuple[Offer, ...]) -> None:
        """Replace everything that a peer offers."""
        for offer in self._shown.pop(peer_id, ()):
            self._by_alias.drop(ModelAlias(offer.model.alias), peer_id)
            self._by_digest.drop(ModelDigest(offer.model.digest), peer_id)
        for offer in offers:
            self._by_alias.put(ModelAlias(offer.model.alias), offer)
            self._by_digest.put(ModelDigest(offer.model.digest), offer)
        if offers:
            self._shown[peer_id] = offers

    def freeze(self) -> Snapshot:
        """The snapshot of now; costs what changed, and one reference for each alias and digest."""
        return Snapshot(self._by_alias.freeze(), self._by_digest.freeze())
