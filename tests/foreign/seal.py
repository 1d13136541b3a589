"""MCS/1 at the entry's side: believe a provider's keys, seal a request, open its answer, check its receipt.   [06]"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

from tests.foreign.transport import PeerError
from tests.foreign.wire import LIMITS, Fields, decode_struct, verify

SUITES = {1: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)}
SUITES[2] = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
KEY_BYTES = {1: 32, 2: 1216}
REQUEST_LABEL, RESPONSE_LABEL = b"modelcloud seal v1 request\0", b"modelcloud seal v1 response\0"
DATA, FINAL, ERROR = range(3)
"""Types of frames."""
COUNTS = "n_prompt_tokens", "n_cached_tokens", "n_output_tokens"
RECEIPT = struct.Struct(">B32sIII32sQ")
CONFIG = struct.Struct(">BH32s32sQQIH")


class EnvelopeError(PeerError):
    """A seal that does not hold; says nothing more.   [ENV-40]"""


class AnswerError(PeerError):
    """An answer that opens and is not what was asked for, or not accounted for."""


@dataclass(frozen=True)
class SealKey:
    """A key to seal to, of one engine of one provider."""

    suite: int
    peer_key: bytes
    engine_key: bytes
    epoch: int
    key: bytes


def key_id(suite: int, key: bytes) -> bytes:
    """The id of a seal key.   [ENV-06]"""
    return hashlib.sha256(suite.to_bytes(2, "big") + key).digest()[:8]


def check_certificate(certificate: bytes, peer_key: bytes) -> bytes:
    """The engine key that the peer certified."""
    if len(certificate) != LIMITS["CERTIFICATE_BYTES"] or certificate[0] != 1:
        raise EnvelopeError
    verify(peer_key, certificate[41:], b"mcs v1 engine cert\0" + certificate[:41])
    return certificate[1:33]


def check_config(config: bytes, peer_key: bytes, engine_key: bytes, now_ms: int, min_epoch: int = 0) -> SealKey:
    """The seal key of a config, where all of [ENV-09] holds."""
    if len(config) < CONFIG.size + 64:
        raise EnvelopeError
    version, suite, peer, engine, begins_ms, ends_ms, epoch, n_bytes = CONFIG.unpack(config[: CONFIG.size])
    key, signature = config[CONFIG.size : -64], config[-64:]
    if version != 1 or not KEY_BYTES.get(suite) == n_bytes == len(key) or (peer, engine) != (peer_key, engine_key):
        raise EnvelopeError
    if not 0 < ends_ms - begins_ms <= LIMITS["MAX_CONFIG_LIFETIME_MS"] or epoch < min_epoch:
        raise EnvelopeError
    if not begins_ms - LIMITS["MAX_CLOCK_SKEW_MS"] <= now_ms < ends_ms:
        raise EnvelopeError
    verify(engine_key, signature, b"mcs v1 key config\0" + config[:-64])
    return SealKey(suite, peer_key, engine_key, epoch, key)


def padded_bytes(n_body: int) -> int:
    """P of a request with a body of this size."""
    length = max(LIMITS["MIN_REQUEST_PLAIN_BYTES"], 68 + n_body)
    exponent = length.bit_length() - 1
    unit = 1 << (exponent - (exponent.bit_length() - 1) - 1)
    return -(-length // unit) * unit


def bucket(n_bytes: int) -> int:
    """The size that a response of so many bytes is padded to.   [ENV-26]"""
    size = int(LIMITS["MIN_RESPONSE_BYTES"])
    while size < n_bytes:
        size += min(size // 4, LIMITS["MAX_BUCKET_STEP_BYTES"])
    return size


class Response:
    """The frames of one answer, at either end: `open` or `seal` one after the other."""

    def __init__(self, th: bytes, k: bytes, private: X25519PrivateKey, public: bytes, response_key: bytes) -> None:
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as low_order:
            raise EnvelopeError from low_order
        prk = hmac.digest(th + response_key, k + shared, "sha256")
        okm = block = b""
        for i in (1, 2, 3):
            block = hmac.digest(prk, block + RESPONSE_LABEL + th + response_key + bytes([i]), "sha256")
            okm += block
        self.aead, self.base, self.salt = ChaCha20Poly1305(okm[:32]), okm[32:44], okm[44:76]
        self.data: list[bytes] = []
        self.n_frames = self.n_bytes = 0
        self.has_ended = False

    def count(self, frame_bytes: int) -> bytes:
        """Account for one more frame; its nonce."""
        if self.has_ended or self.n_frames == LIMITS["MAX_FRAMES"]:
            raise EnvelopeError
        nonce = (int.from_bytes(self.base, "big") ^ self.n_frames).to_bytes(12, "big")
        self.n_frames, self.n_bytes = self.n_frames + 1, self.n_bytes + frame_bytes
        if self.n_bytes > LIMITS["MAX_RESPONSE_BYTES"]:
            raise EnvelopeError
        return nonce

    def note(self, kind: int, data: bytes) -> None:
        """Remember what the digest and the end need."""
        self.has_ended = kind != DATA
        if kind == DATA:
            self.data.append(data)

    def open(self, frame: bytes) -> tuple[int, bytes]:
        """Type and data of the next frame.   [ENV-22] [ENV-27]"""
        nonce = self.count(len(frame))
        if not 25 <= len(frame) <= LIMITS["MAX_SEALED_FRAME_BYTES"]:
            raise EnvelopeError
        kind, length = frame[0], int.from_bytes(frame[1:5], "big")
        if length != len(frame) - 5 or kind > ERROR:
            raise EnvelopeError
        try:
            plain = self.aead.decrypt(nonce, frame[5:], frame[:5])
        except InvalidTag as wrong:
            raise EnvelopeError from wrong
        n = int.from_bytes(plain[:4], "big")
        if n > len(plain) - 4 or any(plain[4 + n :]):
            raise EnvelopeError
        self.note(kind, plain[4 : 4 + n])
        return kind, plain[4 : 4 + n]

    def seal(self, kind: int, data: bytes) -> bytes:
        """The next frame, padded.   [ENV-21] [ENV-24] [ENV-26]"""
        unit = LIMITS["FRAME_PAD_BYTES" if kind == DATA else "FINAL_PAD_BYTES"]
        n_plain = -(-(4 + len(data)) // unit) * unit
        if kind != DATA:
            n_plain = min(bucket(self.n_bytes + n_plain + 21) - self.n_bytes - 21, LIMITS["MAX_FRAME_PLAIN_BYTES"])
        head = bytes([kind]) + (n_plain + 16).to_bytes(4, "big")
        plain = len(data).to_bytes(4, "big") + data + bytes(n_plain - 4 - len(data))
        frame = head + self.aead.encrypt(self.count(len(head) + n_plain + 16), plain, head)
        self.note(kind, data)
        return frame

    def output_digest(self) -> bytes:
        """[ENV-31]"""
        return hashlib.sha256(self.salt + b"".join(self.data)).digest()


@dataclass(frozen=True)
class SealedRequest:
    """A sealed request, and what its answer and receipt are checked with."""

    header: bytes
    sealed: bytes
    k: bytes
    e: X25519PrivateKey
    engine_key: bytes

    @property
    def th(self) -> bytes:
        """The transcript hash.   [ENV-15]"""
        return transcript_hash(self.header, self.sealed)

    def response(self, response_key: bytes) -> Response:
        """What opens the answer, once the engine's Y is there.   [ENV-28]"""
        return Response(self.th, self.k, self.e, response_key, response_key)

    def check_receipt(self, receipt: bytes, response: Response, last: tuple[int, bytes], n_output: int) -> Fields:
        """The final statement that the receipt agrees with, or the failure.   [ENV-30] [ENV-32]"""
        th, *counts, digest, amount = read_receipt(receipt, self.engine_key)
        if th != self.th or amount or digest != response.output_digest():
            raise AnswerError
        kind, data = last
        if kind == ERROR:
            if any(counts):
                raise AnswerError
            return decode_struct(data, "Failure")
        final = decode_struct(data, "Final")
        usage = final["usage"]
        if counts != [usage[name] for name in COUNTS] or final["output_digest"] != digest or counts[2] != n_output:
            raise AnswerError
        if counts[1] > counts[0] or usage["n_reasoning_tokens"] > counts[2]:
            raise AnswerError
        return final


def read_receipt(receipt: bytes, engine_key: bytes) -> tuple[Any, ...]:
    """th, the three counts, digest and amount of what this engine signed."""
    if len(receipt) != RECEIPT.size + 64 or receipt[0] != 1:
        raise AnswerError
    try:
        verify(engine_key, receipt[RECEIPT.size :], b"mcs v1 receipt\0" + receipt[: RECEIPT.size])
    except PeerError as wrong:
        raise AnswerError from wrong
    return RECEIPT.unpack(receipt[: RECEIPT.size])[1:]


def transcript_hash(header: bytes, sealed: bytes) -> bytes:
    """[ENV-15]"""
    return hashlib.sha256(REQUEST_LABEL + header + sealed).digest()


def seal(body: bytes, to: SealKey, model_digest: bytes, now_ms: int, ttl_ms: int = 120_000) -> SealedRequest:
    """Seal a request body.   [ENV-01] [ENV-03] [ENV-12] [ENV-14]"""
    k, e = secrets.token_bytes(32), X25519PrivateKey.generate()
    header = struct.pack(">BH", 1, to.suite) + secrets.token_bytes(16) + to.peer_key + key_id(to.suite, to.key)
    header += model_digest + hashlib.sha256(b"").digest() + struct.pack(">QIB", now_ms, ttl_ms, 0)
    plain = k + e.public_key().public_bytes_raw() + len(body).to_bytes(4, "big") + body
    plain += bytes(padded_bytes(len(body)) - len(plain))
    x25519_key = X25519PublicKey.from_public_bytes(to.key[-32:])
    if to.suite == 1:
        sealed = SUITES[1].encrypt(plain, x25519_key, REQUEST_LABEL + header)
    else:
        key = MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(to.key[:-32]), x25519_key)
        sealed = SUITES[2].encrypt(plain, key, REQUEST_LABEL + header)
    return SealedRequest(header, sealed, k, e, to.engine_key)
