"""A ports.Engine without a process: real seal keys, scripted tokens, on trio's clock."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import msgspec
import trio

from mcd.engine.seal import OpenedRequest, SealKeys
from mcd.errors import EngineDeadError, RefusedError
from mcd.ids import ModelDigest
from mcd.ports import (
    Clock,
    EngineAnswer,
    EngineChunk,
    EngineEvent,
    EngineFinished,
    EngineRequest,
    EngineStarted,
    EngineState,
    EngineStatus,
)
from mcd.wire.codec import encode_delta, encode_failure, encode_final, encode_part
from mcd.wire.keyconfig import certify
from mcd.wire.messages import EngineKeys, RefuseReason
from mcd.wire.payload import Delta, Failure, Final, Usage, Vectors
from mcd.wire.signing import SigningKey

ALIAS = "play"
DIGEST = ModelDigest(hashlib.sha256(b"play").digest())
N_PROMPT_TOKENS = 7


class Play(msgspec.Struct, kw_only=True):
    """What the engine does; change it while it runs."""

    n_tokens: int = 5
    token_s: float = 0.02
    start_s: float = 0.0
    """Queue before the envelope is opened."""
    prefill_s: float = 0.0
    """From opening the envelope to the first token, on top of that token's own time."""
    idle_at: int | None = None
    """From this token on it computes nothing, and holds the request."""
    refuse: RefuseReason | None = None
    die_at: int | None = None
    failure: Failure | None = None
    cheat: str = ""
    """``receipt`` signs one token too many, ``count`` announces one too many, ``usage`` bills one too many, ``prompt``
    shows a longer prompt than it signs, ``amount`` signs a debt, ``cached`` signs more cached tokens than it shows,
    ``started`` counts
    four billion tokens of prompt before it begins, ``all cached`` shows more of them than the prompt has,
    ``thoughts`` shows more thinking than output, ``digest`` ends with the digest of another output,
    ``cancelled`` ends as if the entry had wished it,
    ``fault`` finds fault with the request once all tokens are out,
    ``choice`` answers a second choice that nobody asked for, ``reasons`` ends one."""
    digest: ModelDigest = DIGEST
    n_ctx: int = 4096
    n_slots: int = 4
    cancel_s: float = 0.0
    """From a cancel to the end it seals."""
    key_is_unknown_once: bool = False
    load_s: float = 0.0
    """The model is cold at first, and takes so long to load."""


def word(index: int) -> str:
    """The text of token ``index``."""
    return f"t{index} "


class SealingEngine:
    """Answers every request with ``t0 t1 ...``; the token ids are the indices."""

    def __init__(self, peer: SigningKey, clock: Clock, play: Play) -> None:
        self.play = play
        self.state: EngineState = "asleep" if play.load_s else "ready"
        self.n_woken = 0
        self.n_running = 0
        self.n_most = 0
        """Most requests that took a slot at once."""
        self.computing: set[EngineRequest] = set()
        self.n_tokens_made = 0
        self.asked_ms: list[int] = []
        """Of all bodies it opened."""
        self._clock = clock
        self._keys = SealKeys(peer.public_key, play.digest)
        self._keys.install_certificate(certify(self._keys.engine_public_key, clock.unix_ms(), peer))
        self._keys.rotate(clock.unix_ms())

    def status(self) -> EngineStatus:
        return EngineStatus(
            alias=ALIAS,
            digest=self.play.digest,
            state=self.state,
            n_ctx=self.play.n_ctx,
            n_slots=self.play.n_slots,
            n_running=self.n_running,
            n_waiting=0,
            capabilities=("chat", "embeddings"),
            prefill_tokens_per_s=1000.0,
            output_tokens_per_s=50.0,
            sealing=2,
            device="memory",
            restarts=0,
            load_ms=round(self.play.load_s * 1000),
            ready_in_s=self.play.load_s if self.state == "asleep" else 0.0,
            engine_key=self._keys.engine_public_key,
            key_id=self._keys.key_id,
        )

    def keys(self) -> EngineKeys:
        return EngineKeys(self.play.digest, self._keys.certificate, self._keys.configs())

    async def run(self) -> None:
        await trio.sleep_forever()

    def wake(self) -> None:
        self.n_woken += 1

    @asynccontextmanager
    async def submit(
        self, request: EngineRequest, on_computed: Callable[[], None] = lambda: None
    ) -> AsyncIterator[EngineAnswer]:
        self.n_running += 1
        computing = self.computing
        computing.add(request)
        self.n_most = max(self.n_most, len(computing))
        cancelled = trio.Event()

        def computed() -> None:
            computing.discard(request)
            on_computed()

        try:
            async with aclosing(self._answer(request, cancelled, computed)) as events:
                yield _Answer(events, cancelled)
        finally:
            computing.discard(request)
            self.n_running -= 1

    async def _answer(
        self, request: EngineRequest, cancelled: trio.Event, on_computed: Callable[[], None]
    ) -> AsyncGenerator[EngineEvent, None]:
        play = self.play
        await trio.sleep(play.start_s)
        if self.state == "asleep":
            self.wake()
            await trio.sleep(play.load_s)
            self.state = "ready"
        self._refuse()
        opened = self._keys.open(request.header, request.sealed, self._clock.unix_ms())
        self.asked_ms.append(opened.body.asked_ms)
        sealer = opened.sealer
        if opened.body.kind == "embeddings":
            async for event in self._embed(opened, cancelled):
                yield event
            return
        yield EngineStarted(sealer.response_key, N_PROMPT_TOKENS if play.cheat != "started" else 2**32 - 1)
        failure = play.failure
        if len(opened.body.resume) != request.resume_from:  # as the real one does
            failure = Failure("invalid_request", "resume_from is another number", "resume")
        if failure is not None:
            receipt = self._keys.sign_receipt(sealer, Usage(0, 0))
            yield EngineFinished(sealer.seal_error(encode_failure(failure)), receipt, 0, 0)
            return
        n_done = len(opened.body.resume)
        n_end = play.n_tokens
        await trio.sleep(play.prefill_s)
        for index in range(n_done, play.n_tokens):
            with trio.move_on_after(play.token_s if play.idle_at != index else math.inf):
                await cancelled.wait()
            if cancelled.is_set():
                n_end = index
                if play.cancel_s:
                    await trio.sleep(play.cancel_s)
                break
            if play.die_at == index:
                raise EngineDeadError("scripted")
            self.n_tokens_made += 1
            frame = sealer.seal_data(encode_delta(Delta(int(play.cheat == "choice"), word(index), (index,))))
            yield EngineChunk(frame, 1 + (play.cheat == "count"))
        if play.cheat == "fault":
            frame = sealer.seal_error(encode_failure(Failure("context_length_exceeded", "too long", "messages")))
            yield EngineFinished(frame, self._keys.sign_receipt(sealer, Usage(0, 0)), 0, 0)
            return
        n_new = n_end - n_done
        is_cut = cancelled.is_set() or play.cheat == "cancelled"
        n_prompt = N_PROMPT_TOKENS if n_new or not is_cut else 0
        billed = Usage(n_prompt, n_new + (play.cheat in {"receipt", "usage"}))
        shown = billed if play.cheat == "usage" else Usage(n_prompt + (play.cheat == "prompt"), n_new)
        if play.cheat in {"cached", "all cached"}:
            billed = Usage(n_prompt, n_new, n_prompt + 1)
        if play.cheat in {"all cached", "thoughts"}:
            shown = msgspec.structs.replace(billed, n_reasoning_tokens=(n_new + 1) * (play.cheat == "thoughts"))
        receipt = self._keys.sign_receipt(sealer, billed, amount=int(play.cheat == "amount"))
        reasons = ("cancelled" if is_cut else "stop",) * (1 + (play.cheat == "reasons"))
        digest = bytes(32) if play.cheat == "digest" else sealer.output_digest()
        final = sealer.seal_final(encode_final(Final(reasons, shown, digest)))
        on_computed()
        yield EngineFinished(final, receipt, n_prompt, n_new)

    def _refuse(self) -> None:
        if self.play.refuse is not None:
            raise RefusedError("scripted", reason=self.play.refuse, retry_after_s=1.0)
        if self.play.key_is_unknown_once:
            self.play.key_is_unknown_once = False
            self._keys.rotate(self._clock.unix_ms())
            raise RefusedError("scripted", reason=RefuseReason.KEY_UNKNOWN)

    async def _embed(self, opened: OpenedRequest, cancelled: trio.Event) -> AsyncGenerator[EngineEvent, None]:
        """A vector each ``token_s``, of one prompt token each; ``prompt`` bills one for none."""
        play, sealer = self.play, opened.sealer
        inputs = msgspec.json.decode(opened.body.request)["inputs"]
        yield EngineStarted(sealer.response_key, len(inputs))
        n_done = 0
        while n_done < len(inputs) and not cancelled.is_set():
            with trio.move_on_after(play.token_s):
                await cancelled.wait()
                break
            yield EngineChunk(sealer.seal_data(encode_part(Vectors((b"\0\0\x80?",)))), 0)
            n_done += 1
        usage = Usage(n_done + (play.cheat == "prompt"), 0)
        receipt = self._keys.sign_receipt(sealer, usage)
        reason = "cancelled" if cancelled.is_set() else "stop"
        final = sealer.seal_final(encode_final(Final((reason,), usage, sealer.output_digest())))
        yield EngineFinished(final, receipt, usage.n_prompt_tokens, 0)


class _Answer:
    """A ports.EngineAnswer over a generator."""

    def __init__(self, events: AsyncGenerator[EngineEvent, None], cancelled: trio.Event) -> None:
        self._events = events
        self._cancelled = cancelled

    def __aiter__(self) -> AsyncIterator[EngineEvent]:
        return self._events

    async def __anext__(self) -> EngineEvent:
        return await anext(self._events)

    def cancel(self) -> None:
        self._cancelled.set()
