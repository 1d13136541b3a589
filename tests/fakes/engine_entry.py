"""An entry without a mesh: certifies engines, seals requests to them and reads the answers."""

from __future__ import annotations

import io
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from mcd.api.request import ChatMessage, ChatRequest
from mcd.api.tasks import KINDS, PARTS, AnyRequest, encode_request
from mcd.engine.catalogue import EngineSpec
from mcd.engine.client import EngineProcess
from mcd.engine.messages import EngineOptions
from mcd.log import Log
from mcd.ports import EngineChunk, EngineEvent, EngineFinished, EngineRequest, EngineStarted, Measured
from mcd.units import UnixMs
from mcd.wire.codec import decode_delta, decode_failure, decode_final, decode_part, encode_body
from mcd.wire.envelope import Opener, Terms, seal_request
from mcd.wire.frames import DataFrame, ErrorFrame, FinalFrame
from mcd.wire.keyconfig import certify, choose_config, verify_key_config
from mcd.wire.payload import Body, Delta, Failure, Final, Part, Scores, Text, Tokens, Vectors
from mcd.wire.receipt import Receipt
from mcd.wire.signing import SigningKey, check_receipt

ONE_THREAD = EngineOptions(n_threads=1)


class RealClock:
    """A ports.Clock on the real time."""

    def now(self) -> float:
        return trio.current_time()

    def unix_ms(self) -> UnixMs:
        return UnixMs(int(time.time() * 1000))


class Answer:
    """What one request gave, opened."""

    def __init__(self) -> None:
        self.n_prompt_tokens = 0
        self.deltas: list[Delta] = []
        self.part_kind: type[Part] | None = None
        """Of a task; None for a chat."""
        self.parts: list[Part] = []
        self.final: Final | None = None
        self.failure: Failure | None = None
        self.receipt: Receipt | None = None
        self.n_clear_tokens = 0
        self.n_chunks = 0
        self.finished: EngineFinished | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for delta in self.deltas for token in delta.tokens)

    @property
    def vectors(self) -> list[bytes]:
        return [vector for part in self.parts if isinstance(part, Vectors) for vector in part.vectors]

    @property
    def scores(self) -> list[float]:
        return [score for part in self.parts if isinstance(part, Scores) for score in part.scores]

    @property
    def ids(self) -> list[int]:
        return [token for part in self.parts if isinstance(part, Tokens) for token in part.tokens]

    @property
    def joined(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    def choice(self, index: int) -> str:
        return "".join(delta.text for delta in self.deltas if delta.choice == index)


class EntrySide:
    """Owns the peer key and one engine."""

    def __init__(
        self, spec: EngineSpec, options: EngineOptions = ONE_THREAD, *, measured: Measured | None = None
    ) -> None:
        self.key = SigningKey(os.urandom(32))
        self.log = io.StringIO()
        self.clock = RealClock()
        self.engine = EngineProcess(
            spec,
            certify=lambda public_key: certify(public_key, self.clock.unix_ms(), self.key),
            peer_public_key=self.key.public_key,
            clock=self.clock,
            log=Log("debug", self.log),
            options=options,
            measured=measured,
        )

    async def wait_until(self, *states: str, timeout_s: float = 60.0) -> None:
        with trio.fail_after(timeout_s):
            while self.engine.status().state not in states:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.005)

    def seal(
        self,
        request: AnyRequest,
        *,
        resume: tuple[int, ...] = (),
        salt: str = "",
        max_output_tokens: int = 0,
        kind: str = "",
        raw: bytes | None = None,
        asked_ms: int = 0,
    ) -> tuple[EngineRequest, Opener]:
        keys = self.engine.keys()
        configs = [
            verify_key_config(config, keys.certificate, self.key.public_key, self.clock.unix_ms())
            for config in keys.configs
        ]
        body = Body(
            kind=kind or KINDS[type(request)],
            request=msgspec.Raw(raw or encode_request(request)),
            resume=resume,
            cache_salt=salt,
            asked_ms=asked_ms,
        )
        terms = Terms(os.urandom(16), keys.model_digest, self.clock.unix_ms(), 60_000)
        header, sealed, opener = seal_request(encode_body(body), choose_config(configs), terms)
        return EngineRequest(header, sealed, max_output_tokens, len(resume)), opener

    async def ask(self, request: AnyRequest, **how: Any) -> Answer:
        answer = Answer()
        if not isinstance(request, ChatRequest):
            answer.part_kind = PARTS[type(request)]
        sealed, opener = self.seal(request, **how)
        async with self.engine.submit(sealed) as events:
            async for event in events:
                self.take(answer, opener, event)
        assert opener.is_finished
        return answer

    async def ask_and_cancel(self, request: AnyRequest, n_chunks: int) -> Answer:
        """Take the answer back after so many chunks and read on to its end."""
        answer = Answer()
        if not isinstance(request, ChatRequest):
            answer.part_kind = PARTS[type(request)]
        sealed, opener = self.seal(request)
        async with self.engine.submit(sealed) as events:
            async for event in events:
                self.take(answer, opener, event)
                if answer.n_chunks == n_chunks and answer.finished is None:
                    events.cancel()
        assert answer.final is not None
        assert answer.receipt is not None
        usage, receipt = answer.final.usage, answer.receipt
        assert set(answer.final.finish_reasons) == {"cancelled"}
        assert usage.n_output_tokens == receipt.n_output_tokens == len(answer.tokens) == answer.n_clear_tokens
        assert usage.n_prompt_tokens == receipt.n_prompt_tokens
        if answer.part_kind is None:
            assert usage.n_prompt_tokens == (answer.n_prompt_tokens if answer.tokens else 0)
        assert receipt.output_digest == answer.final.output_digest
        return answer

    def take(self, answer: Answer, opener: Opener, event: EngineEvent, engine_key: bytes = b"") -> None:
        """Open one event. ``engine_key``: whose receipt it is, should the engine be another one by now."""
        match event:
            case EngineStarted():
                opener.start(event.response_key)
                answer.n_prompt_tokens = event.n_prompt_tokens
            case EngineChunk():
                answer.n_chunks += 1
                answer.n_clear_tokens += event.n_tokens
                self._open(answer, opener, event.frame)
            case EngineFinished():
                answer.finished = event
                self._open(answer, opener, event.frame)
                answer.receipt = check_receipt(event.receipt, engine_key or self.engine.status().engine_key)

    def _open(self, answer: Answer, opener: Opener, frame: bytes) -> None:
        match opener.open_frame(frame):
            case DataFrame(plaintext=plaintext):
                if plaintext and answer.part_kind is not None:
                    answer.parts.append(decode_part(plaintext, answer.part_kind))
                elif plaintext:
                    answer.deltas.append(decode_delta(plaintext))
            case FinalFrame(plaintext=plaintext):
                answer.final = decode_final(plaintext)
                assert answer.final.output_digest == opener.output_digest()
            case ErrorFrame(plaintext=plaintext):
                answer.failure = decode_failure(plaintext)


@asynccontextmanager
async def running(
    spec: EngineSpec, options: EngineOptions = ONE_THREAD, *, state: str = "ready"
) -> AsyncIterator[EntrySide]:
    """A supervised engine, ready, stopped at the end."""
    side = EntrySide(spec, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        await side.wait_until(state, "failed")
        yield side
        nursery.cancel_scope.cancel()


def chat(text: str, **members: Any) -> ChatRequest:
    """A request with one user message."""
    return ChatRequest(model="m", messages=(ChatMessage(role="user", content=text),), **members)
