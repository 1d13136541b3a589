"""Write protocol/vectors/{frames,messages,records,info,kinds,receipts,signatures,peer_ids}.json, keys and times fixed.

`--check` only says whether they are up to date. Message vectors come from messages.toml alone (`vector_cases`); the
signed ones (`signed_cases`) from `mcd.wire`, whose bytes the conformance tests compare with an independent codec.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it also runs by its path

from mcd.wire.framing import frame  # noqa: E402
from scripts.kind_cases import kinds  # noqa: E402
from scripts.signature_cases import signatures  # noqa: E402
from scripts.signed_cases import info, peer_ids, receipts, records  # noqa: E402
from scripts.vector_cases import Cases, as_json, spell  # noqa: E402

FOLDER = ROOT / "protocol" / "vectors"
STRUCTS = ("Record", "Delta", "Vectors", "Scores", "Tokens", "Text", "Final", "Failure")
"""Structs that are whole bodies themselves."""

Vector = dict[str, Any]
_pack = msgspec.msgpack.encode


# --- frames --------------------------------------------------------------------------------------------------


def frames() -> Iterator[Vector]:
    """Streams under a limit of 100 bytes."""

    def good(comment: str, ids: list[str], bodies: list[bytes], rest: bytes = b"") -> Vector:
        given = {"frames": [spell(body) for body in bodies], "rest": rest.hex()}
        stream = b"".join(frame(body) for body in bodies) + rest
        return {"comment": comment, "spec": ids, "limit": 100, "given": given, "bytes": spell(stream)}

    def bad(comment: str, ids: list[str], stream: bytes, error: str) -> Vector:
        return {"comment": comment, "spec": ids, "limit": 100, "bytes": spell(stream), "error": error}

    yield good("one frame", ["WIRE-01"], [b"\x91\x0a"])
    yield good("the shortest frame", ["WIRE-01"], [b"\x90"])
    yield good("exactly at the limit", ["WIRE-04"], [bytes(range(100))])
    yield good("three frames in one piece", ["WIRE-05"], [b"\x91\x0a", b"\x92\x0b\x01", b"\x91\x0a"])
    yield good("cut inside the length", ["WIRE-05"], [b"\x91\x0a"], b"\0\0\0")
    yield good("cut inside the body", ["WIRE-05"], [], b"\0\0\0\x03\x92\x0b")
    yield bad("a length of zero", ["WIRE-03"], b"\0\0\0\0", "frame_empty")
    yield bad("a length of zero after a good frame", ["WIRE-03"], frame(b"\x91\x0a") + b"\0\0\0\0", "frame_empty")
    yield bad("one over the limit, refused before its body", ["WIRE-04"], (101).to_bytes(4, "big"), "frame_too_large")
    yield bad("4 GiB", ["WIRE-04"], b"\xff\xff\xff\xff", "frame_too_large")
    yield bad("a little-endian length", ["WIRE-01"], b"\x02\0\0\0\x91\x0a", "frame_too_large")


# --- messages ------------------------------------------------------------------------------------------------


def messages(toml: dict[str, Any]) -> Iterator[Vector]:
    """Every message and whole-body struct at its bounds, and every bound broken."""
    cases = Cases(toml)
    for name, entry in toml["messages"].items():
        yield from _of(cases, name, entry["fields"], [entry["number"]], entry["protocol"])
    for name in STRUCTS:
        if name in toml["structs"]:
            yield from _of(cases, name, toml["structs"][name]["fields"], [], name.lower())
    used = {entry["number"] for entry in toml["messages"].values()}
    for number in [*(n for n in range(128) if n not in used), 128, 2**64 - 1, -1]:
        for protocol in ("exchange", "info"):
            yield _refused(f"type number {number} on {protocol}", ["WIRE-15"], [number, 1, 1], "", protocol)
    for entry in toml["messages"].values():
        other = "info" if entry["protocol"] == "exchange" else "exchange"
        body = [entry["number"], *(cases.typical(field) for field in entry["fields"])]
        yield _refused(f"type number {entry['number']} on {other}", ["WIRE-20", "WIRE-21"], body, "", other)
    yield from _bodies()


def _refused(comment: str, ids: list[str], body: Any, name: str, protocol: str) -> Vector:
    vector: Vector = {"comment": comment, "spec": ids, "as": protocol}
    if name:
        vector["message"] = name
    return vector | {"bytes": spell(_pack(body)), "error": "message_invalid"}


def _of(cases: Cases, name: str, fields: list[Any], head: list[int], protocol: str) -> Iterator[Vector]:
    def good(comment: str, ids: list[str], values: list[Any]) -> Vector:
        given = {field["field"]: as_json(value) for field, value in zip(fields, values, strict=True)}
        body = spell(_pack([*head, *values]))
        common = {"comment": f"{name}: {comment}", "spec": ids, "as": protocol, "message": name}
        return common | {"given": given, "bytes": body}

    typical = [cases.typical(field) for field in fields]
    yield good("ordinary values", ["WIRE-07"], typical)
    if fields:
        yield good("every field at its lower bound", ["WIRE-11"], [cases.edge(f, high=False) for f in fields])
        yield good("every field at its upper bound", ["WIRE-11"], [cases.edge(f, high=True) for f in fields])
    later = good("a field of a later version is ignored", ["WIRE-12"], typical)
    yield later | {"decode_only": True, "bytes": spell(_pack([*head, *typical, {"new": [1]}, "later"]))}
    defaults = [field["default"] for field in fields if "default" in field]
    if defaults:
        required = typical[: len(typical) - len(defaults)]
        missing = good("fields with a default left out", ["WIRE-13"], typical)
        for field in fields[len(required) :]:
            missing["given"][field["field"]] = field["default"]
        yield missing | {"decode_only": True, "bytes": spell(_pack([*head, *required]))}
    for comment, values in cases.broken_fields(name, fields):
        ids = ["WIRE-13"] if " without " in comment else ["WIRE-11"]
        yield _refused(comment, ids, [*head, *values], name, protocol)


def _bodies() -> Iterator[Vector]:
    """Bodies that no field table foresees."""

    def bad(comment: str, ids: list[str], body: bytes) -> Vector:
        return {"comment": comment, "spec": ids, "as": "exchange", "bytes": spell(body), "error": "message_invalid"}

    abort = {"comment": "", "spec": ["WIRE-14"], "as": "exchange", "message": "Abort", "given": {"code": 7}}
    for comment, body in (
        ("type number and field as 64-bit integers", "92cf000000000000000bcf0000000000000007"),
        ("signed 32-bit spelling", "92d20000000bd200000007"),
        ("array length in 32 bits", "dd000000020b07"),
    ):
        yield abort | {"comment": comment, "decode_only": True, "bytes": body}
    yield bad("empty array", ["WIRE-10"], b"\x90")
    yield bad("a byte after the message", ["WIRE-10"], b"\x92\x0b\x07\x00")
    yield bad("two messages in one body", ["WIRE-10"], b"\x92\x0b\x07\x92\x0b\x07")
    yield bad("cut off", ["WIRE-10"], b"\x92\x0b")
    yield bad("a map", ["WIRE-10"], b"\x82\x00\x0b\x01\x07")
    yield bad("not an array", ["WIRE-10"], b"\x0b")
    yield bad("a byte that MessagePack does not use", ["WIRE-10"], b"\xc1")
    yield bad("an extension type as field", ["WIRE-11"], b"\x92\x0b\xd4\x01\x07")
    yield bad("array that claims 4 G elements", ["WIRE-17"], b"\xdd\xff\xff\xff\xff\x0b\x07")
    yield bad("byte string that claims 4 GiB", ["WIRE-17"], b"\x92\x08\xc6\xff\xff\xff\xff")
    yield bad("arrays nested 60,000 deep", ["WIRE-17"], b"\x91" * 60_000)
    yield bad("arrays nested 60,000 deep in an ignored element", ["WIRE-17"], b"\x93\x0b\x07" + b"\x91" * 60_000)
    for comment, floats in (
        ("a vector that ends inside a number", b"\0\0\x80\x3f\0"),
        ("a vector with a number that is NaN", b"\0\0\x80\x3f\0\0\xc0\x7f"),
        ("a vector with infinities of both signs", b"\0\0\x80\x7f\0\0\x80\xff"),
    ):
        yield bad(comment, ["WIRE-11"], _pack([[floats]])) | {"as": "vectors", "message": "Vectors"}
    text = b"\x93\xa1\xff\xa1a\xa0"
    yield bad("text that is not UTF-8", ["WIRE-16"], text) | {"as": "failure", "message": "Failure"}


# --- files ---------------------------------------------------------------------------------------------------


def build() -> dict[str, str]:
    """File name -> content."""
    toml = tomllib.loads((ROOT / "protocol" / "messages.toml").read_text("utf-8"))
    made = {
        "frames": frames(),
        "messages": messages(toml),
        "records": records(),
        "info": info(),
        "kinds": kinds(),
        "receipts": receipts(),
        "signatures": signatures(),
        "peer_ids": peer_ids(),
    }
    return {
        f"{name}.json": "[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n"
        for name, vectors in made.items()
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; 1 on a difference."""
    stale = []
    for name, text in build().items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, "utf-8")
    if "--check" in arguments and stale:
        print(f"make_vectors: out of date: {', '.join(stale)}; run scripts/make_vectors.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
