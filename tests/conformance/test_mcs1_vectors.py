"""The product against protocol/vectors/mcs1_*.json, whose bytes a second implementation made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mcd.errors import EnvelopeError
from mcd.wire.envelope import SealKey, open_request, transcript_hash
from mcd.wire.frames import DataFrame, ErrorFrame, FinalFrame, Opener, Sealer
from mcd.wire.header import decode_header, encode_header
from mcd.wire.keyconfig import key_id, verify_key_config
from mcd.wire.padding import last_frame
from scripts import make_mcs1_vectors

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors"
FRAME_TYPES = {0: DataFrame, 1: FinalFrame, 2: ErrorFrame}


def vectors(name: str, *, errors: bool) -> list[Any]:
    found = json.loads((FOLDER / f"mcs1_{name}.json").read_text("utf-8"))
    return [pytest.param(v, id=v["comment"]) for v in found if ("error" in v) == errors]


def seal_key(vector: dict[str, Any]) -> SealKey:
    seed = bytes.fromhex(vector["seal_seed"])
    lattice = MLKEM768PrivateKey.from_seed_bytes(seed[:64]) if vector["suite"] == 2 else None
    return SealKey(X25519PrivateKey.from_private_bytes(seed[-32:]), lattice)


def open_by_engine(vector: dict[str, Any]) -> tuple[bytes, Sealer]:
    key = seal_key(vector)
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["y"]))
    header, sealed = bytes.fromhex(vector["header"]), bytes.fromhex(vector["bytes"])
    return open_request(header, sealed, {key.key_id: key}.get, ephemeral)


def opener(vector: dict[str, Any]) -> Opener:
    th = transcript_hash(bytes.fromhex(vector["header"]), bytes.fromhex(vector["bytes"]))
    return Opener(th, bytes.fromhex(vector["k"]), X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["e"])))


@pytest.mark.spec("ENV-01")
@pytest.mark.parametrize("vector", vectors("header", errors=False))
def test_header(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    header = decode_header(data)
    for name, value in vector["given"].items():
        held = getattr(header, name)
        assert (held.hex() if isinstance(held, bytes) else held) == value
    assert encode_header(header) == data


@pytest.mark.spec("ENV-02")
@pytest.mark.parametrize("vector", vectors("header", errors=True))
def test_header_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError):
        decode_header(bytes.fromhex(vector["bytes"]))


def verify(vector: dict[str, Any]) -> Any:
    return verify_key_config(
        bytes.fromhex(vector["bytes"]),
        bytes.fromhex(vector["certificate"]),
        bytes.fromhex(vector["peer_key"]),
        vector["now_ms"],
        vector["min_epoch"],
    )


@pytest.mark.spec("ENV-06", "ENV-07", "ENV-08", "ENV-09")
@pytest.mark.parametrize("vector", vectors("keys", errors=False))
def test_key_config(vector: dict[str, Any]) -> None:
    config = verify(vector)
    assert config.key_id == key_id(config.suite, config.public_key)
    for name, value in vector.get("given", {}).items():
        held = getattr(config, name)
        assert (held.hex() if isinstance(held, bytes) else held) == value


@pytest.mark.spec("ENV-08", "ENV-09")
@pytest.mark.parametrize("vector", vectors("keys", errors=True))
def test_key_config_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError):
        verify(vector)


@pytest.mark.spec("ENV-12", "ENV-14", "ENV-15", "ENV-16", "ENV-21", "ENV-24", "ENV-26", "ENV-31")
@pytest.mark.parametrize("vector", vectors("answers", errors=False))
def test_engine_side(vector: dict[str, Any]) -> None:
    given = vector["given"]
    body, sealer = open_by_engine(vector)
    assert body.hex() == given["body"]
    assert sealer.transcript_hash.hex() == given["th"]
    assert sealer.response_key.hex() == vector["response_key"]
    seal = {0: sealer.seal_data, 1: sealer.seal_final, 2: sealer.seal_error}
    assert [seal[part["type"]](bytes.fromhex(part["data"])).hex() for part in given["parts"]] == vector["frames"]
    assert sealer.output_digest().hex() == given["output_digest"]


@pytest.mark.spec("ENV-26")
@pytest.mark.parametrize("vector", vectors("ends", errors=False))
def test_last_frames(vector: dict[str, Any]) -> None:
    given = vector["given"]
    assert last_frame(given["sent_bytes"], given["data_bytes"]) == vector["last_bytes"]


@pytest.mark.spec("ENV-15", "ENV-21", "ENV-25", "ENV-31")
@pytest.mark.parametrize("vector", vectors("answers", errors=False))
def test_entry_side(vector: dict[str, Any]) -> None:
    given = vector["given"]
    entry = opener(vector)
    assert entry.transcript_hash.hex() == given["th"]
    entry.start(bytes.fromhex(vector["response_key"]))
    for frame, part in zip(vector["frames"], given["parts"], strict=True):
        assert not entry.is_finished
        opened = entry.open_frame(bytes.fromhex(frame))
        assert type(opened) is FRAME_TYPES[part["type"]]
        assert opened.plaintext.hex() == part["data"]
    assert entry.is_finished
    assert entry.output_digest().hex() == given["output_digest"]


@pytest.mark.spec("ENV-16", "ENV-22", "ENV-25", "ENV-28", "ENV-40")
@pytest.mark.parametrize("vector", vectors("refused", errors=True))
def test_refused(vector: dict[str, Any]) -> None:
    if vector["at"] == "engine":
        with pytest.raises(EnvelopeError) as caught:
            open_by_engine(vector)
    else:
        entry = opener(vector)
        if "ENV-25" in vector["spec"]:
            read(entry, vector)
            assert not entry.is_finished
            return
        with pytest.raises(EnvelopeError) as caught:
            read(entry, vector)
        with pytest.raises(EnvelopeError):  # dead: even what would have been right is refused now
            read(entry, vector)
    assert caught.value.message == "the envelope did not open"
    assert caught.value.__cause__ is None


def read(entry: Opener, vector: dict[str, Any]) -> None:
    entry.start(bytes.fromhex(vector["response_key"]))
    for frame in vector["frames"]:
        entry.open_frame(bytes.fromhex(frame))


def test_files_are_current() -> None:
    for path, text in make_mcs1_vectors.files().items():
        assert path.read_text("utf-8") == text


def test_free_rail_quote_hash_is_of_nothing() -> None:
    ordinary = json.loads((FOLDER / "mcs1_header.json").read_text("utf-8"))[0]
    assert ordinary["given"]["quote_hash"] == hashlib.sha256(b"").hexdigest()
