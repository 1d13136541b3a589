"""A ModelCloud entry written from `specs/` and `protocol/` alone.

`python -m tests.foreign.entry ADDRESS NETWORK ALIAS TEXT` asks the provider at that multiaddr and prints its answer.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.foreign import wire
from tests.foreign.seal import (
    DATA,
    ERROR,
    AnswerError,
    EnvelopeError,
    SealedRequest,
    SealKey,
    check_certificate,
    check_config,
    seal,
)
from tests.foreign.transport import EndError, Link, PeerError, Stream, dial
from tests.foreign.wire import LIMITS, TABLES, Fields

EXCHANGE, INFO = "/modelcloud/exchange/1.0.0", "/modelcloud/info/1.0.0"
REASONS = {number: name for name, number in TABLES["numbers"]["RefuseReason"].items()}
CODES = TABLES["numbers"]["AbortCode"]

PROVIDER_MAY: dict[str, dict[str, str]] = {
    "REQUESTED": {"Accepted": "QUEUED", "Refused": "REFUSED"},
    "QUEUED": {"Waiting": "QUEUED", "Started": "STREAMING", "Refused": "REFUSED"},
    "STREAMING": {"Waiting": "STREAMING", "Chunk": "STREAMING", "Paused": "PAUSED", "Finished": "FINISHED"},
    "PAUSED": {"Paused": "PAUSED", "Chunk": "STREAMING", "Finished": "FINISHED"},
    "CANCELLING": {"Accepted": "CANCELLING", "Waiting": "CANCELLING", "Started": "STOPPING", "Refused": "REFUSED"},
    "STOPPING": {"Waiting": "STOPPING", "Chunk": "STOPPING", "Paused": "STOPPING", "Finished": "FINISHED"},
}
"""The table of 05 for who never asks for a quote; `Abort` may come in every state."""
PADDING: Fields = {"choice": 0, "text": "", "tokens": []}
AFTER_CANCEL = {"REQUESTED": "CANCELLING", "QUEUED": "CANCELLING", "STREAMING": "STOPPING", "PAUSED": "STOPPING"}


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Provider:
    """What a provider's info reply proved: its record, and the seal keys of each model that it offers."""

    record: Fields
    keys: dict[bytes, list[SealKey]]

    def offer(self, alias: str) -> Fields:
        """The offer of this alias; raises PeerError where there is none."""
        for offer in self.record["models"]:
            if offer["alias"] == alias:
                return dict(offer)
        raise PeerError(f"{alias} is not offered here")


async def ask_info(link: Link, network: str) -> Provider:
    """Ask a peer about itself, and believe what is proven.   [ID-31] [ID-32] [ID-33] [ID-34] [ENV-09]"""
    nonce = secrets.token_bytes(16)
    stream = await link.open(INFO)
    await wire.send(stream, wire.encode("InfoRequest", TABLES["capability_version"], nonce))
    name, reply = wire.decode(await wire.receive(stream, LIMITS["MAX_INFO_FRAME_BYTES"]), "info")
    await stream.close()
    if name != "InfoReply" or reply["nonce"] != nonce:
        raise PeerError("nonce_mismatch")
    record = wire.check_record(reply["record"], network, now_ms())
    if record["peer_key"] != link.key:
        raise PeerError("wrong_subject")
    offered = {offer["digest"] for offer in record["models"]}
    engines = (engine for engine in reply["engines"] if engine["model_digest"] in offered)
    return Provider(record, {engine["model_digest"]: seal_keys(engine, link.key) for engine in engines})


def seal_keys(engine: Fields, peer_key: bytes) -> list[SealKey]:
    """The keys of an engine that hold; the last is the one to use.   [ENV-10]"""
    keys = []
    with contextlib.suppress(PeerError):
        engine_key = check_certificate(engine["certificate"], peer_key)
        for config in engine["configs"]:
            with contextlib.suppress(PeerError):
                keys.append(check_config(config, peer_key, engine_key, now_ms()))
    return sorted(keys, key=lambda key: (key.suite, key.epoch))


@dataclass
class Exchange:
    """One request to one provider, and what came of it."""

    stream: Stream
    sealed: SealedRequest
    max_output_tokens: int
    state: str = "IDLE"
    texts: list[str] = field(default_factory=lambda: [""])
    tokens: list[int] = field(default_factory=list)
    final: Fields = field(default_factory=dict)
    last: str = ""
    n_waiting: int = 0
    promised_s: float = 0
    cancelled: bool = False

    async def run(self, *, cancel_after: int | None = None) -> None:
        """Send the request, take the answer; cancel behind so many output tokens.

        Raises:
            PeerError: The provider broke a rule, broke off or was too slow; nothing of the answer counts.
        """
        content = self.sealed.header, self.sealed.sealed, self.max_output_tokens
        await wire.send(self.stream, wire.encode("Request", *content, 0, b"", b""))
        self.state, self.asked_at = "REQUESTED", trio.current_time()
        self.entered_at = self.newest_at = self.output_at = self.asked_at
        try:
            while self.state in PROVIDER_MAY:
                if cancel_after is not None and not self.cancelled and len(self.tokens) >= cancel_after:
                    await self.cancel()
                with trio.fail_at(self.deadline()):
                    body = await wire.receive(self.stream, LIMITS["MAX_FRAME_BYTES"])
                self.take(*wire.decode(body, "exchange"))
        except trio.TooSlowError:
            await self.abort("TIMEOUT")
            raise PeerError("timed out") from None
        except (AnswerError, EnvelopeError) as fault:
            await self.abort("ENVELOPE" if isinstance(fault, EnvelopeError) else "PROTOCOL")
            raise
        except EndError:
            if self.state != "CANCELLING":
                raise
            self.state = "CANCELLED"
        except PeerError:
            await self.stream.reset()
            raise
        await self.stream.close()

    async def cancel(self) -> None:
        """Say that nobody wants the answer any more.   [EX-12]"""
        await wire.send(self.stream, wire.encode("Cancel"))
        self.state, self.entered_at, self.cancelled = AFTER_CANCEL[self.state], trio.current_time(), True

    async def abort(self, code: str) -> None:
        """Break off.   [EX-06]"""
        self.state = "ABORTED"
        await wire.send(self.stream, wire.encode("Abort", CODES[code]))
        await self.stream.close()

    def deadline(self) -> float:
        """When the first of this state's timers runs out.   [EX-50] [EX-55]"""
        total = self.asked_at + LIMITS["TOTAL_TIMEOUT_S"]
        idle = self.newest_at + LIMITS["IDLE_TIMEOUT_S"]
        patience = self.output_at + LIMITS["MIN_PATIENCE_S"] + LIMITS["PATIENCE_FACTOR"] * self.promised_s
        match self.state:
            case "REQUESTED":
                return self.asked_at + LIMITS["ACCEPT_TIMEOUT_S"]
            case "QUEUED":
                return min(idle, patience, self.asked_at + LIMITS["START_TIMEOUT_S"])
            case "STREAMING":
                return min(idle, patience, total)
            case "PAUSED":
                return min(self.newest_at + LIMITS["PAUSE_TIMEOUT_S"], patience, total)
        return self.entered_at + LIMITS["CANCEL_TIMEOUT_S"]

    def take(self, name: str, message: Fields) -> None:
        """Apply a message of the provider.   [EX-03] [EX-04]"""
        if name == "Abort":
            self.state = "ABORTED"
            raise PeerError(f"the provider broke off with code {message['code']}")
        if name not in PROVIDER_MAY[self.state]:
            raise PeerError(f"{name} in {self.state}")
        self.newest_at, before, self.last = trio.current_time(), self.state, name
        self.state = PROVIDER_MAY[self.state][name]
        if self.state != before:
            self.entered_at = self.newest_at
        match name:
            case "Refused":
                self.last = REASONS.get(message["reason"], "BUSY")
            case "Waiting":
                self.n_waiting += 1
                if self.n_waiting > LIMITS["MAX_WAITING_BURST"] + self.newest_at - self.asked_at:
                    raise PeerError("too many Waiting")
            case "Accepted":
                self.promised_s = message["queue_ms"] / 1000
            case "Started":
                self.output_at = self.newest_at
                self.response = self.sealed.response(message["response_key"])
            case "Chunk":
                self.take_chunk(message["frame"], message["n_tokens"])
            case "Finished":
                self.take_end(message["frame"], message["receipt"])

    def take_chunk(self, frame: bytes, n_tokens: int) -> None:
        """Open some tokens of the answer.   [EX-11] [ENV-47]"""
        kind, data = self.response.open(frame)
        if kind != DATA:
            raise AnswerError
        delta = wire.decode_struct(data, "Delta") if data else PADDING
        if len(delta["tokens"]) != n_tokens or delta["choice"] >= len(self.texts):
            raise AnswerError
        self.tokens += delta["tokens"]
        if n_tokens:
            self.output_at = self.newest_at
        self.texts[delta["choice"]] += delta["text"]
        if len(self.tokens) > (self.max_output_tokens or LIMITS["MAX_OUTPUT_TOKENS"]):
            raise PeerError("more tokens than asked for")

    def take_end(self, frame: bytes, receipt: bytes) -> None:
        """Check that the answer is whole and accounted for.   [EX-16] [ENV-32] [ENV-47]"""
        kind, data = self.response.open(frame)
        if kind == DATA:
            raise AnswerError
        self.final = self.sealed.check_receipt(receipt, self.response, (kind, data), len(self.tokens))
        if kind == ERROR:
            return
        reasons = self.final["finish_reasons"]
        if len(reasons) != len(self.texts) or ("cancelled" in reasons and not self.cancelled):
            raise AnswerError


async def ask(link: Link, key: SealKey, digest: bytes, request: Fields, *, cancel_after: int | None = None) -> Exchange:
    """Seal a chat request to this key and run its exchange."""
    body = json.dumps({"kind": "chat", "request": request, "asked_ms": now_ms()}, separators=(",", ":")).encode()
    limit = request.get("max_tokens", 0) * request.get("n", 1)
    sealed = seal(body, key, digest, now_ms())
    exchange = Exchange(await link.open(EXCHANGE), sealed, limit, texts=[""] * request.get("n", 1))
    await exchange.run(cancel_after=cancel_after)
    return exchange


async def main(address: str, network: str, alias: str, text: str) -> None:
    """Ask and print."""
    async with dial(address, Ed25519PrivateKey.generate(), {}) as link:
        provider = await ask_info(link, network)
        offer = provider.offer(alias)
        request = {"model": alias, "messages": [{"role": "user", "content": text}]}
        answer = await ask(link, provider.keys[offer["digest"]][-1], offer["digest"], request)
        print(answer.texts[0] or answer.last, answer.final)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
