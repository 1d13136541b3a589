"""Vectors of what is signed: records, info replies, receipts and the ids of the keys; fixed keys and times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mcd.wire.codec import encode_info, encode_record
from mcd.wire.info import answer, ask
from mcd.wire.messages import (
    MAX_CLOCK_SKEW_MS,
    MAX_RECORD_BYTES,
    MAX_RECORD_LIFETIME_MS,
    EngineKeys,
    EngineLoad,
    InfoReply,
    ModelOffer,
    Record,
)
from mcd.wire.receipt import Receipt
from mcd.wire.records import RECORD_LABEL, goodbye, sign_record
from mcd.wire.signing import SigningKey, peer_id, sign_receipt
from scripts.vector_cases import as_json, spell

NOW_MS = 1_764_000_000_000
SEED = bytes(range(32))
OTHER_SEED = bytes(range(32, 64))
ENGINE_SEED = bytes(range(64, 96))
KEY = SigningKey(SEED)
PEER = peer_id(KEY.public_key)
NONCE = bytes(range(16))

Vector = dict[str, Any]
_pack = msgspec.msgpack.encode


def _offer(**changes: Any) -> ModelOffer:
    offer = ModelOffer(
        alias="modelcloud-nano", digest=bytes([7]) * 32, n_ctx=2048, n_slots=4, capabilities=("chat",),
        price_prompt=0, price_output=250_000, prefill_tokens_per_s=4000, output_tokens_per_s=120,
        engine_key=SigningKey(ENGINE_SEED).public_key, key_id=bytes(range(8)),
    )  # fmt: skip
    return msgspec.structs.replace(offer, **changes)


def _record(**changes: Any) -> Record:
    record = Record(
        version=1, network="main", seq=NOW_MS, issued_ms=NOW_MS, expires_ms=NOW_MS + 120_000, name="Kitchen (4090)",
        agent="mcd 0.1.0", addresses=(f"/ip4/192.0.2.1/tcp/4101/p2p/{PEER}",), models=(_offer(),), device="RTX 4090",
        region="eu-west", coordinate=(0.25, -0.5, 0.125),
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def _signed(record: Record, key: SigningKey = KEY, label: bytes = RECORD_LABEL) -> bytes:
    """Sign whatever it says, as a liar would."""
    return _signed_body(encode_record(record), key, label)


def _signed_body(body: bytes, key: SigningKey = KEY, label: bytes = RECORD_LABEL) -> bytes:
    return key.public_key + key.sign(label, body) + body


def records() -> Iterator[Vector]:
    """Signed records to accept, and one for each reason to drop, at both sides of each limit."""

    def good(comment: str, ids: list[str], record: Record, now_ms: int = NOW_MS) -> Vector:
        given = {"seed": SEED.hex(), "record": _json(record)}
        common = {"comment": comment, "spec": ids, "now_ms": now_ms, "network": "main"}
        return common | {"given": given, "bytes": spell(sign_record(record, KEY))}

    yield good("an ordinary record", ["REC-01"], _record())
    yield good("an entry peer without models", ["REC-01"], _record(models=(), device=""))
    yield good("the longest lifetime", ["REC-02", "REC-15"], _record())
    yield good("in its last millisecond", ["REC-14"], _record(), NOW_MS + MAX_RECORD_LIFETIME_MS - 1)
    yield good("issued as far ahead as a clock may be", ["REC-16"], _record(), NOW_MS - MAX_CLOCK_SKEW_MS)
    relayed = f"/ip4/198.51.100.7/tcp/4101/p2p/{_other_id()}/p2p-circuit/p2p/{PEER}"
    yield good("an address through a relay", ["REC-17"], _record(addresses=(relayed,)))
    leaving = goodbye(_record(), NOW_MS, NOW_MS + 1)
    yield good("a goodbye", ["REC-08"], leaving)
    yield good("a goodbye still on its way", ["REC-14"], leaving, NOW_MS + MAX_RECORD_LIFETIME_MS - 1)
    for comment, ids, data, error in _bad_bodies():
        common = {"comment": comment, "spec": ids, "now_ms": NOW_MS, "network": "main"}
        yield common | {"bytes": spell(data), "error": error}
    for comment, ids, data, now_ms, error in _bad_records():
        common = {"comment": comment, "spec": ids, "now_ms": now_ms, "network": "main"}
        yield common | {"bytes": spell(data), "error": error}


def _bad_bodies() -> Iterator[tuple[str, list[str], bytes, str]]:
    fine = _signed(_record())
    yield "nothing", ["REC-10"], b"", "size"
    yield "key and signature without a body", ["REC-10"], fine[:96], "size"
    yield "one byte too long", ["REC-10"], fine + bytes(MAX_RECORD_BYTES + 1 - len(fine)), "size"
    yield "another version", ["REC-12"], _signed(_record(version=2)), "version"
    yield "a later version of another layout", ["REC-12"], _signed_body(_pack([2, "another layout"])), "version"
    yield "a body without a version", ["REC-11"], _signed_body(_pack(["1"])), "malformed"
    yield "our version of another layout", ["REC-11"], _signed_body(_pack([1, "another layout"])), "malformed"
    yield "a body cut off", ["REC-11"], fine[:-1], "malformed"
    yield "a body with a byte after it", ["REC-11"], fine + b"\0", "malformed"
    infinite = encode_record(_record()).replace(_pack(0.25), _pack(float("inf")))
    yield "a coordinate that is not finite", ["REC-11"], _signed_body(infinite), "malformed"


def _bad_records() -> Iterator[tuple[str, list[str], bytes, int, str]]:
    fine = _signed(_record())
    leaving = _signed(goodbye(_record(), NOW_MS, NOW_MS + 1))
    address = f"/ip4/192.0.2.1/tcp/4101/p2p/{PEER}"
    stolen = SigningKey(OTHER_SEED)
    yield "another network", ["REC-13"], _signed(_record(network="test")), NOW_MS, "network"
    yield "expired this millisecond", ["REC-14"], fine, NOW_MS + MAX_RECORD_LIFETIME_MS, "expired"
    yield "an old goodbye", ["REC-14"], leaving, NOW_MS + MAX_RECORD_LIFETIME_MS, "expired"
    too_long = _record(expires_ms=NOW_MS + MAX_RECORD_LIFETIME_MS + 1)
    yield "a millisecond too long", ["REC-15"], _signed(too_long), NOW_MS, "lifetime"
    backwards = _record(issued_ms=NOW_MS + 2, expires_ms=NOW_MS + 1)
    yield "over before it began", ["REC-15"], _signed(backwards), NOW_MS, "lifetime"
    yield "from further ahead than any clock", ["REC-16"], fine, NOW_MS - MAX_CLOCK_SKEW_MS - 1, "future"
    victim = _record(addresses=(f"/ip4/192.0.2.9/tcp/22/p2p/{_other_id()}",))
    yield "an address of another peer", ["REC-17"], _signed(victim), NOW_MS, "address"
    yield (
        "an address without a peer",
        ["REC-17"],
        _signed(_record(addresses=("/ip4/192.0.2.1/tcp/4101",))),
        NOW_MS,
        "address",
    )
    yield "an address twice", ["REC-18"], _signed(_record(addresses=(address, address))), NOW_MS, "duplicate"
    digest_twice = (_offer(), _offer(alias="other"))
    yield "a digest twice", ["REC-18"], _signed(_record(models=digest_twice)), NOW_MS, "duplicate"
    alias_twice = (_offer(), _offer(digest=bytes(32)))
    yield "an alias twice", ["REC-18"], _signed(_record(models=alias_twice)), NOW_MS, "duplicate"
    yield "a flipped bit of the signature", ["REC-19"], _flip(fine, 32), NOW_MS, "signature"
    body = encode_record(_record())
    forged = KEY.public_key + stolen.sign(RECORD_LABEL, body) + body
    yield "signed by another key", ["REC-19"], forged, NOW_MS, "signature"
    yield "signed for another purpose", ["ID-11"], _signed(_record(), KEY, b"mcs v1 receipt\0"), NOW_MS, "signature"
    body = encode_record(_record(addresses=()))
    weak = bytes([1]) + bytes(31)
    yield "a key of small order", ["ID-12"], weak + weak + bytes(32) + body, NOW_MS, "signature"
    shortest, spelled = _pack(2048), bytes.fromhex("ce00000800")
    assert fine.count(shortest) == 1
    yield "re-encoded with another integer form", ["ID-10"], fine.replace(shortest, spelled), NOW_MS, "signature"


def _other_id() -> str:
    return peer_id(SigningKey(OTHER_SEED).public_key)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _json(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct as vectors spell it."""
    return {name: _json_value(getattr(struct, name)) for name in struct.__struct_fields__}


def _json_value(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _json(value)
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return as_json(value)


def info() -> Iterator[Vector]:
    """Requests and replies, checked as from the peer at the other end of the connection."""
    keys = EngineKeys(bytes([7]) * 32, b"certificate", (b"config",))
    question = ask(NONCE)
    record = _signed(_record())
    common = {"peer_id": PEER, "nonce": NONCE.hex(), "now_ms": NOW_MS, "network": "main"}

    def reply(comment: str, ids: list[str], message: InfoReply, n_engines: int) -> Vector:
        given = _json(message)
        vector = {"comment": comment, "spec": ids, "message": "InfoReply", "given": given, "n_engines": n_engines}
        return vector | common | {"bytes": spell(encode_info(message))}

    def bad(comment: str, ids: list[str], message: InfoReply, error: str) -> Vector:
        vector = {"comment": comment, "spec": ids, "message": "InfoReply"} | common
        return vector | {"bytes": spell(encode_info(message)), "error": error}

    yield {
        "comment": "the question",
        "spec": ["ID-31"],
        "message": "InfoRequest",
        "given": _json(question),
        "bytes": spell(encode_info(question)),
    }
    yield reply("record and keys of one engine", ["ID-30"], answer(question, record, [keys]), 1)
    load = EngineLoad(keys.model_digest, 3, 1)
    yield reply("and its load", ["ID-30"], answer(question, record, [keys], [load]), 1)
    yield reply("no record yet", ["ID-30"], answer(question, b"", []), 0)
    stray = msgspec.structs.replace(keys, model_digest=bytes(32))
    yield reply("keys of a model not on offer are ignored", ["ID-34"], answer(question, record, [stray, keys]), 1)
    yield bad("another nonce", ["ID-32"], InfoReply(bytes(16), record, ()), "nonce_mismatch")
    other = SigningKey(OTHER_SEED)
    theirs = _signed(_record(addresses=()), other)
    yield bad("another peer's record", ["ID-33"], answer(question, theirs, []), "wrong_subject")
    yield bad("a forged record", ["ID-33"], answer(question, _flip(record, 40), []), "signature")
    old = _signed(_record(issued_ms=NOW_MS - 120_001, expires_ms=NOW_MS - 1))
    yield bad("an expired record", ["ID-33"], answer(question, old, []), "expired")


def receipts() -> Iterator[Vector]:
    """Receipts of the engine with ENGINE_SEED."""
    engine = SigningKey(ENGINE_SEED)
    common = {"engine_key": engine.public_key.hex()}
    free = Receipt(bytes(range(32)), 12, 0, 34, bytes(range(32, 64)))
    for comment, receipt in (
        ("free", free),
        ("largest numbers", Receipt(b"\xff" * 32, 2**32 - 1, 2**32 - 1, 2**32 - 1, b"\xff" * 32, 2**64 - 1)),
    ):
        given = {"seed": ENGINE_SEED.hex()} | _json(receipt)
        vector = {"comment": comment, "spec": ["ID-11"], "given": given}
        yield vector | common | {"bytes": spell(sign_receipt(receipt, engine))}
    data = sign_receipt(free, engine)
    for comment, altered, error in (
        ("a byte short", data[:-1], "receipt_invalid"),
        ("a byte long", data + b"\0", "receipt_invalid"),
        ("another version", b"\x02" + data[1:], "receipt_invalid"),
        ("one more token", _flip(data, 44), "receipt_signature"),
        ("another amount", _flip(data, 84), "receipt_signature"),
        ("another engine", sign_receipt(free, KEY), "receipt_signature"),
    ):
        yield {"comment": comment, "spec": ["ID-10"]} | common | {"bytes": spell(altered), "error": error}


def peer_ids() -> Iterator[Vector]:
    """Keys with their ids, and texts that are none."""
    for key in (KEY.public_key, SigningKey(OTHER_SEED).public_key, bytes(32), b"\xff" * 32):
        yield {
            "comment": "a key and its id",
            "spec": ["ID-01"],
            "given": {"public_key": key.hex()},
            "text": peer_id(key),
        }
    for comment, text in (
        ("empty", ""),
        ("a character short", PEER[:-1]),
        ("a character long", PEER + "1"),
        ("letters outside base58: 0", PEER[:-1] + "0"),
        ("letters outside base58: l", PEER[:-1] + "l"),
        ("a letter outside ASCII", PEER[:-1] + "\u0661"),
        ("white space", " " + PEER[1:]),
        ("an RSA key's id", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"),
        ("another key type", "1" + "2" * 51),
        ("over 38 bytes", "1" + "z" * 51),
        ("without the leading zero byte", "2" + PEER[1:]),
    ):
        yield {"comment": comment, "spec": ["ID-02"], "text": text, "error": "peer_id_invalid"}
