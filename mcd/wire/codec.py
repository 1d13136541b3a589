"""Bytes <-> messages: MessagePack through typed structs, every bound checked while decoding.

The bounds stand once, in `mcd.wire.messages` and `mcd.wire.payload`. Decoding enforces them against the peer and
encoding reads its own output back, so they hold against our own mistakes too (1 us for a chunk). Whatever a peer
sends, a decoder returns a message or raises RemoteProtocolError with a fixed text: msgspec's own texts quote the
input, which may be a prompt.   [WIRE-10]
"""

from __future__ import annotations

import math
import struct
from codecs import getincrementaldecoder
from typing import TypeVar

import msgspec

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.wire.messages import MAX_BODY_BYTES, ExchangeMessage, InfoMessage, Record
from mcd.wire.payload import Body, Delta, Failure, Final, Part, Scores, Text, Tokens, Vectors

MESSAGE_INVALID = "the peer sent bytes that are not a valid message"
BODY_INVALID = "the sealed request body is not valid"
MESSAGE_UNSENDABLE = "refusing to send a message that breaks its own bounds"

_PIECE_BYTES = 65_536
_ARRAY_HEAD_BYTES = {0xDC: 3, 0xDD: 5} | dict.fromkeys(range(0x91, 0xA0), 1)
"""MessagePack's arrays of at least one element, by first byte."""
_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
"""Its unsigned integers of more than a byte, by first byte."""

T = TypeVar("T")

_ENCODER = msgspec.msgpack.Encoder()
_JSON_ENCODER = msgspec.json.Encoder()
_EXCHANGE: msgspec.msgpack.Decoder[ExchangeMessage] = msgspec.msgpack.Decoder(ExchangeMessage)
_INFO: msgspec.msgpack.Decoder[InfoMessage] = msgspec.msgpack.Decoder(InfoMessage)
_RECORD = msgspec.msgpack.Decoder(Record)
_DELTA = msgspec.msgpack.Decoder(Delta)
_PARTS: dict[type[Part], msgspec.msgpack.Decoder[Part]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (Vectors, Scores, Tokens, Text)
}
_FINAL = msgspec.msgpack.Decoder(Final)
_FAILURE = msgspec.msgpack.Decoder(Failure)
_BODY = msgspec.json.Decoder(Body)

_FAULTS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What msgspec raises on hostile input: its own tree, bad UTF-8 (a ValueError), nesting, integers beyond C's."""

Decoder = msgspec.msgpack.Decoder[T] | msgspec.json.Decoder[T]


def _decode(decoder: Decoder[T], data: bytes | memoryview, fault: str = MESSAGE_INVALID) -> T:
    try:
        return decoder.decode(data)
    except _FAULTS:
        pass  # raised below instead of here: msgspec's error quotes the input and must not be our context
    raise RemoteProtocolError(fault)


def _encode(decoder: msgspec.msgpack.Decoder[T], message: T) -> bytes:
    try:
        data = _ENCODER.encode(message)
        decoder.decode(data)
    except _FAULTS:
        pass
    else:
        return data
    raise LocalProtocolError(MESSAGE_UNSENDABLE)


# --- between peers -------------------------------------------------------------------------------------------


def encode_exchange(message: ExchangeMessage) -> bytes:
    """Encode a message of the exchange protocol.

    Raises:
        LocalProtocolError: A field is outside its bounds.   [WIRE-07]
    """
    return _encode(_EXCHANGE, message)


def decode_exchange(body: bytes | memoryview) -> ExchangeMessage:
    """Decode a message of the exchange protocol.

    Raises:
        RemoteProtocolError: Not exactly one valid message.
    """
    return _decode(_EXCHANGE, body)


def encode_info(message: InfoMessage) -> bytes:
    """Encode a message of the info protocol.

    Raises:
        LocalProtocolError: A field is outside its bounds.
    """
    return _encode(_INFO, message)


def decode_info(body: bytes | memoryview) -> InfoMessage:
    """Decode a message of the info protocol.

    Raises:
        RemoteProtocolError: Not exactly one valid message.
    """
    return _decode(_INFO, body)


def encode_record(record: Record) -> bytes:
    """Encode the body of a record, unsigned.

    Raises:
        LocalProtocolError: A field is outside its bounds.
    """
    data = _encode(_RECORD, record)
    if not _is_finite(record):
        raise LocalProtocolError(MESSAGE_UNSENDABLE)
    return data


def decode_record(data: bytes | memoryview) -> Record:
    """Decode the body of a record; what it says is judged by `mcd.wire.records`.

    Raises:
        RemoteProtocolError: Not exactly one record, or a coordinate that is not a finite number.
    """
    record = _decode(_RECORD, data)
    if not _is_finite(record):
        raise RemoteProtocolError(MESSAGE_INVALID)
    return record


def record_version(data: bytes) -> int | None:
    """The version of a record's body, of which nothing else is looked at; None where no array begins with a number.

    By hand, since whatever follows in a later version need not be anything that this version's decoder would take.
    """
    n_head = _ARRAY_HEAD_BYTES.get(data[0], 0) if data else 0
    number = data[n_head : n_head + 9]
    if not n_head or not number:
        return None
    if number[0] < 0x80:
        return number[0]
    n_bytes = _UINT_BYTES.get(number[0], len(number))
    return int.from_bytes(number[1 : 1 + n_bytes], "big") if n_bytes < len(number) else None


def _is_finite(record: Record) -> bool:
    return all(math.isfinite(part) for part in record.coordinate)


# --- inside the seal -----------------------------------------------------------------------------------------


def encode_delta(delta: Delta) -> bytes:
    """Encode the plaintext of a data frame.

    Raises:
        LocalProtocolError: A field is outside its bounds, or a logprob is not a finite number.
    """
    data = _encode(_DELTA, delta)
    if not _has_finite_logprobs(delta):
        raise LocalProtocolError(MESSAGE_UNSENDABLE)
    return data


def decode_delta(data: bytes | memoryview) -> Delta:
    """Decode the plaintext of a data frame.

    Raises:
        RemoteProtocolError: Not exactly one delta, or a logprob that is not a finite number.
    """
    delta = _decode(_DELTA, data)
    if not _has_finite_logprobs(delta):
        raise RemoteProtocolError(MESSAGE_INVALID)
    return delta


def _has_finite_logprobs(delta: Delta) -> bool:
    # NaN and the infinities have no JSON, so one of them would break the client's stream
    return all(
        math.isfinite(chosen.logprob) and all(math.isfinite(other.logprob) for other in chosen.top)
        for chosen in delta.logprobs
    )


def encode_part(part: Part) -> bytes:
    """Encode the plaintext of a data frame of any kind but chat.

    Raises:
        LocalProtocolError: A field is outside its bounds, or a number is not finite.
    """
    data = _encode(_PARTS[type(part)], part)
    if not _has_finite_numbers(part):
        raise LocalProtocolError(MESSAGE_UNSENDABLE)
    return data


def decode_part(data: bytes | memoryview, kind: type[Part]) -> Part:
    """Decode the plaintext of a data frame of any kind but chat.

    Raises:
        RemoteProtocolError: Not exactly one struct of this kind, or numbers that are none.   [ENV-37]
    """
    part = _decode(_PARTS[kind], data)
    if not _has_finite_numbers(part):
        raise RemoteProtocolError(MESSAGE_INVALID)
    return part


def _has_finite_numbers(part: Part) -> bool:
    match part:
        case Vectors(vectors=vectors):
            # a sum is finite only if every term is: single floats cannot overflow a double
            return all(len(v) % 4 == 0 and math.isfinite(sum(struct.unpack(f"<{len(v) // 4}f", v))) for v in vectors)
        case Scores(scores=scores):
            return all(map(math.isfinite, scores))
        case _:
            return True


def encode_final(final: Final) -> bytes:
    """Encode the plaintext of the final frame.

    Raises:
        LocalProtocolError: A field is outside its bounds.
    """
    return _encode(_FINAL, final)


def decode_final(data: bytes | memoryview) -> Final:
    """Decode the plaintext of the final frame.

    Raises:
        RemoteProtocolError: Not exactly one final statement.
    """
    return _decode(_FINAL, data)


def encode_failure(failure: Failure) -> bytes:
    """Encode the plaintext of an error frame.

    Raises:
        LocalProtocolError: A field is outside its bounds.
    """
    return _encode(_FAILURE, failure)


def decode_failure(data: bytes | memoryview) -> Failure:
    """Decode the plaintext of an error frame.

    Raises:
        RemoteProtocolError: Not exactly one failure.
    """
    return _decode(_FAILURE, data)


def encode_body(body: Body) -> bytes:
    """Encode the plaintext of a request as JSON.

    Raises:
        LocalProtocolError: A field is outside its bounds, or the whole is over MAX_BODY_BYTES.
    """
    try:
        data = _JSON_ENCODER.encode(body)
        decode_body(data)
    except (*_FAULTS, RemoteProtocolError):
        pass
    else:
        return data
    raise LocalProtocolError(MESSAGE_UNSENDABLE)


def decode_body(data: bytes | memoryview) -> Body:
    """Decode the plaintext of a request.

    Raises:
        RemoteProtocolError: Over MAX_BODY_BYTES, not UTF-8, or not one JSON object of this shape.
    """
    if len(data) > MAX_BODY_BYTES:
        raise RemoteProtocolError(BODY_INVALID)
    body = _decode(_BODY, data, BODY_INVALID)
    if not _is_utf8(memoryview(body.request)):
        raise RemoteProtocolError(BODY_INVALID)
    return body


def _is_utf8(text: memoryview) -> bool:
    """Needed because msgspec skips the strings inside a Raw unread.

    In pieces, as one str could take 4x the memory. A JSON value ends in ASCII, so no character is left half-read.
    """
    try:
        if len(text) <= _PIECE_BYTES:
            str(text, "utf-8")
            return True
        decoder = getincrementaldecoder("utf-8")()
        for at in range(0, len(text), _PIECE_BYTES):
            decoder.decode(text[at : at + _PIECE_BYTES])
    except UnicodeDecodeError:
        return False
    return True
