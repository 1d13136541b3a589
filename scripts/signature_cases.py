"""Vectors of Ed25519 signatures that verifiers are known to judge differently; the curve in plain integers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
NEUTRAL = (0, 1)
A, R = 0x5EED, 0xBEEF
"""The signer's secret scalar and the nonce of every signature here."""

Point = tuple[int, int]


def _add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def _times(n: int, point: Point) -> Point:
    total = NEUTRAL
    for bit in bin(n)[2:]:
        total = _add(total, total)
        total = _add(total, point) if bit == "1" else total
    return total


def _even(y: int) -> Point:
    """The point with this y and an even x."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (P - x if x % 2 else x), y


def _spell(point: Point, y_more: int = 0) -> bytes:
    return (point[1] + y_more + (point[0] % 2 << 255)).to_bytes(32, "little")


BASE = _even(4 * pow(5, -1, P) % P)
EIGHTH = _times(ORDER, _even(3))
"""Of order 8: the part of small order that the point with this y has."""


def _challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER


def _message(r: bytes, key: bytes, rest: int) -> bytes:
    """A message whose challenge leaves ``rest`` when divided by 8."""
    numbers = (b"%d" % n for n in range(1000))
    return next(message for message in numbers if _challenge(r, key, message) % 8 == rest)


def signatures() -> Iterator[dict[str, Any]]:
    """What a verifier must accept and refuse; ``bytes`` is what was signed."""
    honest, mixed = _times(A, BASE), _add(_times(A, BASE), EIGHTH)
    nonce = _times(R, BASE)

    def case(comment: str, key: bytes, r: bytes, s: int, message: bytes, error: str = "signature") -> dict[str, Any]:
        signature = r + s.to_bytes(32, "little")
        made = {"comment": comment, "spec": ["ID-14"], "public_key": key.hex(), "signature": signature.hex()}
        return made | {"bytes": message.hex()} | ({"error": error} if error else {})

    def sign(comment: str, key: Point, r: bytes, rest: int, scalar: int = R, **more: Any) -> dict[str, Any]:
        spelled = _spell(key)
        message = _message(r, spelled, rest)
        return case(comment, spelled, r, (scalar + _challenge(r, spelled, message) * A) % ORDER, message, **more)

    yield sign("an ordinary signature", honest, _spell(nonce), 1, error="")
    yield sign("a key with a part of small order that this challenge cancels", mixed, _spell(nonce), 0, error="")
    for rest in (1, 4):
        yield sign(f"one that is valid only times the cofactor, {rest} eighths off", mixed, _spell(nonce), rest)
    yield sign("R with a part of small order", honest, _spell(_add(nonce, EIGHTH)), 1)
    yield sign("R is the neutral element", honest, _spell(NEUTRAL), 1, scalar=0)
    yield sign("the same, spelled over p", honest, _spell(NEUTRAL, P), 1, scalar=0)
    yield sign("the same, with the sign of an x that is 0", honest, bytes([1, *bytes(30), 128]), 1, scalar=0)
    yield sign("R of order 8, cancelled by the key's part", mixed, _spell(EIGHTH), 7, scalar=0)
    key, r = _spell(honest), _spell(nonce)
    s = (R + _challenge(r, key, b"twice") * A) % ORDER
    yield case("S below the order", key, r, s, b"twice", error="")
    yield case("the same S, the order added", key, r, s + ORDER, b"twice")
    neutral = _spell(NEUTRAL)
    yield case("a key of order 1", neutral, r, R, b"any")
    yield case("a key of order 1, spelled over p", _spell(NEUTRAL, P), r, R, b"any")
    yield case("a key of order 8", _spell(EIGHTH), r, R, _message(r, _spell(EIGHTH), 0))
