"""Codec and framing for every input: round trips, any cut, and one kind of error whatever the bytes."""

from __future__ import annotations

import contextlib
import math
import random
import struct
import time
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.errors import LocalProtocolError, RecordError, RemoteProtocolError
from mcd.wire import codec
from mcd.wire.framing import FrameReader, frame
from mcd.wire.messages import MAX_RECORD_LIFETIME_MS, ExchangeMessage, InfoMessage, ModelOffer, Record
from mcd.wire.payload import Delta, Failure, Final, Scores, Text, Tokens, Vectors
from mcd.wire.records import RECORD_LABEL, open_record, sign_record
from mcd.wire.signing import SigningKey, check_receipt, peer_id, public_key_of, verify

NOW = 1_764_000_000_000
KEY = SigningKey(bytes(range(32)))
PEER = peer_id(KEY.public_key)
SPEC = settings(deadline=None, max_examples=150)

U32 = st.integers(0, 2**32 - 1)
U63 = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def _within(kind: Any) -> st.SearchStrategy[Any]:
    """Values within the bounds of a field, from the same annotation that the decoder enforces."""
    match kind:
        case msgspec.inspect.VarTupleType(item_type=item, max_length=high):
            return st.lists(_within(item), max_size=min(3, high or 3)).map(tuple)
        case msgspec.inspect.StructType(cls=struct):
            return struct_of(struct)
        case msgspec.inspect.StrType(pattern=pattern, max_length=high) if pattern is not None:
            return st.from_regex(pattern).filter(lambda text: len(text) <= (high or 96))
        case msgspec.inspect.StrType(max_length=high):
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(40, high or 40))
        case _:
            return _number_or_bytes(kind)


def _number_or_bytes(kind: Any) -> st.SearchStrategy[Any]:
    match kind:
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case msgspec.inspect.BytesType(min_length=low, max_length=high):
            low = low or 0
            return st.binary(min_size=low, max_size=low + min(64, 64 if high is None else high - low))
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case _:
            raise AssertionError(kind)


def struct_of(struct: Any) -> st.SearchStrategy[Any]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return st.builds(struct, **{field.name: _within(field.type) for field in info.fields})


MESSAGES = [
    *((kind, codec.encode_exchange, codec.decode_exchange) for kind in ExchangeMessage.__args__),
    *((kind, codec.encode_info, codec.decode_info) for kind in InfoMessage.__args__),
    (Record, codec.encode_record, codec.decode_record),
    (Delta, codec.encode_delta, codec.decode_delta),
    *((kind, codec.encode_part, partial(codec.decode_part, kind=kind)) for kind in (Scores, Tokens, Text)),
    (Final, codec.encode_final, codec.decode_final),
    (Failure, codec.encode_failure, codec.decode_failure),
]


@pytest.mark.spec("WIRE-07")
@pytest.mark.parametrize(("kind", "encode", "decode"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))
@settings(SPEC, max_examples=40)
@given(data=st.data())
def test_what_is_encoded_comes_back(kind: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    message = data.draw(struct_of(kind))
    body = encode(message)
    assert decode(body) == message
    assert encode(decode(body)) == body


@pytest.mark.spec("WIRE-07", "ENV-37")
@SPEC
@given(st.lists(st.lists(st.floats(width=32), min_size=1, max_size=9), max_size=5), st.binary(max_size=3))
def test_vectors_come_back_or_are_refused(numbers: list[list[float]], rest: bytes) -> None:
    vectors = Vectors(tuple(struct.pack(f"<{len(each)}f", *each) + rest for each in numbers))
    is_good = not (rest and numbers) and all(math.isfinite(number) for each in numbers for number in each)
    body = msgspec.msgpack.encode(vectors)
    if is_good:
        assert codec.encode_part(vectors) == body
        assert codec.decode_part(body, Vectors) == vectors
        return
    with pytest.raises(LocalProtocolError):
        codec.encode_part(vectors)
    with pytest.raises(RemoteProtocolError):
        codec.decode_part(body, Vectors)


@pytest.mark.spec("WIRE-05")
@SPEC
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=12), st.lists(st.integers(0, 4000), max_size=30))
def test_frames_survive_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, bodies))
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader(300)
    found = []
    for start, end in pairwise(places):
        reader.feed(stream[start:end])
        while (body := reader.next_frame()) is not None:
            found.append(body)
    assert found == bodies
    assert reader.n_buffered == 0


@pytest.mark.spec("WIRE-05")
@SPEC
@given(st.binary(max_size=400), st.integers(1, 60), st.lists(st.integers(0, 400), max_size=12))
def test_cuts_change_nothing_of_what_is_found(stream: bytes, limit: int, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[bytes], str | None]:
        reader, found = FrameReader(limit), []
        for piece in pieces:
            reader.feed(piece)
            try:
                while (body := reader.next_frame()) is not None:
                    found.append(body)
            except RemoteProtocolError as fault:
                return found, fault.message
        return found, None

    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read([stream]) == read([stream[a:b] for a, b in pairwise(places)])


DECODERS = [
    codec.decode_exchange, codec.decode_info, codec.decode_record, codec.decode_delta, codec.decode_final,
    codec.decode_failure, codec.decode_body,
    *(partial(codec.decode_part, kind=kind) for kind in (Vectors, Scores, Tokens, Text)),
]  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | TEXT,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=25,
)


@pytest.mark.spec("WIRE-10", "WIRE-11")
@SPEC
@given(st.binary(max_size=600) | PLAIN.map(msgspec.msgpack.encode))
def test_any_bytes_decode_or_raise_the_one_error(data: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(RemoteProtocolError):
            decode(data)
    with contextlib.suppress(RecordError):
        open_record(data, now_ms=NOW, network="main")
    with contextlib.suppress(RecordError):
        open_record(KEY.public_key + bytes(64) + data, now_ms=NOW, network="main")
    with contextlib.suppress(RemoteProtocolError):
        check_receipt(data, KEY.public_key)


@pytest.mark.spec("WIRE-11")
@SPEC
@given(st.integers(0, 45), st.lists(PLAIN, max_size=12))
def test_any_values_behind_a_type_number_decode_or_raise_the_one_error(number: int, values: list[Any]) -> None:
    data = msgspec.msgpack.encode([number, *values])
    for decode in (codec.decode_exchange, codec.decode_info):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)


def _mutate(rng: random.Random, data: bytes) -> bytes:
    mutable = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(mutable) + 1)
        match rng.randrange(4):
            case 0:
                mutable[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 1:
                del mutable[at : at + rng.randrange(1, 8)]
            case 2:
                mutable[at : at + 1] = bytes([rng.choice((0xC1, 0xDD, 0xDF, 0xC6, 0xDB, 0x91, 0x80, 0xFF, 0))])
            case _:
                mutable[at : at + 1] = rng.randbytes(1)
    return bytes(mutable)


def signed_record(**changes: Any) -> bytes:
    offer = ModelOffer("nano", bytes(32), 2048, 4, ("chat",), 0, 0, 4000, 120, bytes(32), bytes(8))
    address = f"/ip4/192.0.2.1/tcp/4101/p2p/{PEER}"
    fine = Record(1, "main", NOW, NOW, NOW + MAX_RECORD_LIFETIME_MS, "Kitchen", "mcd", (address,), (offer,))
    return sign_record(msgspec.structs.replace(fine, **changes), KEY)


@pytest.mark.spec("REC-19", "REC-20")
def test_ten_thousand_mutated_records_and_none_is_believed() -> None:
    """Seeded; a mutant that opens would be a forgery."""
    rng = random.Random(20_261_124)
    fine = signed_record()
    began = time.process_time()
    n_dropped = 0
    for _ in range(10_000):
        mutant = _mutate(rng, fine)
        if mutant == fine:
            continue
        with pytest.raises(RecordError):
            open_record(mutant, now_ms=NOW, network="main")
        n_dropped += 1
    assert n_dropped > 9_900
    assert time.process_time() - began < 60


@pytest.mark.spec("WIRE-11", "WIRE-17")
def test_twenty_thousand_mutated_messages_never_surprise() -> None:
    rng = random.Random(7)
    seeds = [
        bytes.fromhex(text)
        for text in ("92020105", "930300cd03e8", "9304c420" + "00" * 32 + "05", "92cd000bcf0000000000000007", "910a")
    ]
    seeds += [msgspec.msgpack.encode([1, bytes(136), b"sealed", 5, 0, b"", b""]), signed_record()[96:]]
    seeds += [msgspec.msgpack.encode([33, bytes(16), b"r", [[bytes(32), b"c", [b"k"]]]])]
    for _ in range(20_000):
        data = _mutate(rng, rng.choice(seeds))
        for decode in DECODERS[:3]:
            with contextlib.suppress(RemoteProtocolError):
                decode(data)


@pytest.mark.spec("ID-01", "ID-02")
@SPEC
@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_one_id(key: bytes) -> None:
    assert public_key_of(peer_id(key)) == key


@pytest.mark.spec("ID-02")
@SPEC
@given(TEXT | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=52, max_size=52))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        key = public_key_of(text)
    except RemoteProtocolError:
        return
    assert peer_id(key) == text


@pytest.mark.spec("ID-10", "ID-11")
@SPEC
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_a_signature_holds_for_its_bytes_only(body: bytes, other: bytes) -> None:
    signature = KEY.sign(RECORD_LABEL, body)
    assert verify(KEY.public_key, RECORD_LABEL, other, signature) == (body == other)
    assert not verify(KEY.public_key, b"modelcloud record v2\0", body, signature)


@pytest.mark.spec("ID-13")
@SPEC
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verify_never_raises(key: bytes, body: bytes, signature: bytes) -> None:
    assert not verify(key, RECORD_LABEL, body, signature)


@SPEC
@given(U63, U32)
def test_numbers_at_every_size_round_trip_in_a_record(seq: int, n_ctx: int) -> None:
    data = signed_record(seq=seq)
    assert open_record(data, now_ms=NOW, network="main").record.seq == seq
    offer = ModelOffer("nano", bytes(32), n_ctx, 4, (), seq, seq, 0, 0, bytes(32), bytes(8))
    opened = open_record(signed_record(models=(offer,)), now_ms=NOW, network="main")
    assert opened.record.models == (offer,)
