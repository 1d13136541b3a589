"""The engine side of MCS/1: holds the seal keys, opens requests, decides when answer frames leave.   [specs/06]

Lives in the inference process, which holds the only copy of every private key here: nothing is written to disk and
a restart makes a new identity. Time is an argument, randomness is OpenSSL's.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from typing import Generic, TypeVar

import msgspec

from mcd.errors import EnvelopeError, RefusedError, RemoteProtocolError
from mcd.ids import KeyId
from mcd.units import Seconds
from mcd.wire.codec import decode_body
from mcd.wire.envelope import ENC_BYTES, SealKey, open_request
from mcd.wire.frames import Sealer
from mcd.wire.header import ENVELOPE_INVALID, SUITES, Header, decode_header
from mcd.wire.keyconfig import KeyConfig, sign_key_config, verify_certificate
from mcd.wire.messages import MAX_CLOCK_SKEW_MS, MAX_TOKENS_PER_CHUNK, RefuseReason
from mcd.wire.payload import Body, Delta, Private, ToolCallDelta, Usage
from mcd.wire.receipt import Receipt
from mcd.wire.signing import SigningKey, sign_receipt

ROTATION_MS = 3_600_000
"""A new seal key each hour."""
CONFIG_LIFETIME_MS = 4_500_000
"""75 min: an entry that fetched a key just before the rotation may still use it for a while."""
DESTROY_AFTER_MS = 600_000
"""A private key outlives its config by this, for requests that waited in a queue; then it is gone for ever."""
MAX_AGE_MS = 120_000
"""How far issued_ms may lie from our clock, either way."""
REPLAY_MEMORY_MS = 2 * MAX_AGE_MS
"""From the earliest acceptance (issued_ms ahead of us) to the latest."""
MAX_REPLAY_ENTRIES = 200_000
"""833 requests a second for the whole memory, some 30 MB; when full we are busy, we never forget."""
FLUSH_INTERVAL_S: Seconds = 0.1
"""Frames each 100 ms instead of each token: what sizes tell falls from everything to a few per cent (specs/06)."""
MAX_DELTA_BYTES = 32_768
"""Estimated size at which pending text starts a second frame; half of what a frame may hold."""


class OpenedRequest(Private, frozen=True):
    """A request whose seal opened, fresh and for us."""

    header: Header
    body: Body
    sealer: Sealer


class ReplayCache:
    """Remembers accepted requests for as long as they could be accepted again.   [ENV-18]"""

    def __init__(self, max_entries: int = MAX_REPLAY_ENTRIES) -> None:
        self._max = max_entries
        self._seen: set[bytes] = set()
        self._order: deque[tuple[int, bytes]] = deque()

    def check(self, name: bytes, now_ms: int) -> None:
        """Judge a request before any costly work.

        Raises:
            RefusedError: REPLAY, or BUSY when the memory is full.
        """
        while self._order and self._order[0][0] < now_ms - REPLAY_MEMORY_MS:
            self._seen.discard(self._order.popleft()[1])
        if name in self._seen:
            raise RefusedError("this request was seen before", reason=RefuseReason.REPLAY)
        if len(self._seen) >= self._max:
            raise RefusedError("too many requests to remember", reason=RefuseReason.BUSY, retry_after_s=1.0)

    def add(self, name: bytes, now_ms: int) -> None:
        """Remember an accepted request; only those whose seal opened, so that noise cannot fill the memory."""
        self._seen.add(name)
        self._order.append((now_ms, name))


class SealKeys:
    """The identity and the seal keys of one engine. Owner: the engine's worker."""

    def __init__(self, peer_public_key: bytes, model_digest: bytes) -> None:
        self._peer_key = peer_public_key
        self._model_digest = model_digest
        self._identity = SigningKey(os.urandom(32))
        self._keys: dict[KeyId, tuple[SealKey, int]] = {}  # with the unix ms at which the key is destroyed
        self._configs: tuple[bytes, ...] = ()
        self._epoch = 0
        self._replays = ReplayCache()
        self.certificate = b""
        """By the peer key; empty until installed."""
        self.key_id = b""
        """Newest key of the best suite, for the provider's record."""
        self.rotates_at_ms = 0
        """When the next rotation is due."""

    @property
    def engine_public_key(self) -> bytes:
        """Ed25519 identity of this process, to be certified by the peer key."""
        return self._identity.public_key

    def install_certificate(self, certificate: bytes) -> None:
        """Take the daemon's certificate.   [ENV-08]

        Raises:
            EnvelopeError: Not for this engine, or not by our peer's key.
        """
        engine_key, _ = verify_certificate(certificate, self._peer_key)
        if engine_key != self.engine_public_key:
            raise EnvelopeError(ENVELOPE_INVALID)
        self.certificate = certificate

    # --- rotation ----------------------------------------------------------------------------------------------

    def rotate(self, now_ms: int) -> None:
        """Make a new seal key for every suite; the old ones stay for requests under way.   [ENV-11]"""
        self._destroy_old(now_ms)
        self._epoch += 1
        self.rotates_at_ms = now_ms + ROTATION_MS
        not_after_ms = now_ms + CONFIG_LIFETIME_MS
        destroy_ms = not_after_ms + DESTROY_AFTER_MS  # not later for a key whose clock was ahead
        self._keys = {name: (key, min(until_ms, destroy_ms)) for name, (key, until_ms) in self._keys.items()}
        configs: list[bytes] = []
        for suite in SUITES:
            key = SealKey.generate(suite)
            self._keys[key.key_id] = (key, destroy_ms)
            config = KeyConfig(
                suite, self._peer_key, self.engine_public_key, now_ms, not_after_ms, self._epoch, key.public_key
            )
            self.key_id = self.key_id if configs else key.key_id
            configs.append(sign_key_config(config, self._identity))
        self._configs = tuple(configs)

    def rotate_if_due(self, now_ms: int) -> bool:
        """Rotate once an hour and destroy expired keys; True when there are new configs to publish.

        A clock that is set back, as a machine's that booted with a wrong one, leaves keys of the future, which no entry
        takes; so it is a rotation as well.
        """
        self._destroy_old(now_ms)
        made_ms = self.rotates_at_ms - ROTATION_MS
        if made_ms - MAX_CLOCK_SKEW_MS <= now_ms < self.rotates_at_ms:
            return False
        self.rotate(now_ms)
        return True

    def configs(self) -> tuple[bytes, ...]:
        """The newest signed config of each suite, best suite first; empty before the first rotation."""
        return self._configs

    def _destroy_old(self, now_ms: int) -> None:
        # dropping the last reference frees the key in OpenSSL, which overwrites it
        self._keys = {name: held for name, held in self._keys.items() if now_ms < held[1]}

    # --- requests ----------------------------------------------------------------------------------------------

    def open(self, header: bytes, sealed: bytes, now_ms: int) -> OpenedRequest:
        """Open a request; cheap checks first, everything before any computing.   [ENV-16] [ENV-17] [ENV-18]

        Raises:
            RefusedError: KEY_UNKNOWN, EXPIRED, REPLAY or BUSY: the entry may mend it and try again.
            EnvelopeError: It did not open, or is not for this provider and model.
        """
        parsed = decode_header(header)
        self._destroy_old(now_ms)
        if parsed.provider != self._peer_key or parsed.model_digest != self._model_digest:
            raise EnvelopeError(ENVELOPE_INVALID)
        if parsed.key_id not in self._keys:
            raise RefusedError("the seal key is not known here", reason=RefuseReason.KEY_UNKNOWN)
        if abs(now_ms - parsed.issued_ms) > MAX_AGE_MS or now_ms >= parsed.issued_ms + parsed.ttl_ms:
            raise RefusedError("the request is too old or from the future", reason=RefuseReason.EXPIRED)
        name = hashlib.sha256(sealed[: ENC_BYTES[parsed.suite]]).digest()[:16]
        self._replays.check(name, now_ms)
        plain, sealer = open_request(header, sealed, self._find)
        self._replays.add(name, now_ms)
        try:
            body = decode_body(plain)
        except RemoteProtocolError:
            raise EnvelopeError(ENVELOPE_INVALID) from None
        return OpenedRequest(parsed, body, sealer)

    def _find(self, key_id: KeyId) -> SealKey | None:
        held = self._keys.get(key_id)
        return held[0] if held else None

    def sign_receipt(self, sealer: Sealer, usage: Usage, amount: int = 0) -> bytes:
        """State what was delivered, once all data frames are sealed.   [ENV-30]"""
        return sign_receipt(
            Receipt(
                sealer.transcript_hash,
                usage.n_prompt_tokens,
                usage.n_cached_tokens,
                usage.n_output_tokens,
                sealer.output_digest(),
                amount,
            ),
            self._identity,
        )


# --- when frames leave -------------------------------------------------------------------------------------------


D = TypeVar("D")


class Paced(Generic[D]):
    """Lets what is gathered go at once the first time, then every 100 ms.   [ENV-23]

    Owner: one request of the worker. Each item returned becomes one data frame.
    """

    def __init__(self, interval_s: Seconds = FLUSH_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self.opens_at: Seconds = 0.0
        """Before this nothing leaves."""
        self._pending: list[D] = []

    @property
    def due_at(self) -> Seconds | None:
        """When `flush` will have something; None while nothing is pending."""
        return self.opens_at if self._pending else None

    def flush(self, now: Seconds) -> list[D]:
        """Return what is due now; call at `due_at`."""
        if not self._pending or now < self.opens_at:
            return []
        self.opens_at = now + self._interval_s
        return self.finish()

    def finish(self) -> list[D]:
        """Return everything pending: the answer is over."""
        pending, self._pending = self._pending, []
        return pending


class FlushPolicy(Paced[Delta]):
    """When the deltas of a chat leave, and which of them together."""

    def add(self, delta: Delta, now: Seconds) -> list[Delta]:
        """Take a delta; return what leaves now."""
        last = next((i for i in reversed(range(len(self._pending))) if self._pending[i].choice == delta.choice), None)
        if last is not None and _fit_together(self._pending[last], delta):
            self._pending[last] = _join(self._pending[last], delta)
        else:
            self._pending.append(delta)
        return self.flush(now)


def _size(delta: Delta) -> int:
    # an upper bound of the MessagePack: 4 bytes a character, 5 a token id, heads rounded up
    n_chars = len(delta.text) + len(delta.reasoning)
    n_chars += sum(len(call.arguments) + len(call.id) + len(call.name) + 16 for call in delta.tool_calls)
    n_logprobs = sum(24 + len(p.token) + sum(24 + len(t.token) for t in p.top) for p in delta.logprobs)
    return 4 * n_chars + 5 * len(delta.tokens) + n_logprobs + 64


def _fit_together(first: Delta, second: Delta) -> bool:
    # one delta reads as reasoning, then text, then tool calls: joining must not turn that order round
    turns_round = (second.reasoning and (first.text or first.tool_calls)) or (second.text and first.tool_calls)
    is_small = _size(first) + _size(second) <= MAX_DELTA_BYTES
    return not turns_round and is_small and len(first.tokens) + len(second.tokens) <= MAX_TOKENS_PER_CHUNK


def _join(first: Delta, second: Delta) -> Delta:
    calls = list(first.tool_calls)
    for call in second.tool_calls:
        if calls and calls[-1].index == call.index and not call.id and not call.name:
            begun = calls[-1]
            calls[-1] = ToolCallDelta(begun.index, begun.id, begun.name, begun.arguments + call.arguments)
        else:
            calls.append(call)
    return msgspec.structs.replace(
        first,
        text=first.text + second.text,
        tokens=first.tokens + second.tokens,
        reasoning=first.reasoning + second.reasoning,
        tool_calls=tuple(calls),
        logprobs=first.logprobs + second.logprobs,
    )
