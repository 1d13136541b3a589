"""Records: every reason to drop, its order, and what a peer refuses to sign."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from mcd.errors import LimitError, LocalProtocolError, RecordError
from mcd.routing.directory import Directory
from mcd.wire.codec import encode_record
from mcd.wire.messages import MAX_CLOCK_SKEW_MS, MAX_RECORD_BYTES, MAX_RECORD_LIFETIME_MS, ModelOffer, Record
from mcd.wire.records import (
    RECORD_HEAD_BYTES,
    RECORD_LABEL,
    SignedRecord,
    Why,
    goodbye,
    is_goodbye,
    is_newer,
    next_seq,
    open_record,
    sign_record,
)
from mcd.wire.signing import SigningKey, peer_id, verify

NOW = 1_764_000_000_000
KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(32, 64)))
PEER = peer_id(KEY.public_key)
ADDRESS = f"/ip4/192.0.2.1/tcp/4101/p2p/{PEER}"
OFFER = ModelOffer("nano", bytes(32), 2048, 4, ("chat",), 0, 0, 4000, 120, bytes(32), bytes(8))


def record(**changes: Any) -> Record:
    base = Record(1, "main", NOW, NOW, NOW + MAX_RECORD_LIFETIME_MS, "Kitchen", "mcd 0.1.0", (ADDRESS,), (OFFER,))
    return msgspec.structs.replace(base, **changes)


def offer(**changes: Any) -> ModelOffer:
    return msgspec.structs.replace(OFFER, **changes)


def lie(said: Record, key: SigningKey = KEY, signer: SigningKey | None = None) -> bytes:
    """Sign without `sign_record`'s own checks."""
    body = encode_record(said)
    return key.public_key + (signer or key).sign(RECORD_LABEL, body) + body


def drop(data: bytes, now_ms: int = NOW, network: str = "main") -> str:
    with pytest.raises(RecordError) as caught:
        open_record(data, now_ms=now_ms, network=network)
    assert caught.value.__context__ is None
    return caught.value.why


@pytest.mark.spec("REC-01")
def test_layout_is_key_signature_body() -> None:
    data = sign_record(record(), KEY)
    body = data[RECORD_HEAD_BYTES:]
    assert data[:32] == KEY.public_key
    assert body == msgspec.msgpack.encode(record())
    assert verify(KEY.public_key, b"modelcloud record v1\0", body, data[32:96])


@pytest.mark.spec("REC-21", "ID-10")
def test_a_good_record_opens_and_keeps_its_bytes() -> None:
    data = sign_record(record(), KEY)
    assert open_record(data, now_ms=NOW, network="main") == SignedRecord(PEER, KEY.public_key, record(), data)
    # Another spelling of the same record, signed as spelt, is as good and is relayed as spelt.
    body = encode_record(record()).replace(b"\xcd\x08\x00", b"\xce\x00\x00\x08\x00")
    spelled = KEY.public_key + KEY.sign(RECORD_LABEL, body) + body
    opened = open_record(spelled, now_ms=NOW, network="main")
    assert (opened.record, opened.raw) == (record(), spelled)
    resigned = KEY.public_key + data[32:96] + body
    assert drop(resigned) == "signature"


@pytest.mark.spec("REC-03", "REC-10")
def test_size() -> None:
    models = tuple(
        offer(alias="a" * 94 + f"{n:02}", digest=bytes([n]) * 32, capabilities=("c" * 24,) * 8) for n in range(16)
    )
    with pytest.raises(LimitError):
        sign_record(record(models=models), KEY)
    full = [offer(alias="a" * 94 + f"{n:02}", digest=bytes([n]) * 32, capabilities=("c" * 24,) * 2) for n in range(16)]
    room = MAX_RECORD_BYTES - len(sign_record(record(models=tuple(full)), KEY))
    full[0] = offer(alias="a" * 94 + "00", capabilities=("c" * 24,) * (2 + room // 25) + ("c" * (room % 25 - 1),))
    exact = sign_record(record(models=tuple(full)), KEY)
    assert len(exact) == MAX_RECORD_BYTES
    open_record(exact, now_ms=NOW, network="main")
    with pytest.raises(LimitError):
        sign_record(record(models=tuple(full), name="Kitchen2"), KEY)
    assert drop(b"") == "size"
    assert drop(sign_record(record(), KEY)[:RECORD_HEAD_BYTES]) == "size"
    assert drop(bytes(MAX_RECORD_BYTES + 1)) == "size"
    assert drop(bytes(MAX_RECORD_BYTES)) == "malformed"


def test_sixteen_ordinary_models_and_eight_addresses_fit() -> None:
    models = tuple(
        offer(
            alias="a" * 38 + f"{n:02}", digest=bytes([n]) * 32, n_ctx=131_072,
            price_prompt=250_000, price_output=500_000, capabilities=("chat", "tools", "json-schema", "embeddings"),
        )
        for n in range(16)
    )  # fmt: skip
    addresses = tuple(f"/ip4/192.168.100.{n}/tcp/4101/p2p/{PEER}" for n in range(8))
    full = record(models=models, addresses=addresses, device="RTX 4090 24G", coordinate=(0.1,) * 10)
    assert len(sign_record(full, KEY)) <= MAX_RECORD_BYTES


@pytest.mark.spec("REC-11")
def test_malformed() -> None:
    data = sign_record(record(), KEY)
    for bad in (data[:-1], data + b"\0", data[:96] + b"\xc0" * 50, data[:96] + b"\x91" * 3000):
        assert drop(bad) == "malformed"
    for value in (float("nan"), float("inf"), float("-inf")):
        body = msgspec.msgpack.encode(record(coordinate=(0.5, value)))
        assert drop(KEY.public_key + KEY.sign(RECORD_LABEL, body) + body) == "malformed"


@pytest.mark.spec("REC-12", "REC-13")
def test_version_and_network() -> None:
    assert drop(lie(record(version=2))) == "version"
    assert drop(lie(record(version=0))) == "version"
    assert drop(lie(record(network="test"))) == "network"
    assert drop(lie(record()), network="test") == "network"


@pytest.mark.spec("REC-12")
@pytest.mark.parametrize(
    "body",
    [
        [2],
        [2, {"network": "main"}, None, -1],
        [2, *range(40)],  # array 16
        [300, "x"],  # uint 16
        [2**40],
        [0, 1.5],
    ],
)
def test_a_later_version_may_hold_anything_behind_its_number(body: list[object]) -> None:
    data = msgspec.msgpack.encode(body)
    assert drop(KEY.public_key + KEY.sign(RECORD_LABEL, data) + data) == "version"


@pytest.mark.spec("REC-11", "REC-12")
@pytest.mark.parametrize(
    "body",
    [
        b"\x90", b"\x02", b"\x91", b"\x91\xa1x", b"\x91\xff", b"\x91\xc0", b"\xdc\x00\x01", b"\xdd\x00\x00",
        b"\x91\xcd\x02", b"\x91\xcf\x00\x00\x00\x02", b"\x81\x02\x02", b"\x91\xcb" + bytes(8), b"\x91\x01",
        b"\xdd\x00\x00\x00\x01\xcd\x00\x01",
    ],
)  # fmt: skip
def test_what_has_no_version_or_ours_with_another_layout_is_malformed(body: bytes) -> None:
    assert drop(KEY.public_key + KEY.sign(RECORD_LABEL, body) + body) == "malformed"


@pytest.mark.spec("REC-14")
def test_expiry_is_by_our_clock() -> None:
    data = lie(record())
    open_record(data, now_ms=NOW + MAX_RECORD_LIFETIME_MS - 1, network="main")
    assert drop(data, NOW + MAX_RECORD_LIFETIME_MS) == "expired"
    last = lie(goodbye(record(), NOW, NOW + 1))
    open_record(last, now_ms=NOW + MAX_RECORD_LIFETIME_MS - 1, network="main")
    assert drop(last, NOW + MAX_RECORD_LIFETIME_MS) == "expired"


@pytest.mark.spec("REC-02", "REC-15")
def test_lifetime() -> None:
    open_record(lie(record()), now_ms=NOW, network="main")
    too_long = record(expires_ms=NOW + MAX_RECORD_LIFETIME_MS + 1)
    assert drop(lie(too_long)) == "lifetime"
    assert drop(lie(record(issued_ms=NOW + 10, expires_ms=NOW + 9))) == "lifetime"
    for said in (too_long, record(expires_ms=NOW - 1)):
        with pytest.raises(LocalProtocolError):
            sign_record(said, KEY)


@pytest.mark.spec("REC-16")
def test_future() -> None:
    data = lie(record())
    open_record(data, now_ms=NOW - MAX_CLOCK_SKEW_MS, network="main")
    assert drop(data, NOW - MAX_CLOCK_SKEW_MS - 1) == "future"
    assert drop(lie(goodbye(record(), NOW, NOW)), NOW - MAX_CLOCK_SKEW_MS - 1) == "future"


@pytest.mark.spec("REC-04", "REC-17")
def test_addresses_name_their_owner() -> None:
    through_relay = f"/ip4/198.51.100.7/tcp/4101/p2p/{peer_id(OTHER.public_key)}/p2p-circuit/p2p/{PEER}"
    open_record(lie(record(addresses=(ADDRESS, through_relay))), now_ms=NOW, network="main")
    for address in (
        "/ip4/192.0.2.1/tcp/4101",
        f"/ip4/192.0.2.1/tcp/22/p2p/{peer_id(OTHER.public_key)}",
        f"{ADDRESS}/p2p-circuit/p2p/{peer_id(OTHER.public_key)}",
        f"/ip4/192.0.2.1/tcp/4101/p2p/x{PEER}",
    ):
        said = record(addresses=(ADDRESS, address))
        assert drop(lie(said)) == "address"
        with pytest.raises(LocalProtocolError):
            sign_record(said, KEY)


@pytest.mark.spec("REC-04", "REC-18")
def test_nothing_is_listed_twice() -> None:
    for said in (
        record(addresses=(ADDRESS, ADDRESS)),
        record(models=(OFFER, offer(alias="other"))),
        record(models=(OFFER, offer(digest=b"\1" * 32))),
    ):
        assert drop(lie(said)) == "duplicate"
        with pytest.raises(LocalProtocolError):
            sign_record(said, KEY)


@pytest.mark.spec("REC-19")
def test_only_the_owner_signs() -> None:
    assert drop(lie(record(), signer=OTHER)) == "signature"
    assert drop(lie(record(addresses=()), OTHER, KEY)) == "signature"
    data = lie(record())
    for at in range(32, 96):
        assert drop(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) == "signature"


@pytest.mark.spec("REC-19", "REC-20")
def test_no_flipped_bit_is_believed() -> None:
    data = lie(record())
    seen = set()
    for at in range(len(data)):
        for bit in (1, 128):
            seen.add(drop(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]))
    assert seen <= set(get_args(Why))
    assert {"malformed", "address", "signature"} <= seen


@pytest.mark.spec("REC-20")
def test_checks_run_from_cheap_to_dear() -> None:
    """Each record breaks one rule and every later one; the first is named, so the signature is checked last."""
    faults: list[tuple[str, dict[str, Any]]] = [
        ("version", {"version": 9}),
        ("network", {"network": "test"}),
        ("expired", {"issued_ms": NOW - 10, "expires_ms": NOW - 20}),
        ("lifetime", {"issued_ms": NOW + 10**9, "expires_ms": NOW + 10}),
        ("future", {"issued_ms": NOW + 10**9, "expires_ms": NOW + 10**9 + 1}),
        ("address", {"addresses": ("/elsewhere", "/elsewhere")}),
        ("duplicate", {"models": (OFFER, OFFER)}),
    ]
    for at, (why, _) in enumerate(faults):
        changes: dict[str, Any] = {}
        for _, later in reversed(faults[at:]):
            changes |= later
        assert drop(lie(record(**changes), signer=OTHER)) == why
    assert drop(lie(record(), signer=OTHER)) == "signature"
    assert [why for why, _ in faults] == [why for why in get_args(Why) if why not in {"size", "malformed", "signature"}]


@pytest.mark.spec("REC-05")
def test_numbers_only_rise() -> None:
    assert next_seq(0, NOW) == NOW
    assert next_seq(NOW, NOW) == NOW + 1
    assert next_seq(NOW + 7, NOW - 60_000) == NOW + 8  # the clock was set back
    assert next_seq(NOW, NOW + 5) == NOW + 5  # restarted: the clock alone is above every number before


@pytest.mark.spec("REC-06")
def test_only_a_higher_number_replaces() -> None:
    assert is_newer(record(), None)
    assert is_newer(record(seq=NOW + 1), record())
    assert not is_newer(record(), record())
    directory = Directory(peer_id(OTHER.public_key), "main")
    for seq, name, kept in ((5, "first", "first"), (5, "twin", "first"), (4, "older", "first"), (6, "newer", "newer")):
        signed = open_record(lie(record(seq=seq, name=name)), now_ms=NOW, network="main")
        directory.judge(signed, NOW)
        (newest,) = directory.peers(NOW)
        assert newest.record.name == kept


@pytest.mark.spec("REC-08", "REC-22")
def test_a_goodbye_ends_the_offers_and_tells_nothing() -> None:
    last = goodbye(record(coordinate=(1.0,)), NOW + 5, NOW + 6)
    assert is_goodbye(last)
    assert not is_goodbye(record())
    assert (last.addresses, last.models, last.coordinate) == ((), (), ())
    assert (last.seq, last.issued_ms, last.expires_ms) == (NOW + 6, NOW + 5, NOW + 5)
    directory = Directory(peer_id(OTHER.public_key), "main")
    for said, n_peers in ((record(), 1), (last, 0)):
        directory.judge(open_record(sign_record(said, KEY), now_ms=NOW + 5, network="main"), NOW + 5)
        assert len(directory.peers(NOW + 5)) == n_peers
