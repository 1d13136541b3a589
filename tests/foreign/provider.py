"""A ModelCloud provider written from `specs/` and `protocol/` alone: its engine says one text to whatever it is asked.

It needs no address of its own: a peer that it dials learns of it over that link and opens its streams in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from tests.foreign import wire
from tests.foreign.entry import CODES, EXCHANGE, INFO, now_ms
from tests.foreign.seal import CONFIG, DATA, FINAL, RECEIPT, REQUEST_LABEL, SUITES, Response, key_id, transcript_hash
from tests.foreign.transport import Handler, PeerError, Stream
from tests.foreign.wire import LIMITS, TABLES

RECORDS = "/modelcloud/records/1.0.0"
REASONS = TABLES["numbers"]["RefuseReason"]
LIFETIME_MS = 3_600_000
N_PROMPT_TOKENS = 7


@dataclass
class Provider:
    """One peer with one engine, whose keys live as long as it does."""

    alias: str
    network: str
    text: str
    addresses: list[str] = field(default_factory=list)
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    n_served: int = 0

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.text.encode()).digest()
        self.engine = Ed25519PrivateKey.generate()
        self.engine_key = self.engine.public_key().public_bytes_raw()
        self.peer_key = self.identity.public_key().public_bytes_raw()
        ml_kem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self.seal_key = MLKEM768X25519PrivateKey(ml_kem, x25519)
        self.public = ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self.seen: set[bytes] = set()

    def handlers(self) -> dict[str, Handler]:
        """What this peer answers, by protocol id."""
        return {EXCHANGE: self.exchange, INFO: self.info, RECORDS: self.records}

    def record(self) -> bytes:
        """A fresh signed record.   [REC-01] [REC-05]"""
        offer = [self.alias, self.digest, 4096, 4, ["chat"], 0, 0, 1000, 100, self.engine_key, key_id(2, self.public)]
        times = [now_ms(), now_ms(), now_ms() + LIMITS["MAX_RECORD_LIFETIME_MS"] - 1000]
        body = msgpack.packb(
            [1, self.network, *times, "foreign", "foreign 1", self.addresses, [[*offer, 0, 2]], "", "", []]
        )
        return self.peer_key + self.identity.sign(b"modelcloud record v1\0" + body) + bytes(body)

    def certificate(self) -> bytes:
        """[ENV-08]"""
        stated = b"\1" + self.engine_key + now_ms().to_bytes(8, "big")
        return stated + self.identity.sign(b"mcs v1 engine cert\0" + stated)

    def config(self) -> bytes:
        """[ENV-07]"""
        ends_ms = now_ms() + LIFETIME_MS
        stated = CONFIG.pack(1, 2, self.peer_key, self.engine_key, now_ms(), ends_ms, 1, len(self.public)) + self.public
        return stated + self.engine.sign(b"mcs v1 key config\0" + stated)

    async def info(self, stream: Stream) -> None:
        """Answer who we are.   [ID-30]"""
        _, asked = wire.decode(await wire.receive(stream, LIMITS["MAX_INFO_FRAME_BYTES"]), "info")
        engines = [[self.digest, self.certificate(), [self.config()]]]
        await wire.send(stream, wire.encode("InfoReply", asked["nonce"], self.record(), engines, []))
        await stream.close()

    async def records(self, stream: Stream) -> None:
        """Answer with the only record we know: our own.   [DISC-30]"""
        wire.decode(await wire.receive(stream, LIMITS["MAX_RECORDS_REQUEST_FRAME_BYTES"]), "records")
        await wire.send(stream, wire.encode("RecordsReply", [self.record()]))
        await stream.close()

    def refusal(self, header: bytes, enc: bytes) -> str:
        """Why this request is refused in clear, or nothing.   [ENV-17] [ENV-18]"""
        issued_ms, ttl_ms = int.from_bytes(header[123:131], "big"), int.from_bytes(header[131:135], "big")
        if header[59:91] != self.digest:
            return "MODEL_UNKNOWN"
        if header[51:59] != key_id(2, self.public):
            return "KEY_UNKNOWN"
        if abs(issued_ms - now_ms()) > LIMITS["MAX_AGE_MS"] or issued_ms + ttl_ms <= now_ms():
            return "EXPIRED"
        return "REPLAY" if enc in self.seen else ""

    def open(self, header: bytes, sealed: bytes) -> tuple[bytes, bytes]:
        """`k` and E of a request that holds a body; raises ValueError on every fault alike.   [ENV-02] [ENV-16]"""
        try:
            plain = SUITES[2].decrypt(sealed, self.seal_key, REQUEST_LABEL + header)
        except InvalidTag as wrong:
            raise ValueError from wrong
        n = int.from_bytes(plain[64:68], "big")
        is_for_us = header[:3] == b"\1\0\2" and header[19:51] == self.peer_key and header[135] <= 1
        if not is_for_us or n > len(plain) - 68 or any(plain[68 + n :]):
            raise ValueError
        if "request" not in json.loads(plain[68 : 68 + n]):
            raise ValueError
        return plain[:32], plain[32:64]

    async def exchange(self, stream: Stream) -> None:
        """Serve one request, whatever it says, with our text.   [EX-23]"""
        name, asked = wire.decode(await wire.receive(stream, LIMITS["MAX_REQUEST_FRAME_BYTES"]), "exchange")
        enc = hashlib.sha256(asked["sealed"][:1120]).digest()[:16]
        if name != "Request":
            return await stream.reset()
        if refusal := self.refusal(asked["header"], enc):
            await wire.send(stream, wire.encode("Refused", REASONS[refusal], 0))
            return await stream.close()
        await wire.send(stream, wire.encode("Accepted", 0, 0))
        try:
            k, public = self.open(asked["header"], asked["sealed"])
            th, y = transcript_hash(asked["header"], asked["sealed"]), X25519PrivateKey.generate()
            response = Response(th, k, y, public, y.public_key().public_bytes_raw())
        except (ValueError, PeerError):
            await wire.send(stream, wire.encode("Abort", CODES["ENVELOPE"]))
            return await stream.close()
        self.seen.add(enc)
        await wire.send(stream, wire.encode("Started", y.public_key().public_bytes_raw(), N_PROMPT_TOKENS))
        for message in self.answer(response, th, asked["max_output_tokens"]):
            await wire.send(stream, message)
        self.n_served += 1
        return await stream.close()

    def answer(self, response: Response, th: bytes, max_output_tokens: int) -> Iterator[bytes]:
        """The messages behind `Started`: our text, the end and its receipt; a word is a token."""
        words = self.text.split(" ")
        said = words[: max_output_tokens or len(words)]
        delta = msgpack.packb([0, " ".join(said), list(range(len(said))), "", [], []])
        yield wire.encode("Chunk", response.seal(DATA, delta), len(said))
        digest = response.output_digest()
        usage = [N_PROMPT_TOKENS, len(said), 0, 0]
        final = msgpack.packb([["stop" if said == words else "length"], usage, digest, b""])
        stated = RECEIPT.pack(1, th, N_PROMPT_TOKENS, 0, len(said), digest, 0)
        receipt = stated + self.engine.sign(b"mcs v1 receipt\0" + stated)
        yield wire.encode("Finished", response.seal(FINAL, final), receipt)
