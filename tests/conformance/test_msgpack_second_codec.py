"""The `msgpack` package, which shares no code with ours, reads and writes the same bytes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

ROOT = Path(__file__).resolve().parents[2]
TOML: dict[str, Any] = tomllib.loads((ROOT / "protocol" / "messages.toml").read_text("utf-8"))
Vector = dict[str, Any]


def load(name: str) -> list[Vector]:
    vectors = json.loads((ROOT / "protocol" / "vectors" / f"{name}.json").read_text("utf-8"))
    assert isinstance(vectors, list)
    return vectors


def unspell(spelled: Any) -> bytes:
    if isinstance(spelled, str):
        return bytes.fromhex(spelled)
    return b"".join(
        bytes.fromhex(piece) if isinstance(piece, str) else bytes.fromhex(piece["repeat"]) * piece["times"]
        for piece in spelled
    )


def plain(form: dict[str, Any], spelled: Any) -> Any:
    """A value as MessagePack sees it, built from messages.toml alone."""
    match form["type"]:
        case "bytes":
            return unspell(spelled)
        case "list":
            return [plain(form["of"], part) for part in spelled]
        case "struct":
            fields = TOML["structs"][form["name"]]["fields"]
            values = spelled if isinstance(spelled, list) else [spelled[field["field"]] for field in fields]
            return [plain(field, value) for field, value in zip(fields, values, strict=True)]
        case _:
            return spelled


def array(name: str, given: Vector) -> list[Any]:
    """The whole array of a message or struct."""
    entry = TOML["messages"].get(name) or TOML["structs"][name]
    head = [entry["number"]] if "number" in entry else []
    return head + [plain(field, given[field["field"]]) for field in entry["fields"]]


@pytest.mark.spec("WIRE-07")
def test_messages_have_the_same_bytes_in_both_codecs() -> None:
    written = [vector for vector in load("messages") if "given" in vector]
    assert {vector["message"] for vector in written} >= set(TOML["messages"])
    for vector in written:
        expected = array(vector["message"], vector["given"])
        body = unspell(vector["bytes"])
        read = msgpack.unpackb(body, strict_map_key=False, max_bin_len=2**24, max_array_len=2**20)
        assert read[: len(expected)] == expected[: len(read)], vector["comment"]
        if not vector.get("decode_only"):
            assert msgpack.packb(expected) == body, vector["comment"]


@pytest.mark.spec("ID-31", "ID-30")
def test_info_messages_have_the_same_bytes_in_both_codecs() -> None:
    for vector in load("info"):
        if "given" in vector:
            assert msgpack.packb(array(vector["message"], vector["given"])) == unspell(vector["bytes"]), vector[
                "comment"
            ]


@pytest.mark.spec("REC-01", "ID-11")
def test_records_are_encoded_and_signed_by_foreign_code() -> None:
    """Key, signature and body of each golden record made without `mcd`: `msgpack` and PyCryptodome's RFC 8032."""
    n_made = 0
    for vector in load("records"):
        if "given" not in vector:
            continue
        key = ECC.construct(curve="Ed25519", seed=bytes.fromhex(vector["given"]["seed"]))
        body = msgpack.packb(array("Record", vector["given"]["record"]))
        signature = eddsa.new(key, "rfc8032").sign(b"modelcloud record v1\0" + body)
        public = key.public_key().export_key(format="raw")
        assert public + signature + body == unspell(vector["bytes"]), vector["comment"]
        n_made += 1
    assert n_made >= 5
