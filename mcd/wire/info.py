"""The info protocol's two sides: one question, one answer, checked against the connection it came over.   [ID-33]"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mcd.errors import RemoteProtocolError
from mcd.ids import PeerId
from mcd.units import UnixMs
from mcd.wire.messages import (
    CAPABILITY_VERSION,
    MAX_CERT_BYTES,
    MAX_KEY_CONFIG_BYTES,
    MAX_KEY_CONFIGS,
    MAX_MODELS,
    MAX_RECORD_BYTES,
    EngineKeys,
    EngineLoad,
    InfoReply,
    InfoRequest,
)
from mcd.wire.records import SignedRecord, open_record

MAX_INFO_FRAME_BYTES = (
    4096 + MAX_RECORD_BYTES + MAX_MODELS * (128 + MAX_CERT_BYTES + MAX_KEY_CONFIGS * MAX_KEY_CONFIG_BYTES)
)
"""An info reply with every field full, and room for fields to come."""
NONCE_MISMATCH = "the info reply answers another question"
WRONG_SUBJECT = "the info reply carries another peer's record"


class Answer(msgspec.Struct, frozen=True):
    """What a peer says of itself, checked."""

    record: SignedRecord | None
    """None while the peer has not published one."""
    engines: tuple[EngineKeys, ...]
    """Only of models in the record; certificates are checked by who seals (specs/06)."""
    loads: tuple[EngineLoad, ...]
    """Of models in the record too; empty when the peer does not say."""


def ask(nonce: bytes) -> InfoRequest:
    """The question; ``nonce`` is fresh randomness.   [ID-31]"""
    return InfoRequest(CAPABILITY_VERSION, nonce)


def answer(
    request: InfoRequest, record: bytes, engines: Sequence[EngineKeys], loads: Sequence[EngineLoad] = ()
) -> InfoReply:
    """The reply to ``request`` with our newest signed record, empty when there is none.   [ID-30]"""
    return InfoReply(request.nonce, record, tuple(engines), tuple(loads))


def open_answer(reply: InfoReply, *, nonce: bytes, peer_id: PeerId, now_ms: UnixMs | int, network: str) -> Answer:
    """Check a reply received from ``peer_id``.   [ID-32, ID-33, ID-34]

    Raises:
        RemoteProtocolError: It answers another question, or the record is another peer's.
        RecordError: The record fails a check.
    """
    if reply.nonce != nonce:
        raise RemoteProtocolError(NONCE_MISMATCH)
    if not reply.record:
        return Answer(None, (), ())
    signed = open_record(reply.record, now_ms=now_ms, network=network)
    if signed.peer_id != peer_id:
        raise RemoteProtocolError(WRONG_SUBJECT)
    offered = {offer.digest for offer in signed.record.models}
    return Answer(
        signed,
        tuple(keys for keys in reply.engines if keys.model_digest in offered),
        tuple(load for load in reply.loads if load.model_digest in offered),
    )
