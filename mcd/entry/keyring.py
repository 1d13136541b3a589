"""Seal keys of providers: fetched once, verified from certificate to clock, kept until they run out.   [ENV-09]"""

from __future__ import annotations

import contextlib

from mcd.entry.probe import Probe
from mcd.errors import EnvelopeError
from mcd.ids import PeerId
from mcd.ports import Clock
from mcd.routing.plan import Candidate
from mcd.wire.keyconfig import KeyConfig, choose_config, verify_key_config
from mcd.wire.messages import EngineKeys
from mcd.wire.signing import public_key_of

RENEW_MS = 120_000
"""A key is not used in its last two minutes: the request must reach the engine and begin before it ends."""
MAX_KEYS = 1024
"""Verified keys kept; oldest first out."""


class Keyring:
    """Owner of the verified configs and of the highest epoch seen from each engine."""

    def __init__(self, probe: Probe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._verified: dict[tuple[PeerId, bytes], KeyConfig] = {}
        self._epochs: dict[bytes, int] = {}

    async def config(self, candidate: Candidate) -> KeyConfig:
        """The key to seal to for this candidate.

        Raises:
            PeerError: It cannot be fetched.
            EnvelopeError: What came does not verify.
        """
        held = self._verified.get((candidate.peer_id, candidate.model.digest))
        now_ms = self._clock.unix_ms()
        if held is not None and held.key_id == candidate.model.key_id and now_ms < held.not_after_ms - RENEW_MS:
            return held
        keys = await self._probe.engine_keys(candidate.peer_id, candidate.digest, candidate.model.key_id)
        config = choose_config(_that_hold(keys, public_key_of(candidate.peer_id), self._clock.unix_ms()))
        if config.epoch < self._epochs.get(config.engine_key, 0):
            raise EnvelopeError("the provider offers a seal key older than one it offered before")
        if len(self._verified) >= MAX_KEYS:
            self._verified.pop(next(iter(self._verified)))
            self._epochs.pop(next(iter(self._epochs)), None)
        self._epochs[config.engine_key] = config.epoch
        self._verified[candidate.peer_id, candidate.model.digest] = config
        return config

    def forget(self, candidate: Candidate, config: KeyConfig) -> None:
        """The provider does not know this key any more: fetch again, unless another request has done so already."""
        where = candidate.peer_id, candidate.model.digest
        if self._verified.get(where) is config:
            del self._verified[where]
        self._probe.forget_keys(candidate.peer_id, candidate.digest, {config.key_id, candidate.model.key_id})


def _that_hold(keys: EngineKeys, peer_key: bytes, now_ms: int) -> list[KeyConfig]:
    """The configs that verify: a suite of a later version, or a key that ran out, makes the others no worse."""
    found: list[KeyConfig] = []
    for data in keys.configs:
        with contextlib.suppress(EnvelopeError):
            found.append(verify_key_config(data, keys.certificate, peer_key, now_ms))
    return found
