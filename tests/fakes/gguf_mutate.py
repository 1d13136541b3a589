"""GGUF headers taken apart into fields and put together wrongly: every count, length, type, dimension and offset."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
MAX_ARRAY_FIELDS = 6
"""Of a long array, its first items are enough."""


class Field(NamedTuple):
    """A place in the header."""

    kind: str
    at: int
    size: int


def fields(data: bytes) -> tuple[list[Field], int]:
    """Every field of a whole header, and where the header ends."""
    found = [Field("magic", 0, 4), Field("version", 4, 4), Field("n_tensors", 8, 8), Field("n_pairs", 16, 8)]
    n_tensors, n_pairs = struct.unpack("<QQ", data[8:24])
    at = 24
    for _ in range(n_pairs):
        at = _string(data, at, "key", found)
        found.append(Field("type", at, 4))
        kind = _u32(data, at)
        at = _value(data, at + 4, kind, found)
    for _ in range(n_tensors):
        at = _string(data, at, "name", found)
        n_dims = _u32(data, at)
        found.append(Field("n_dims", at, 4))
        found += [Field("dim", at + 4 + 8 * i, 8) for i in range(n_dims)]
        at += 4 + 8 * n_dims
        found += [Field("tensor_type", at, 4), Field("offset", at + 4, 8)]
        at += 12
    return found, at


def mutant(data: bytes, known: list[Field], end: int, choose: random.Random) -> bytes:
    """One to three faults; the values are those that break parsers, and small lies that pass them."""
    changed = bytearray(data)
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        field = choose.choice(known)
        how = choose.random()
        if how < 0.70:
            _overwrite(changed, field, choose)
        elif how < 0.80:
            changed[field.at + choose.randrange(max(1, field.size))] ^= 1 << choose.randrange(8)
        elif how < 0.86:
            del changed[field.at : field.at + choose.randint(1, max(1, field.size))]
        elif how < 0.91:
            changed[field.at : field.at] = choose.randbytes(choose.choice([1, 4, 8, 64]))
        elif how < 0.95:
            other = choose.choice(known)
            changed[field.at : field.at + field.size] = changed[other.at : other.at + field.size]
        else:
            del changed[choose.choice([field.at, field.at + field.size, choose.randrange(end), len(changed) - 1]) :]
        if len(changed) < end:
            break
    return bytes(changed)


def _overwrite(changed: bytearray, field: Field, choose: random.Random) -> None:
    if field.kind in {"key_bytes", "name_bytes", "text"}:
        at = field.at + choose.randrange(max(1, field.size))
        changed[at : at + 1] = choose.choice([b"\x00", b"\xff", b".", b"0", choose.randbytes(1)])
        return
    if field.kind == "f32":
        values = [0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-40, choose.uniform(-10, 10)]
        changed[field.at : field.at + 4] = struct.pack("<f", choose.choice(values))
        return
    old = int.from_bytes(changed[field.at : field.at + field.size], "little")
    top = 1 << 8 * field.size
    values = [0, 1, 2, 3, top - 1, top // 2, top // 2 - 1, top >> 4, old + 1, old - 1, old * 2, old // 2, old ^ 1]
    values += [choose.randrange(top), choose.randrange(64), choose.randrange(1 << min(20, 8 * field.size))]
    changed[field.at : field.at + field.size] = (choose.choice(values) % top).to_bytes(field.size, "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _string(data: bytes, at: int, what: str, found: list[Field]) -> int:
    size = int.from_bytes(data[at : at + 8], "little")
    found += [Field(f"{what}_length", at, 8), Field(f"{what}_bytes" if what != "text" else what, at + 8, size)]
    return at + 8 + size


def _value(data: bytes, at: int, kind: int, found: list[Field]) -> int:
    if kind == STRING:
        return _string(data, at, "text", found)
    if kind != ARRAY:
        found.append(Field("f32" if kind == 6 else "scalar", at, SCALARS[kind]))
        return at + SCALARS[kind]
    item, n_items = _u32(data, at), int.from_bytes(data[at + 4 : at + 12], "little")
    found += [Field("array_type", at, 4), Field("array_length", at + 4, 8)]
    at += 12
    for index in range(n_items):
        scrap: list[Field] = []
        at = _value(data, at, item, found if index < MAX_ARRAY_FIELDS else scrap)
    return at
