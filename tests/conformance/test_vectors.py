"""Every vector of protocol/vectors, as any implementation would run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcd.api.tasks import KINDS, decode_request, encode_request
from mcd.errors import McdError, RecordError, UserError
from mcd.wire import codec, discovery, info, messages, payload
from mcd.wire.framing import FRAME_EMPTY, FRAME_TOO_LARGE, FrameReader, frame
from mcd.wire.receipt import RECEIPT_INVALID, Receipt
from mcd.wire.records import open_record, sign_record
from mcd.wire.signing import (
    PEER_ID_INVALID,
    RECEIPT_FORGED,
    SigningKey,
    check_receipt,
    has_signed,
    peer_id,
    public_key_of,
    sign_receipt,
)

FOLDER = Path(__file__).resolve().parents[2] / "protocol" / "vectors"
NAMES = {
    FRAME_EMPTY: "frame_empty",
    FRAME_TOO_LARGE: "frame_too_large",
    codec.MESSAGE_INVALID: "message_invalid",
    PEER_ID_INVALID: "peer_id_invalid",
    RECEIPT_INVALID: "receipt_invalid",
    RECEIPT_FORGED: "receipt_signature",
    info.NONCE_MISMATCH: "nonce_mismatch",
    info.WRONG_SUBJECT: "wrong_subject",
    codec.BODY_INVALID: "body_invalid",
}
Vector = dict[str, Any]


def load(name: str) -> list[Vector]:
    vectors = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    assert isinstance(vectors, list)
    return vectors


def unspell(spelled: Any) -> bytes:
    """Hex, or an array of hex and {"repeat", "times"}."""
    if isinstance(spelled, str):
        return bytes.fromhex(spelled)
    return b"".join(
        bytes.fromhex(piece) if isinstance(piece, str) else bytes.fromhex(piece["repeat"]) * piece["times"]
        for piece in spelled
    )


def error_name(fault: McdError) -> str:
    if isinstance(fault, UserError):
        return fault.code
    return fault.why if isinstance(fault, RecordError) else NAMES[fault.message]


def run(vectors: list[Vector], check: Callable[[Vector], None]) -> Iterator[str]:
    """The comments of the vectors that fail, with how."""
    for vector in vectors:
        try:
            check(vector)
        except McdError as fault:
            got = error_name(fault)
            if vector.get("error") != got:
                yield f"{vector['comment']}: {got} instead of {vector.get('error', 'success')}"
        else:
            if "error" in vector:
                yield f"{vector['comment']}: accepted instead of {vector['error']}"


def proven(vectors: list[Vector]) -> set[str]:
    return {name for vector in vectors for name in vector["spec"]}


def struct(kind: Any, given: Vector) -> Any:
    """Build a struct from a vector's spelling: hex for byte strings, arrays for structs inside or objects."""
    fields = msgspec.inspect.type_info(kind).fields
    return kind(**{field.name: _value(field.type, given[field.name]) for field in fields})


def _value(kind: Any, spelled: Any) -> Any:
    match kind:
        case msgspec.inspect.BytesType():
            return unspell(spelled)
        case msgspec.inspect.VarTupleType(item_type=item):
            return tuple(_value(item, part) for part in spelled)
        case msgspec.inspect.StructType(cls=inner):
            if isinstance(spelled, list):
                names = [field.name for field in kind.fields]
                spelled = dict(zip(names, spelled, strict=True))
            return struct(inner, spelled)
        case _:
            return spelled


def kind_of(name: str) -> Any:
    for room in (messages, payload, discovery):
        if hasattr(room, name):
            return getattr(room, name)
    raise AssertionError(f"no struct {name}")


# --- frames and messages -------------------------------------------------------------------------------------


def check_frames(vector: Vector) -> None:
    stream = unspell(vector["bytes"])
    for size in (1, 3, len(stream)):
        reader = FrameReader(vector["limit"])
        found = []
        for at in range(0, len(stream), size):
            reader.feed(stream[at : at + size])
            while (body := reader.next_frame()) is not None:
                found.append(body)
        bodies = [unspell(body) for body in vector["given"]["frames"]]
        assert found == bodies
        assert reader.n_buffered == len(vector["given"]["rest"]) // 2
    assert b"".join(map(frame, bodies)) + bytes.fromhex(vector["given"]["rest"]) == stream


@pytest.mark.spec("WIRE-01", "WIRE-03", "WIRE-04", "WIRE-05")
def test_frames() -> None:
    vectors = load("frames")
    assert list(run(vectors, check_frames)) == []
    assert proven(vectors) == {"WIRE-01", "WIRE-03", "WIRE-04", "WIRE-05"}


def _records_codec(vector: Vector) -> tuple[Callable[..., Any], Callable[..., Any]]:
    is_request = vector["message"] == "RecordsRequest"
    return discovery.encode_records, discovery.decode_records_request if is_request else discovery.decode_records_reply


CODECS: dict[str, Callable[[Vector], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    "exchange": lambda _: (codec.encode_exchange, codec.decode_exchange),
    "info": lambda _: (codec.encode_info, codec.decode_info),
    "records": _records_codec,
    "record": lambda _: (codec.encode_record, codec.decode_record),
    "delta": lambda _: (codec.encode_delta, codec.decode_delta),
    "vectors": lambda _: (codec.encode_part, lambda data: codec.decode_part(data, payload.Vectors)),
    "scores": lambda _: (codec.encode_part, lambda data: codec.decode_part(data, payload.Scores)),
    "tokens": lambda _: (codec.encode_part, lambda data: codec.decode_part(data, payload.Tokens)),
    "text": lambda _: (codec.encode_part, lambda data: codec.decode_part(data, payload.Text)),
    "final": lambda _: (codec.encode_final, codec.decode_final),
    "failure": lambda _: (codec.encode_failure, codec.decode_failure),
}


def check_message(vector: Vector) -> None:
    encode, decode = CODECS[vector["as"]](vector)
    body = unspell(vector["bytes"])
    decoded = decode(body)
    if "error" in vector:
        return
    expected = struct(kind_of(vector["message"]), vector["given"])
    assert decoded == expected, vector["comment"]
    if not vector.get("decode_only"):
        assert encode(expected) == body, vector["comment"]


@pytest.mark.spec(
    "WIRE-07", "WIRE-10", "WIRE-11", "WIRE-12", "WIRE-13", "WIRE-14", "WIRE-15", "WIRE-16", "WIRE-17", "WIRE-20",
    "WIRE-21",
)  # fmt: skip
def test_messages() -> None:
    vectors = load("messages")
    assert list(run(vectors, check_message)) == []
    assert proven(vectors) == {f"WIRE-{n:02}" for n in (7, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21)}


def check_kind(vector: Vector) -> None:
    body = codec.decode_body(unspell(vector["bytes"]))
    raw = bytes(body.request)
    if "error" in vector:
        with pytest.raises(UserError) as caught:
            decode_request(body.kind, raw)
        assert caught.value.param == vector["param"], vector["comment"]
        raise caught.value
    request = decode_request(body.kind, raw)
    assert KINDS[type(request)] == body.kind
    assert encode_request(request) == raw, "canonical: members in order, none at its default"


@pytest.mark.spec("GW-14", "ENV-20", "ENV-34")
def test_kinds() -> None:
    vectors = load("kinds")
    assert list(run(vectors, check_kind)) == []
    assert proven(vectors) == {"GW-14", "ENV-20", "ENV-34"}


# --- what is signed ------------------------------------------------------------------------------------------


@pytest.mark.spec("ID-14")
@pytest.mark.parametrize("vector", load("signatures"), ids=lambda vector: vector["comment"])
def test_signatures(vector: Vector) -> None:
    key, signature, signed = (bytes.fromhex(vector[name]) for name in ("public_key", "signature", "bytes"))
    assert has_signed(key, signed, signature) == ("error" not in vector)


def check_record(vector: Vector) -> None:
    data = unspell(vector["bytes"])
    opened = open_record(data, now_ms=vector["now_ms"], network=vector["network"])
    if "error" in vector:
        return
    given = vector["given"]
    record = struct(messages.Record, given["record"])
    assert opened.record == record
    assert sign_record(record, SigningKey(bytes.fromhex(given["seed"]))) == data


@pytest.mark.spec(
    "ID-10", "ID-11", "ID-12", "REC-01", "REC-02", "REC-08", "REC-10", "REC-11", "REC-12", "REC-13", "REC-14", "REC-15",
    "REC-16", "REC-17", "REC-18", "REC-19",
)  # fmt: skip
def test_records() -> None:
    vectors = load("records")
    assert list(run(vectors, check_record)) == []
    expected = {f"REC-{n:02}" for n in (1, 2, 8, *range(10, 20))} | {"ID-10", "ID-11", "ID-12"}
    assert proven(vectors) == expected


def check_info(vector: Vector) -> None:
    data = unspell(vector["bytes"])
    decoded = codec.decode_info(data)
    if "given" in vector:
        expected = struct(kind_of(vector["message"]), vector["given"])
        assert decoded == expected
        assert codec.encode_info(expected) == data
    if isinstance(decoded, messages.InfoReply):
        nonce = bytes.fromhex(vector["nonce"])
        opened = info.open_answer(
            decoded, nonce=nonce, peer_id=vector["peer_id"], now_ms=vector["now_ms"], network=vector["network"]
        )
        assert len(opened.engines) == vector["n_engines"]


@pytest.mark.spec("ID-30", "ID-31", "ID-32", "ID-33", "ID-34")
def test_info() -> None:
    vectors = load("info")
    assert list(run(vectors, check_info)) == []
    assert proven(vectors) == {"ID-30", "ID-31", "ID-32", "ID-33", "ID-34"}


def check_one_receipt(vector: Vector) -> None:
    data = unspell(vector["bytes"])
    opened = check_receipt(data, bytes.fromhex(vector["engine_key"]))
    if "given" in vector:
        receipt = struct(Receipt, vector["given"])
        assert opened == receipt
        assert sign_receipt(receipt, SigningKey(bytes.fromhex(vector["given"]["seed"]))) == data


@pytest.mark.spec("ID-10", "ID-11")
def test_receipts() -> None:
    vectors = load("receipts")
    assert list(run(vectors, check_one_receipt)) == []
    assert proven(vectors) == {"ID-10", "ID-11"}


def check_peer_id(vector: Vector) -> None:
    key = public_key_of(vector["text"])
    if "given" in vector:
        assert key.hex() == vector["given"]["public_key"]
        assert peer_id(key) == vector["text"]


@pytest.mark.spec("ID-01", "ID-02")
def test_peer_ids() -> None:
    vectors = load("peer_ids")
    assert list(run(vectors, check_peer_id)) == []
    assert proven(vectors) == {"ID-01", "ID-02"}


def test_every_field_with_a_bound_has_a_vector_on_each_side() -> None:
    """From the structs, not from the tables the vectors were made of."""
    broken = {vector["comment"] for vector in load("messages") if "error" in vector}
    for name in {vector["message"] for vector in load("messages") if "message" in vector}:
        for field in msgspec.inspect.type_info(kind_of(name)).fields:
            prefix = f"{name}.{field.name} "
            match field.type:
                case msgspec.inspect.IntType():
                    wanted = {"is below its bound", "is above its bound"}
                case msgspec.inspect.BytesType(max_length=high) if high is not None:
                    wanted = {"is too long"}
                case msgspec.inspect.VarTupleType(max_length=high) if high is not None:
                    wanted = {"has too many elements"}
                case msgspec.inspect.StrType(pattern=pattern) if pattern is not None:
                    wanted = {"is too long"}
                    assert any(comment.startswith(f"{prefix}breaks its pattern") for comment in broken), prefix
                case _:
                    wanted = {"is NoneType"}
            assert {prefix + what for what in wanted} <= broken, prefix
