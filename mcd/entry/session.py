"""One attempt at one provider: seal the request, follow the exchange, open the answer, check the receipt.

Plaintext ends where `seal_request` is called and begins again where `Opener.open_frame` returns; nothing between
the two holds more than ciphertext. Only this module and `mcd.engine.seal` may import the envelope.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from mcd.api.events import AnswerEvent, Answering
from mcd.api.events import Waiting as WaitingForProvider
from mcd.api.request import ChatRequest
from mcd.api.tasks import KINDS, AnyRequest, encode_request
from mcd.conversation import Conversation
from mcd.entry.failures import claimed_fault, failure_of
from mcd.entry.keyring import Keyring
from mcd.entry.results import Results
from mcd.errors import (
    EnvelopeError,
    LimitError,
    McdError,
    RefusedError,
    RemoteProtocolError,
    TooLargeError,
)
from mcd.exchange.events import (
    AnswerFinished,
    AnswerStarted,
    ChunkReceived,
    Event,
    RequestAccepted,
    WaitReported,
)
from mcd.exchange.size import is_too_large
from mcd.exchange.states import CANCEL_TIMEOUT_S, Role
from mcd.ports import Clock, Mesh, Put
from mcd.routing.plan import Candidate
from mcd.wire.codec import decode_delta, decode_failure, decode_final, encode_body
from mcd.wire.envelope import Terms, seal_request
from mcd.wire.frames import DataFrame, ErrorFrame, FinalFrame, Frame, Opener
from mcd.wire.header import FLAG_STREAM
from mcd.wire.keyconfig import KeyConfig
from mcd.wire.messages import (
    EXCHANGE_PROTOCOL,
    MAX_OUTPUT_TOKENS,
    Abort,
    AbortCode,
    Cancel,
    Chunk,
    Finished,
    RefuseReason,
    Request,
)
from mcd.wire.payload import Body, Delta, Final, Part, Usage
from mcd.wire.receipt import Receipt
from mcd.wire.signing import check_receipt

REQUEST_TTL_MS = 120_000
"""How long the sealed request may wait before it begins; the engine's clock window is as wide."""
TASK_OUTPUT_TOKENS = 1
"""Limit of a task, which has none: 0 would mean up to the context, and admission would expect a long answer."""
MAX_SEEN_OFF = 256
"""Cancelled answers whose end is waited for at once; of any more nobody will know what they took."""
CANCELLED = "cancelled"
NOTHING = Usage(0, 0)


class Asked(msgspec.Struct, frozen=True):
    """What is asked of a provider: the whole request, or the rest of one that another provider began."""

    request: AnyRequest
    resume: tuple[int, ...] = ()
    """Output token ids received so far."""
    cache_salt: str = ""
    asked_ms: int = 0
    """When the user asked."""


class Session:
    """Makes attempts, and sees off those that nobody waits for any more. One per daemon."""

    def __init__(self, mesh: Mesh, keyring: Keyring, clock: Clock) -> None:
        self._mesh = mesh
        self._keyring = keyring
        self._clock = clock
        self._behind: trio.Nursery | None = None
        """Where ends of cancelled answers are waited for; None while `run` does not."""

    async def run(self) -> None:
        """Hold what goes on behind the users' backs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._behind = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._behind = None

    @property
    def n_seen_off(self) -> int:
        """Cancelled answers whose end has not come yet."""
        return len(self._behind.child_tasks) if self._behind is not None else 0

    async def attempt(
        self, candidate: Candidate, asked: Asked, put: Put, on_cancelled: Callable[[Final], None]
    ) -> None:
        """Put one provider's answer, in batches of what arrived together.

        Cancelled, it has the provider stop within a decode step. What that then says was delivered is checked behind
        the user's back and told to ``on_cancelled``.

        Raises:
            TooLargeError: It cannot be sealed.
            ClaimedFaultError: The provider says that the request itself is at fault.
            PeerError: This provider failed or refused; another may be tried.
        """
        config = await self._keyring.config(candidate)
        talk, answer = self._begin(candidate, asked, config)
        failure: McdError | None = None
        try:
            while not answer.is_complete:
                batch: list[AnswerEvent] = []
                try:
                    for event in await talk.next_events():
                        batch += answer.take(event)
                    talk.exchange.results_came(answer.n_results, self._clock.now())
                except McdError:
                    if batch:
                        await put(batch)  # what came before the failure counts: the next provider goes on behind it
                    raise
                await put(batch)
        except McdError as problem:
            failure = problem
            if isinstance(problem, RefusedError) and problem.reason == RefuseReason.KEY_UNKNOWN:
                self._keyring.forget(candidate, config)
            raise
        finally:
            has_ended = answer.is_complete or failure is not None
            if has_ended or self._behind is None or self.n_seen_off >= MAX_SEEN_OFF:
                await _let_go(talk, answer, failure)
            else:
                self._behind.start_soon(self._see_off, talk, answer, on_cancelled)

    def _begin(self, candidate: Candidate, asked: Asked, config: KeyConfig) -> tuple[Conversation, _Answer]:
        """Seal the request. Nobody keeps its bytes once they are sent: an answer may take an hour.

        Raises:
            TooLargeError: It cannot be sealed.
        """
        request = asked.request
        body = encode_body(
            Body(
                kind=KINDS[type(request)],
                request=msgspec.Raw(encode_request(request)),
                resume=asked.resume,
                cache_salt=asked.cache_salt,
                asked_ms=asked.asked_ms,
            )
        )
        terms = Terms(
            request_id=os.urandom(16),
            model_digest=candidate.model.digest,
            issued_ms=self._clock.unix_ms(),
            ttl_ms=REQUEST_TTL_MS,
            flags=FLAG_STREAM if isinstance(request, ChatRequest) and request.stream else 0,
        )
        try:
            header, sealed, opener = seal_request(body, config, terms)
        except LimitError as problem:  # the gateway bounds the client's JSON; ours around it may tip it over
            raise TooLargeError(f"the request is too large to be sealed: {problem.message}") from problem
        message = Request(header, sealed, _output_limit(request), resume_from=len(asked.resume))
        talk = Conversation(Role.ENTRY, self._clock)
        talk.exchange.promised(candidate.prediction.load_s + candidate.prediction.prefill_s)
        talk.ask(message, partial(self._mesh.open_stream, candidate.peer_id, EXCHANGE_PROTOCOL))
        answer = _Answer(candidate, opener, config.engine_key, request)
        most_tokens = max(message.max_output_tokens, message.resume_from)
        model = candidate.model
        answer.may_be_too_large = is_too_large(model.n_ctx, model.capabilities, len(sealed), most_tokens)
        return talk, answer

    async def _see_off(self, talk: Conversation, answer: _Answer, on_cancelled: Callable[[Final], None]) -> None:
        """Cancel an answer and take its end, so that what was delivered is accounted for.   [EX-12]"""
        try:
            with contextlib.suppress(McdError), trio.move_on_after(CANCEL_TIMEOUT_S):
                on_cancelled(await answer.cancel(talk))
        finally:
            await _let_go(talk, answer)


def _output_limit(request: AnyRequest) -> int:
    if not isinstance(request, ChatRequest):
        return TASK_OUTPUT_TOKENS
    return min((request.max_tokens or 0) * request.n, MAX_OUTPUT_TOKENS)


async def _let_go(talk: Conversation, answer: _Answer, failure: McdError | None = None) -> None:
    if answer.is_complete:
        await talk.finish()
    else:
        await talk.end(_last_word(failure))


def _last_word(failure: McdError | None) -> Abort | Cancel:
    """What a provider whose answer we do not take hears: one word for every fault of the envelope.   [ENV-40]"""
    match failure:
        case EnvelopeError():
            return Abort(AbortCode.ENVELOPE)
        case RemoteProtocolError():
            return Abort(AbortCode.PROTOCOL)
        case _:
            return Cancel()


class _Answer:
    """Turns one exchange's events into the answer's, checking all that can be checked. Owner: one attempt."""

    def __init__(self, candidate: Candidate, opener: Opener, engine_key: bytes, request: AnyRequest) -> None:
        self._results = None if isinstance(request, ChatRequest) else Results(request)
        """Of a task; None for a chat."""
        self._n_choices = request.n if isinstance(request, ChatRequest) else 1
        self._candidate = candidate
        self._opener = opener
        self._engine_key = engine_key
        self._n_tokens = 0
        """Output tokens of this provider; what an earlier one delivered is its own receipt's."""
        self._is_cancelled = False
        self.is_complete = False
        self.may_be_too_large = True
        """By what the provider announces.   [EX-45]"""

    @property
    def n_results(self) -> int:
        """Vectors or scores that came; of a chat, whose output is counted in tokens, none."""
        return 0 if self._results is None else self._results.n_taken

    async def cancel(self, talk: Conversation) -> Final:
        """Take the answer back and read on to its end; the text that still comes is for nobody.

        Raises:
            McdError: No end came, or none that we owe anything for.
        """
        self._is_cancelled = True
        if talk.exchange.may_send(Cancel):
            await talk.send(Cancel())
        while True:
            for event in await talk.next_events():
                for taken in self.take(event):
                    if isinstance(taken, Final):
                        return taken

    def take(self, event: Event) -> tuple[AnswerEvent, ...]:
        match event:
            case RequestAccepted(message=message) | WaitReported(message=message):
                return (WaitingForProvider(message.queue_ms / 1000),)
            case AnswerStarted(message=message):
                self._opener.start(message.response_key)
                return (self._answering(message.n_prompt_tokens),)
            case ChunkReceived(message=message):
                return self._chunk(message)
            case AnswerFinished(message=message):
                return (self._finish(message),)
            case _:
                raise failure_of(event, self._candidate.model.n_ctx, self.may_be_too_large)

    def _answering(self, n_prompt_tokens: int) -> Answering:
        chosen, model = self._candidate, self._candidate.model
        return Answering(
            peer_id=chosen.peer_id,
            peer_name=chosen.name,
            model=model.alias,
            n_prompt_tokens=n_prompt_tokens,
            price_prompt=model.price_prompt,
            price_output=model.price_output,
            model_digest=model.digest,
        )

    def _chunk(self, message: Chunk) -> tuple[Delta | Part, ...]:
        frame = self._opener.open_frame(message.frame)
        if not isinstance(frame, DataFrame):
            raise RemoteProtocolError("the provider ended its answer without saying so in the clear")
        if not frame.plaintext:
            return ()
        if self._results is not None:
            if message.n_tokens:
                raise RemoteProtocolError("the provider counts output tokens where there are none")
            return (self._results.take(frame.plaintext),)
        delta = decode_delta(frame.plaintext)
        if len(delta.tokens) != message.n_tokens:
            raise RemoteProtocolError("the provider counts other tokens than it delivers")
        if delta.choice >= self._n_choices:  # [ENV-47]
            raise RemoteProtocolError("the provider answers a choice that was not asked for")
        self._n_tokens += message.n_tokens
        return (delta,)

    def _finish(self, message: Finished) -> Final:
        frame: Frame = self._opener.open_frame(message.frame)
        if isinstance(frame, ErrorFrame):
            if self._n_tokens:
                raise RemoteProtocolError("the provider finds fault with a request that it had begun to answer")
            raise claimed_fault(decode_failure(frame.plaintext))
        if not isinstance(frame, FinalFrame):
            raise RemoteProtocolError("the provider ended its answer with a piece of it")
        final = decode_final(frame.plaintext)
        if len(final.finish_reasons) != self._n_choices:  # [ENV-47]
            raise RemoteProtocolError("the provider ends another number of choices than were asked for")
        self._check_usage(final.usage)
        self._check_receipt(check_receipt(message.receipt, self._engine_key), final)
        if CANCELLED in final.finish_reasons:
            self._check_cancelled(final)
        elif self._results is not None:
            self._results.check_complete(final)
        self.is_complete = True
        return final

    def _check_usage(self, usage: Usage) -> None:
        is_whole = usage.n_output_tokens == self._n_tokens
        if not is_whole or usage.n_cached_tokens > usage.n_prompt_tokens or usage.n_reasoning_tokens > self._n_tokens:
            raise RemoteProtocolError("the usage counts other tokens than were delivered")

    def _check_receipt(self, receipt: Receipt, final: Final) -> None:
        """Money settles on it, so it must say what was delivered and nothing more.   [ENV-32]"""
        usage, digest = final.usage, self._opener.output_digest()
        owed = Receipt(
            self._opener.transcript_hash,
            usage.n_prompt_tokens,
            usage.n_cached_tokens,
            usage.n_output_tokens,
            digest,
            amount=0,  # nothing is paid on the free rail
        )
        if receipt != owed or final.output_digest != digest:
            raise RemoteProtocolError("the receipt states another answer than the one delivered")

    def _check_cancelled(self, final: Final) -> None:
        if not self._is_cancelled:
            raise RemoteProtocolError("the provider cancelled an answer that is still wanted")
        has_some = self._n_tokens if self._results is None else self._results.n_taken
        if not has_some and final.usage != NOTHING:
            raise RemoteProtocolError("the provider counts a prompt that it did not answer")  # [ENV-38]
