"""The info protocol: a reply counts only for the question and the peer it came from."""

from __future__ import annotations

import msgspec
import pytest

from mcd.errors import RecordError, RemoteProtocolError
from mcd.wire.codec import decode_info, encode_info
from mcd.wire.info import Answer, answer, ask, open_answer
from mcd.wire.messages import CAPABILITY_VERSION, EngineKeys, EngineLoad, InfoReply, InfoRequest, ModelOffer, Record
from mcd.wire.records import sign_record
from mcd.wire.signing import SigningKey, peer_id

NOW = 1_764_000_000_000
NONCE = bytes(range(16))
KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(32, 64)))
OFFER = ModelOffer("nano", bytes(32), 2048, 4, ("chat",), 0, 0, 4000, 120, bytes(32), bytes(8))
KEYS = EngineKeys(bytes(32), b"certificate", (b"config",))
STRAY = EngineKeys(b"\1" * 32, b"certificate", (b"config",))


def signed(key: SigningKey = KEY) -> bytes:
    return sign_record(Record(1, "main", NOW, NOW, NOW + 1000, "", "mcd", (), (OFFER,)), key)


def check(reply: InfoReply, nonce: bytes = NONCE, key: SigningKey = KEY) -> Answer:
    return open_answer(reply, nonce=nonce, peer_id=peer_id(key.public_key), now_ms=NOW, network="main")


@pytest.mark.spec("ID-31")
def test_the_question_carries_version_and_nonce() -> None:
    question = decode_info(encode_info(ask(NONCE)))
    assert question == InfoRequest(CAPABILITY_VERSION, NONCE)


@pytest.mark.spec("ID-30")
def test_the_answer_echoes_the_nonce() -> None:
    reply = decode_info(encode_info(answer(ask(NONCE), signed(), [KEYS])))
    assert reply == InfoReply(NONCE, signed(), (KEYS,))
    assert isinstance(reply, InfoReply)
    opened = check(reply)
    assert opened.record is not None
    assert opened.record.peer_id == peer_id(KEY.public_key)
    assert opened.engines == (KEYS,)


def test_a_peer_without_a_record_has_no_engines() -> None:
    assert check(answer(ask(NONCE), b"", [KEYS])) == Answer(None, (), ())


@pytest.mark.spec("ID-34")
def test_loads_of_models_not_on_offer_are_ignored_and_none_are_due() -> None:
    load = EngineLoad(bytes(32), 3, 1)
    reply = decode_info(encode_info(answer(ask(NONCE), signed(), [KEYS], [load, EngineLoad(b"\1" * 32, 9, 9)])))
    assert isinstance(reply, InfoReply)
    assert check(reply).loads == (load,)
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_info(reply))[:4])
    assert check(decode_info(older)).loads == ()  # type: ignore[arg-type]  # as a peer of capability version 2 says it


@pytest.mark.spec("ID-32")
def test_the_answer_to_another_question_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        check(answer(ask(NONCE), signed(), []), nonce=bytes(16))


@pytest.mark.spec("ID-33")
def test_another_peers_record_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        check(answer(ask(NONCE), signed(OTHER), []))
    forged = signed()[:-1] + b"\x63"
    with pytest.raises(RecordError):
        check(answer(ask(NONCE), forged, []))


@pytest.mark.spec("ID-34")
def test_keys_of_models_not_on_offer_are_ignored() -> None:
    assert check(answer(ask(NONCE), signed(), [STRAY, KEYS, STRAY])).engines == (KEYS,)
