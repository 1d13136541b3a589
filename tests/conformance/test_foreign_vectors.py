"""The second implementation of tests/foreign against protocol/vectors, which therefore say enough."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.foreign.seal import (
    FINAL,
    Response,
    SealedRequest,
    check_certificate,
    check_config,
    key_id,
    padded_bytes,
    read_receipt,
)
from tests.foreign.transport import PeerError, key_of, peer_id
from tests.foreign.wire import MESSAGES, check_record, decode, decode_struct, verify

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors"
PROTOCOLS = {message["protocol"] for message in MESSAGES.values()}


def joined(pieces: str | list[Any]) -> bytes:
    """Bytes as protocol/README.md writes them."""
    if isinstance(pieces, str):
        return bytes.fromhex(pieces)
    return b"".join(
        bytes.fromhex(p["repeat"]) * p["times"] if isinstance(p, dict) else bytes.fromhex(p) for p in pieces
    )


def vectors(name: str) -> list[Any]:
    found = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return [pytest.param(vector, id=vector["comment"]) for vector in found]


def refused(vector: dict[str, Any]) -> str:
    return str(vector.get("error", ""))


@pytest.mark.parametrize("vector", vectors("messages"))
def test_messages(vector: dict[str, Any]) -> None:
    body, what = joined(vector["bytes"]), vector["as"]
    try:
        got = decode(body, what)[1] if what in PROTOCOLS else decode_struct(body, what.capitalize())
    except PeerError:
        assert refused(vector)
    else:
        assert not refused(vector) or what == "vectors"  # what is inside a vector, no table says
        assert got or what in PROTOCOLS  # a message without fields


@pytest.mark.parametrize("vector", vectors("peer_ids"))
def test_peer_ids(vector: dict[str, Any]) -> None:
    if refused(vector):
        with pytest.raises(PeerError):
            key_of(vector["text"])
    else:
        key = bytes.fromhex(vector["given"]["public_key"])
        assert (peer_id(key), key_of(vector["text"])) == (vector["text"], key)


@pytest.mark.parametrize("vector", vectors("records"))
def test_records(vector: dict[str, Any]) -> None:
    signed, network, now_ms = joined(vector["bytes"]), vector["network"], vector["now_ms"]
    if reason := refused(vector):
        with pytest.raises(PeerError, match=f"^{reason}$"):
            check_record(signed, network, now_ms)
    else:
        assert check_record(signed, network, now_ms)["seq"] == vector["given"]["record"]["seq"]


@pytest.mark.parametrize("vector", vectors("signatures"))
def test_signatures(vector: dict[str, Any]) -> None:
    key, signature, signed = (bytes.fromhex(vector[name]) for name in ("public_key", "signature", "bytes"))
    try:
        verify(key, signature, signed)
    except PeerError:
        assert refused(vector)
    else:
        assert not refused(vector)


@pytest.mark.parametrize("vector", vectors("mcs1_keys"))
def test_keys(vector: dict[str, Any]) -> None:
    peer_key, certificate = bytes.fromhex(vector["peer_key"]), bytes.fromhex(vector["certificate"])
    try:
        engine_key = check_certificate(certificate, peer_key)
        key = check_config(bytes.fromhex(vector["bytes"]), peer_key, engine_key, vector["now_ms"], vector["min_epoch"])
    except PeerError:
        assert refused(vector)
    else:
        assert not refused(vector)
        given = vector.get("given", {"suite": key.suite, "epoch": key.epoch, "public_key": key.key.hex()})
        assert (key.suite, key.epoch, key.key.hex()) == (given["suite"], given["epoch"], given["public_key"])
        assert given.get("key_id") in (None, key_id(key.suite, key.key).hex())


def sealed_request(vector: dict[str, Any]) -> SealedRequest:
    e = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["e"]))
    header, sealed, k = (joined(vector[name]) for name in ("header", "bytes", "k"))
    return SealedRequest(header, sealed, k, e, bytes(32))


ANSWER: dict[str, Any] = vectors("mcs1_answers")[0].values[0]


@pytest.mark.parametrize("vector", vectors("mcs1_answers"))
def test_answers(vector: dict[str, Any]) -> None:
    sealed, given = sealed_request(vector), vector["given"]
    assert sealed.th.hex() == given["th"]
    overhead = {1: 32, 2: 1120}[vector["suite"]] + 16
    assert padded_bytes(len(joined(given["body"]))) == len(sealed.sealed) - overhead
    y, e = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["y"])), sealed.e.public_key().public_bytes_raw()
    opens = sealed.response(bytes.fromhex(vector["response_key"]))
    seals = Response(sealed.th, sealed.k, y, e, y.public_key().public_bytes_raw())
    for frame, part in zip(vector["frames"], given["parts"], strict=True):
        assert opens.open(joined(frame)) == (part["type"], joined(part["data"]))
        assert seals.seal(part["type"], joined(part["data"])) == joined(frame)
    assert opens.output_digest().hex() == given["output_digest"]


@pytest.mark.parametrize("vector", [v for v in vectors("mcs1_refused") if v.values[0]["at"] == "entry"])
def test_answers_to_refuse(vector: dict[str, Any]) -> None:
    is_cut = "ENV-25" in vector["spec"]
    with contextlib.nullcontext() if is_cut else pytest.raises(PeerError):
        response = sealed_request(vector).response(bytes.fromhex(vector["response_key"]))
        for frame in vector["frames"]:
            response.open(joined(frame))
    assert not (is_cut and response.has_ended)


@pytest.mark.parametrize("vector", vectors("receipts"))
def test_receipts(vector: dict[str, Any]) -> None:
    try:
        read = read_receipt(joined(vector["bytes"]), bytes.fromhex(vector["engine_key"]))
    except PeerError:
        assert refused(vector)
    else:
        given = vector["given"]
        names = "transcript_hash", "n_prompt_tokens", "n_cached_tokens", "n_output_tokens", "output_digest", "amount"
        assert [value.hex() if isinstance(value, bytes) else value for value in read] == [given[name] for name in names]


@pytest.mark.parametrize("vector", vectors("mcs1_ends"))
def test_padding_of_the_end(vector: dict[str, Any]) -> None:
    response = sealed_request(ANSWER).response(bytes.fromhex(ANSWER["response_key"]))
    response.n_bytes = vector["given"]["sent_bytes"]
    assert len(response.seal(FINAL, bytes(vector["given"]["data_bytes"]))) == 5 + vector["last_bytes"] + 16
