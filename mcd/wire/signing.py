r"""Ed25519 signatures over labelled bytes, and the peer ids that name their keys.

Everything signed is ``label | body``: a label is ASCII text and one zero byte, and says what the body is, so that a
signature made for one purpose never passes for another. Signatures are over the bytes as received, never over a
re-encoding: MessagePack has many spellings of one value.   [ID-10]
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.ids import PeerId
from mcd.wire import receipt as receipts
from mcd.wire.receipt import RECEIPT_LABEL, Receipt

KEY_BYTES = 32
SIGNATURE_BYTES = 64
PEER_ID_CHARS = 52
"""Every Ed25519 peer id has this many: one for the leading zero byte, 51 for the other 37."""

_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes; libp2p's PublicKey protobuf: type Ed25519, 32 bytes of key."""
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT = {letter: value for value, letter in enumerate(_BASE58)}

_WEAK_KEYS = frozenset(
    bytes.fromhex(key)
    for key in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""Points of order 1 to 8, sign bit cleared. Under such a key one signature fits many messages, and OpenSSL
accepts it; a test derives this list from the curve's equation.   [ID-12]"""


class SigningKey:
    """An Ed25519 private key. Its repr shows nothing."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes; for the libp2p host, which must prove the same identity in Noise."""
        return self._key.private_bytes_raw()

    def sign(self, label: bytes, body: bytes) -> bytes:
        """Sign ``label | body``.

        Raises:
            LocalProtocolError: The label does not end in its only zero byte.
        """
        return self._key.sign(_labelled(label, body))

    def __repr__(self) -> str:
        return "<SigningKey redacted>"


def verify(public_key: bytes, label: bytes, body: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``label | body`` was made by the owner of ``public_key``; no input raises."""
    return has_signed(public_key, _labelled(label, body), signature)


def has_signed(public_key: bytes, signed: bytes, signature: bytes) -> bool:
    """Whether a signature holds, by the one rule that leaves no library a choice.   [ID-12] [ID-13] [ID-14]

    The rule is libsodium's, which takes half of OpenSSL's time for it.
    """
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES or is_weak(public_key):
        return False
    try:
        crypto_sign_open(signature + signed, public_key)
    except BadSignatureError:
        return False
    return True


def is_weak(public_key: bytes) -> bool:
    """Whether a key is one of the points under which signatures prove nothing.   [ID-12]"""
    return public_key[:-1] + bytes([public_key[-1] & 0x7F]) in _WEAK_KEYS


def _labelled(label: bytes, body: bytes) -> bytes:
    if label.count(b"\0") != 1 or not label.endswith(b"\0") or not label.isascii():
        raise LocalProtocolError("a signature label is ASCII text and one zero byte")
    return label + body


# --- peer ids ------------------------------------------------------------------------------------------------


def peer_id(public_key: bytes) -> PeerId:
    """The libp2p id of an Ed25519 key: base58btc of the identity multihash of its protobuf.   [ID-01]"""
    number = int.from_bytes(_ID_PREFIX + public_key, "big")
    letters = []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_BASE58[digit])
    return PeerId("1" + "".join(reversed(letters)))  # the prefix has exactly one leading zero byte


def public_key_of(peer: PeerId | str) -> bytes:
    """The Ed25519 key inside a peer id.   [ID-02]

    Raises:
        RemoteProtocolError: Not the base58btc text of an Ed25519 peer id.
    """
    if len(peer) != PEER_ID_CHARS:
        raise RemoteProtocolError(PEER_ID_INVALID)
    number = 0
    for letter in peer:
        digit = _DIGIT.get(letter)
        if digit is None:
            raise RemoteProtocolError(PEER_ID_INVALID)
        number = number * 58 + digit
    try:
        data = number.to_bytes(len(_ID_PREFIX) + KEY_BYTES, "big")
    except OverflowError:
        raise RemoteProtocolError(PEER_ID_INVALID) from None
    if not data.startswith(_ID_PREFIX):
        raise RemoteProtocolError(PEER_ID_INVALID)
    return data[len(_ID_PREFIX) :]


PEER_ID_INVALID = "not an Ed25519 peer id"


# --- receipts ------------------------------------------------------------------------------------------------


RECEIPT_FORGED = "the receipt is not signed by this engine"


def sign_receipt(receipt: Receipt, key: SigningKey) -> bytes:
    """The receipt's bytes as the engine sends them.   [ENV-30]"""
    body = receipts.encode_unsigned(receipt)
    return body + key.sign(RECEIPT_LABEL, body)


def check_receipt(data: bytes, engine_key: bytes) -> Receipt:
    """Decode a receipt and check that this engine signed it.

    Raises:
        RemoteProtocolError: Wrong size or version, or another key's signature.
    """
    receipt, body, signature = receipts.decode(data)
    if not verify(engine_key, RECEIPT_LABEL, body, signature):
        raise RemoteProtocolError(RECEIPT_FORGED)
    return receipt
