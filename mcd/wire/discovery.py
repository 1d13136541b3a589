"""How records travel: how often one may be said, and the messages of the records protocol.

One question, one answer, then the stream closes.   [DISC-30]
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.units import Seconds
from mcd.wire.codec import MESSAGE_INVALID, MESSAGE_UNSENDABLE
from mcd.wire.messages import MAX_RECORD_BYTES, Message

RECORDS_PROTOCOL = "/modelcloud/records/1.0.0"

ORIGIN_INTERVAL_S: Seconds = 5.0
"""One record of an origin is carried on a shard in this time; records are said every 30 s and on change."""
ORIGIN_BURST = 5
"""So many more at once: changes at start."""
MAX_RECORDS = 64
"""Records in one reply: as many peers as one keeps links to."""
MAX_RECORDS_BYTES = 262_144
"""All records of one reply together: sixty-four of the largest."""
MAX_RECORDS_REQUEST_FRAME_BYTES = 64
"""Largest request frame; a request has one number and room for later fields."""
MAX_RECORDS_REPLY_FRAME_BYTES = MAX_RECORDS_BYTES + 1024
"""Largest reply frame: the records, and MessagePack's few bytes around each."""

SignedRecordBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_RECORD_BYTES)]


class RecordsRequest(Message, frozen=True, array_like=True, tag=40):
    """Anyone -> peer: the newest records you hold, yours among them."""

    max_records: Annotated[int, Meta(ge=1, le=MAX_RECORDS)]


class RecordsReply(Message, frozen=True, array_like=True, tag=41):
    """Peer -> anyone: signed records, newest first; each is judged like a gossiped one."""

    records: Annotated[tuple[SignedRecordBytes, ...], Meta(max_length=MAX_RECORDS)]


RecordsMessage = RecordsRequest | RecordsReply

_REQUEST: msgspec.msgpack.Decoder[RecordsRequest] = msgspec.msgpack.Decoder(RecordsRequest)
_REPLY: msgspec.msgpack.Decoder[RecordsReply] = msgspec.msgpack.Decoder(RecordsReply)
_ENCODER = msgspec.msgpack.Encoder()
_FAULTS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def encode_records(message: RecordsMessage) -> bytes:
    """Encode a message of the records protocol.

    Raises:
        LocalProtocolError: A field is outside its bounds.
    """
    data = _ENCODER.encode(message)
    try:
        if isinstance(message, RecordsRequest):
            decode_records_request(data)
        else:
            decode_records_reply(data)
    except RemoteProtocolError:
        raise LocalProtocolError(MESSAGE_UNSENDABLE) from None
    return data


def decode_records_request(body: bytes | memoryview) -> RecordsRequest:
    """Decode a question.

    Raises:
        RemoteProtocolError: Not exactly one valid request.   [DISC-32]
    """
    try:
        return _REQUEST.decode(body)
    except _FAULTS:
        raise RemoteProtocolError(MESSAGE_INVALID) from None


def decode_records_reply(body: bytes | memoryview) -> RecordsReply:
    """Decode an answer.

    Raises:
        RemoteProtocolError: Not exactly one valid reply, or more than MAX_RECORDS_BYTES of records.   [DISC-32]
    """
    try:
        reply = _REPLY.decode(body)
    except _FAULTS:
        raise RemoteProtocolError(MESSAGE_INVALID) from None
    if sum(map(len, reply.records)) > MAX_RECORDS_BYTES:
        raise RemoteProtocolError(MESSAGE_INVALID)
    return reply
