"""Keys, ids, labels and receipts; ids and signatures agree with libp2p and with a second implementation."""

from __future__ import annotations

import pickle
import traceback

import msgspec
import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.wire.receipt import RECEIPT_BYTES, Receipt
from mcd.wire.signing import (
    _WEAK_KEYS,
    PEER_ID_INVALID,
    SigningKey,
    check_receipt,
    is_weak,
    peer_id,
    public_key_of,
    sign_receipt,
    verify,
)

LABEL = b"test label\0"
KEY = SigningKey(bytes(range(32)))
RECEIPT = Receipt(bytes(range(32)), 12, 3, 34, bytes(range(32, 64)), 5_000_000)

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


@pytest.mark.spec("ID-01")
def test_ids_and_keys_are_libp2ps() -> None:
    for n in range(20):
        seed = bytes([n]) * 32
        theirs = create_new_key_pair(seed)
        ours = SigningKey(seed)
        assert ours.public_key == theirs.public_key.to_bytes()
        assert peer_id(ours.public_key) == str(ID.from_pubkey(theirs.public_key))
        assert public_key_of(str(ID.from_pubkey(theirs.public_key))) == ours.public_key
        assert theirs.private_key.sign(LABEL + b"body") == ours.sign(LABEL, b"body")


@pytest.mark.spec("ID-02")
def test_texts_that_are_no_peer_id_are_refused() -> None:
    good = peer_id(KEY.public_key)
    for text in ("", good[:-1], good + "1", good[:-1] + "0", "1" * 52, "1" + "z" * 51, good.lower(), "\u0661" * 52):
        with pytest.raises(RemoteProtocolError, match=PEER_ID_INVALID):
            public_key_of(text)


@pytest.mark.spec("ID-02")
def test_every_peer_id_has_one_spelling() -> None:
    for key in (bytes(32), b"\xff" * 32, KEY.public_key):
        assert len(peer_id(key)) == 52
        assert peer_id(key).startswith("12D3KooW")
        assert peer_id(public_key_of(peer_id(key))) == peer_id(key)


@pytest.mark.spec("ID-05")
def test_the_private_key_does_not_show() -> None:
    seed = bytes(range(65, 97))
    key = SigningKey(seed)
    assert key.seed == seed
    shown = repr(key) + str(key) + f"{key}"
    with pytest.raises(LocalProtocolError) as caught:
        key.sign(b"no zero byte", b"")
    shown += "".join(traceback.format_exception(caught.value))
    assert seed.decode() not in shown
    assert seed.hex() not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.spec("ID-11")
def test_a_signature_serves_one_purpose() -> None:
    signature = KEY.sign(LABEL, b"body")
    assert verify(KEY.public_key, LABEL, b"body", signature)
    assert not verify(KEY.public_key, b"other label\0", b"body", signature)
    assert not verify(KEY.public_key, LABEL, b"body2", signature)


@pytest.mark.spec("ID-11")
@pytest.mark.parametrize("label", [b"", b"no zero", b"two\0\0", b"in\0side\0", b"\0x", "\u00e9\0".encode()])
def test_labels_have_one_form(label: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        KEY.sign(label, b"body")


@pytest.mark.spec("ID-13")
def test_wrong_sizes_do_not_verify_and_do_not_raise() -> None:
    signature = KEY.sign(LABEL, b"body")
    for key, given in ((b"", signature), (KEY.public_key[:-1], signature), (KEY.public_key + b"\0", signature)):
        assert not verify(key, LABEL, b"body", given)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64):
        assert not verify(KEY.public_key, LABEL, b"body", wrong)
    assert not verify(b"\xff" * 32, LABEL, b"body", signature)


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + y1 * x2) * pow(1 + k, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, P)
    return x % P, y % P


def _points(y: int) -> list[tuple[int, int]]:
    """The points of edwards25519 with this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    return [(root, y), (-root % P, y)] if root * root % P == square else []


def _has_small_order(point: tuple[int, int]) -> bool:
    for _ in range(3):
        point = _add(point, point)
    return point == (0, 1)


@pytest.mark.spec("ID-12")
def test_the_weak_keys_are_exactly_the_points_of_small_order() -> None:
    """Torsion points of any curve point times the prime order are the eight; their y, and its spelling over P."""
    order = 2**252 + 27742317777372353535851937790883648493
    found = set()
    y = 2
    while len(found) < 5:
        for point in _points(y):
            total = (0, 1)
            for bit in bin(order)[2:]:
                total = _add(total, total)
                total = _add(total, point) if bit == "1" else total
            assert _has_small_order(total)
            found.add(total[1])
        y += 1
    spellings = found | {y + P for y in found if y + P < 2**255}
    assert {y.to_bytes(32, "little") for y in spellings} == _WEAK_KEYS


@pytest.mark.spec("ID-12")
def test_signatures_under_weak_keys_are_refused() -> None:
    """Without the list this signature fits every message: S = 0 and R = the neutral element."""
    neutral = bytes([1]) + bytes(31)
    for weak in _WEAK_KEYS:
        for key in (weak, weak[:-1] + bytes([weak[-1] | 0x80])):
            assert is_weak(key)
            assert not verify(key, LABEL, b"anything", neutral + bytes(32))
    assert not is_weak(KEY.public_key)


def test_receipts_come_back_and_resist_every_flipped_bit() -> None:
    data = sign_receipt(RECEIPT, KEY)
    assert len(data) == RECEIPT_BYTES == 149
    assert check_receipt(data, KEY.public_key) == RECEIPT
    for at in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            check_receipt(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], KEY.public_key)
    for wrong in (b"", data[:-1], data + b"\0"):
        with pytest.raises(RemoteProtocolError):
            check_receipt(wrong, KEY.public_key)
    with pytest.raises(RemoteProtocolError):
        check_receipt(data, SigningKey(bytes(32)).public_key)


def test_receipts_that_do_not_fit_are_not_signed() -> None:
    for change in (
        {"transcript_hash": bytes(31)},
        {"output_digest": b""},
        {"n_prompt_tokens": -1},
        {"n_output_tokens": 2**32},
        {"amount": 2**64},
    ):
        with pytest.raises(LocalProtocolError):
            sign_receipt(msgspec.structs.replace(RECEIPT, **change), KEY)
