r"""Provider records: sign our own, and open another's while spending as little as possible on a bad one.

A signed record is ``public_key 32 | signature 64 | body``, at most MAX_RECORD_BYTES. Anyone may send us one at
gossip speed, so the checks run from cheap to dear and the signature comes last (110 us of 125): a forger pays for
a well-formed, fresh, addressed record before he costs us that.   [REC-20]
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from mcd.errors import LimitError, LocalProtocolError, RecordError, RemoteProtocolError
from mcd.ids import ModelDigest, PeerId
from mcd.units import UnixMs
from mcd.wire.codec import decode_record, encode_record, record_version
from mcd.wire.messages import MAX_CLOCK_SKEW_MS, MAX_RECORD_BYTES, MAX_RECORD_LIFETIME_MS, Record
from mcd.wire.signing import KEY_BYTES, SIGNATURE_BYTES, SigningKey, peer_id, verify

RECORD_VERSION = 1
RECORD_LABEL = b"modelcloud record v1\0"
ALIAS_KEY_PREFIX = b"modelcloud alias v1\0"
"""Of what is hashed to the DHT key of an alias; nothing is signed under it."""
RECORD_HEAD_BYTES = KEY_BYTES + SIGNATURE_BYTES

Why = Literal[
    "size", "version", "malformed", "network", "expired", "lifetime", "future", "address", "duplicate", "signature"
]
"""Why a record was dropped, in the order of the checks; metrics count by it."""


class SignedRecord(msgspec.Struct, frozen=True):
    """A record that passed every check, with the bytes that prove it."""

    peer_id: PeerId
    public_key: bytes
    record: Record
    raw: bytes
    """As received: what is relayed, and what the signature is over."""


def sign_record(record: Record, key: SigningKey) -> bytes:
    """Encode and sign our own record.

    Raises:
        LocalProtocolError: A field is outside its bounds, or the content is one that every peer drops.
        LimitError: The whole is over MAX_RECORD_BYTES: announce fewer models or addresses.   [REC-03]
    """
    fault = _lifetime_fault(record) or _content_fault(record, peer_id(key.public_key))
    if fault is not None:
        raise LocalProtocolError(f"refusing to sign a record that every peer drops: {fault}")
    body = encode_record(record)
    data = key.public_key + key.sign(RECORD_LABEL, body) + body
    if len(data) > MAX_RECORD_BYTES:
        raise LimitError(f"a record of {len(data)} bytes exceeds {MAX_RECORD_BYTES}: announce fewer models")
    return data


def open_record(data: bytes, *, now_ms: UnixMs | int, network: str) -> SignedRecord:
    """Check a signed record from anywhere and decode it.

    Whether it is newer than the one known is the directory's affair (`is_newer`).

    Args:
        data: Signed bytes as received.
        now_ms: Our wall clock; the publisher's only bounds how long it may be believed.
        network: Ours; records of other networks are dropped.

    Raises:
        RecordError: ``why`` is one of `Why`.
    """
    if not RECORD_HEAD_BYTES < len(data) <= MAX_RECORD_BYTES:
        raise RecordError("size")
    body = data[RECORD_HEAD_BYTES:]
    if record_version(body) not in {RECORD_VERSION, None}:
        raise RecordError("version")
    record = _decode_or_none(body)
    if record is None:
        raise RecordError("malformed")
    public_key = data[:KEY_BYTES]
    subject = peer_id(public_key)
    fault = _time_fault(record, now_ms, network) or _content_fault(record, subject)
    if fault is not None:
        raise RecordError(fault)
    if not verify(public_key, RECORD_LABEL, body, data[KEY_BYTES:RECORD_HEAD_BYTES]):
        raise RecordError("signature")
    return SignedRecord(subject, public_key, record, data)


def _decode_or_none(body: bytes) -> Record | None:
    try:
        return decode_record(body)
    except RemoteProtocolError:
        return None


def alias_key(alias: str) -> ModelDigest:
    """Under which the DHT keeps who serves an alias.   [DISC-56]"""
    return ModelDigest(hashlib.sha256(ALIAS_KEY_PREFIX + alias.encode()).digest())


def is_goodbye(record: Record) -> bool:
    """Whether the record says that its peer leaves."""
    return record.expires_ms == record.issued_ms


def goodbye(record: Record, now_ms: UnixMs | int, seq: int) -> Record:
    """The record that takes ``record`` back: same peer, nothing offered, over at once.   [REC-08]"""
    return msgspec.structs.replace(
        record, seq=seq, issued_ms=int(now_ms), expires_ms=int(now_ms), addresses=(), models=(), coordinate=()
    )


def next_seq(last_seq: int, now_ms: UnixMs | int) -> int:
    """The number of our next record: the clock, or one more than the last if the clock has not moved.   [REC-05]"""
    return max(last_seq + 1, int(now_ms))


def is_newer(record: Record, known: Record | None) -> bool:
    """Whether ``record`` replaces the known record of the same peer.   [REC-06]"""
    return known is None or record.seq > known.seq


def _time_fault(record: Record, now_ms: int, network: str) -> Why | None:
    if record.network != network:
        return "network"
    # A goodbye is over when it is issued, yet must reach everyone: it is relayed for one lifetime.
    lives_until_ms = record.issued_ms + MAX_RECORD_LIFETIME_MS if is_goodbye(record) else record.expires_ms
    if lives_until_ms <= now_ms:
        return "expired"
    if (fault := _lifetime_fault(record)) is not None:
        return fault
    return "future" if record.issued_ms > now_ms + MAX_CLOCK_SKEW_MS else None


def _lifetime_fault(record: Record) -> Why | None:
    return None if 0 <= record.expires_ms - record.issued_ms <= MAX_RECORD_LIFETIME_MS else "lifetime"


def _content_fault(record: Record, subject: PeerId) -> Why | None:
    if not all(address.endswith(f"/p2p/{subject}") for address in record.addresses):
        return "address"
    for values in (
        record.addresses,
        tuple(offer.digest for offer in record.models),
        tuple(offer.alias for offer in record.models),
    ):
        if len(set(values)) != len(values):
            return "duplicate"
    return None
