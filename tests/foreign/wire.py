"""Frames, messages and records, read and checked by the tables of `protocol/messages.toml`.   [01, 02]"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.foreign.transport import PeerError, Stream, peer_id

TABLES = tomllib.loads((Path(__file__).parents[2] / "protocol/messages.toml").read_text())
LIMITS: dict[str, int] = {name: limit["value"] for name, limit in TABLES["limits"].items()}
MESSAGES = TABLES["messages"]
P = 2**255 - 19
D = -121665 * pow(121666, -1, P)
"""Field and curve constant of Ed25519."""

Fields = dict[str, Any]


class DroppedError(PeerError):
    """A record that is not believed; its text is the reason of 02."""


def check(value: Any, form: Fields) -> Any:
    """A value that has the type and bound of ``form``; refuses every other.   [WIRE-11] [WIRE-16]"""
    low, high = form.get("min", 0), form.get("max", math.inf)
    match form["type"], value:
        case "uint", int() if type(value) is int and low <= value <= high:
            return value
        case "bytes", bytes() if low <= len(value) <= high:
            return value
        case "str", str() if low <= len(value) <= high and re.fullmatch(form.get("pattern", "(?s:.*)"), value):
            value.encode()  # what is not UTF-8 was read as surrogates
            return value
        case "float", int() | float() if type(value) is not bool and math.isfinite(value):
            return float(value)
        case "list", list() if low <= len(value) <= high:
            return [check(item, form["of"]) for item in value]
        case "struct", list():
            return named(value, TABLES["structs"][form["name"]]["fields"])
    raise PeerError("message_invalid")


def named(values: list[Any], fields: list[Fields]) -> Fields:
    """The fields that we know, by name; later ones are ignored.   [WIRE-12] [WIRE-13]"""
    known = {}
    for index, field in enumerate(fields):
        if index < len(values):
            known[field["field"]] = check(values[index], field)
        elif "default" in field:
            known[field["field"]] = b"" if field["type"] == "bytes" else field["default"]
        else:
            raise PeerError("message_invalid")
    return known


def unpack(body: bytes) -> list[Any]:
    """The one MessagePack array that ``body`` is.   [WIRE-10] [WIRE-17]"""
    try:
        array = msgpack.unpackb(body, unicode_errors="surrogateescape", strict_map_key=False)
    except (ValueError, TypeError) as broken:
        raise PeerError("message_invalid") from broken
    if type(array) is not list:
        raise PeerError("message_invalid")
    return array


def decode(body: bytes, protocol: str) -> tuple[str, Fields]:
    """Name and fields of a message of this protocol.   [WIRE-15] [WIRE-21]"""
    number, *values = unpack(body) or [None]
    for name, message in MESSAGES.items():
        if type(number) is int and (message["protocol"], message["number"]) == (protocol, number):
            try:
                return name, named(values, message["fields"])
            except UnicodeError as broken:
                raise PeerError("message_invalid") from broken
    raise PeerError("message_invalid")


def decode_struct(body: bytes, name: str) -> Fields:
    """A struct by itself: an array without a number."""
    try:
        return named(unpack(body), TABLES["structs"][name]["fields"])
    except UnicodeError as broken:
        raise PeerError("message_invalid") from broken


def encode(name: str, *values: Any) -> bytes:
    """A message, its values in table order.   [WIRE-07]"""
    return bytes(msgpack.packb([MESSAGES[name]["number"], *values]))


async def send(stream: Stream, body: bytes) -> None:
    """One frame.   [WIRE-01]"""
    await stream.write(len(body).to_bytes(4, "big") + body)


async def receive(stream: Stream, limit: int) -> bytes:
    """The body of the next frame.   [WIRE-03] [WIRE-04]"""
    length = int.from_bytes(await stream.read(4), "big")
    if not 0 < length <= limit:
        raise PeerError("frame_empty" if not length else "frame_too_large")
    return await stream.read(length)


def verify(key: bytes, signature: bytes, signed: bytes) -> None:
    """Refuse a signature that is not this key's, and every one by a key of small order.   [ID-12] [ID-13] [ID-14]

    The eight points of small order are those with y = 0, y = 1, y = -1 or d y^4 + 2 y^2 = 1, in any encoding.
    """
    for point in (key, signature[:32]):
        y = int.from_bytes(point, "little") % 2**255
        if y >= P or y * (y**2 - 1) * (D * y**4 + 2 * y**2 - 1) % P == 0:
            raise PeerError("signature")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (InvalidSignature, ValueError) as wrong:
        raise PeerError("signature") from wrong


def read_record(body: bytes) -> Fields:
    """The fields of a record of our version.   [REC-11] [REC-12]"""
    try:
        version = (unpack(body) or [None])[0]
        is_other = type(version) is int and 0 <= version != LIMITS["RECORD_VERSION"]
        if not is_other:
            return decode_struct(body, "Record")
    except PeerError as broken:
        raise DroppedError("malformed") from broken
    raise DroppedError("version")


def check_record(signed: bytes, network: str, now_ms: int) -> Fields:
    """The record in a signed record; raises DroppedError with the first reason not to believe it.   [REC-10]

    What the tables cannot say is checked in the order of 02.
    """
    if not 96 < len(signed) <= LIMITS["MAX_RECORD_BYTES"]:
        raise DroppedError("size")
    key, signature, body = signed[:32], signed[32:96], signed[96:]
    record = read_record(body)
    issued_ms, expires_ms, models = record["issued_ms"], record["expires_ms"], record["models"]
    ends_ms = issued_ms + LIMITS["MAX_RECORD_LIFETIME_MS"]
    lists = record["addresses"], [offer["alias"] for offer in models], [offer["digest"] for offer in models]
    reasons = {
        "network": record["network"] != network,
        "expired": (ends_ms if issued_ms == expires_ms else expires_ms) <= now_ms,
        "lifetime": not issued_ms <= expires_ms <= ends_ms,
        "future": issued_ms > now_ms + LIMITS["MAX_CLOCK_SKEW_MS"],
        "address": not all(address.endswith("/p2p/" + peer_id(key)) for address in record["addresses"]),
        "duplicate": any(len(set(entries)) < len(entries) for entries in lists),
    }
    for reason, holds in reasons.items():
        if holds:
            raise DroppedError(reason)
    try:
        verify(key, signature, b"modelcloud record v1\0" + body)
    except PeerError as wrong:
        raise DroppedError("signature") from wrong
    return record | {"peer_key": key}
