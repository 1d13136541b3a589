"""One inbound exchange: read the request, admit or refuse it, hold it until it has a slot, pass the engine's frames on.

This process never holds more than ciphertext: it reads the clear header to find the engine, and the engine opens
the envelope. An import contract keeps `mcd.wire.envelope` out of this room.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

import trio

from mcd.conversation import Conversation
from mcd.errors import (
    EngineError,
    EnvelopeError,
    LocalProtocolError,
    PeerError,
    PeerTimeoutError,
    RefusedError,
    RemoteProtocolError,
    StreamBrokenError,
)
from mcd.exchange.events import PeerClosed, QuoteRequested, RequestCancelled, RequestReceived, VoucherReceived
from mcd.exchange.states import CANCEL_TIMEOUT_S, Role, State
from mcd.ids import PeerId
from mcd.ports import (
    Clock,
    Engine,
    EngineAnswer,
    EngineChunk,
    EngineEvent,
    EngineFinished,
    EngineRequest,
    EngineStarted,
    EngineStatus,
    Mesh,
    Stream,
)
from mcd.provider.admission import MAX_HELD_S, Ask, Refuse
from mcd.provider.desk import Desk
from mcd.provider.turns import Turn
from mcd.provider.uploads import Upload, Uploads
from mcd.wire.header import decode_header
from mcd.wire.messages import (
    Abort,
    AbortCode,
    Chunk,
    Finished,
    Quote,
    QuoteRequest,
    Refused,
    RefuseReason,
    Request,
    Started,
    Waiting,
)

SEND_STALL_S = 90.0
"""An entry that takes no message for so long computes for nobody; its own client has 60 s to read (09).   [EX-28]"""
LIFE_SIGN_S = 4.0
"""Silence after which a provider with work proves that it lives; entries give up after 15 s.   [EX-20]"""
FIRST_LIFE_SIGN_S = 1.0
QUOTE_VALID_MS = 5_000
_SAID = frozenset({State.FINISHED, State.REFUSED, State.CANCELLED})
"""Ends after which nothing is left to say."""


class Served:
    """What this peer did for others since it started: counts only. Owner: Provider."""

    def __init__(self) -> None:
        self.n_finished = 0
        self.n_prompt_tokens = 0
        self.n_output_tokens = 0
        self.outcomes: Counter[str] = Counter()


class Provider:
    """Serves the exchange protocol with our engines. One per daemon."""

    def __init__(self, engines: Sequence[Engine], clock: Clock, mesh: Mesh) -> None:
        self.served = Served()
        self._uploads = Uploads()
        self._desks = [Desk(engine, clock, mesh.peer_id) for engine in engines]
        self._clock = clock
        self._address_of = mesh.address_of

    def statuses(self) -> Sequence[EngineStatus]:
        """Of all engines, those counted that wait here for a slot."""
        return [desk.status() for desk in self._desks]

    def leave(self) -> None:
        """Refuse every new request from now on."""
        for desk in self._desks:
            desk.admission.is_stopping = True

    async def serve(self, stream: Stream) -> None:
        """Serve one inbound stream to its end. The handler of EXCHANGE_PROTOCOL."""
        upload = Upload(stream, self._uploads, self._address_of(stream.peer_id))
        talk = Conversation(Role.PROVIDER, self._clock, upload)
        last: Abort | None = Abort(AbortCode.INTERNAL)
        try:
            last = await self._serve(talk, upload)
        except RemoteProtocolError:
            self.served.outcomes["protocol"] += 1
            last = Abort(AbortCode.PROTOCOL)
        except StreamBrokenError:
            self.served.outcomes["broken"] += 1
        except PeerTimeoutError:
            self.served.outcomes["stalled"] += 1
            last = Abort(AbortCode.TIMEOUT)
        except LocalProtocolError:
            self.served.outcomes["internal"] += 1
        finally:
            upload.done()
            if last is None and talk.exchange.state in _SAID:
                await talk.finish()  # a reset would take what a slow entry has not read yet
            else:
                await talk.end(last)

    async def _serve(self, talk: Conversation, upload: Upload) -> Abort | None:
        """Answer quotes until the request comes, then answer that. Returns the last word, if one is due."""
        while not talk.exchange.is_over:
            match await talk.next_event():
                case RequestReceived(message=message):
                    upload.done()
                    return await self._answer(talk, upload.peer_id, message)
                case QuoteRequested(message=message):
                    await self._quote(talk, upload.peer_id, message)
                case _:
                    return None
        return None

    async def _quote(self, talk: Conversation, peer_id: PeerId, message: QuoteRequest) -> None:
        ask = Ask(message.n_prompt_bytes, message.max_output_tokens)
        desk = self._desk(message.model_digest)
        turn = Turn(peer_id, self._address_of(peer_id), message.n_prompt_bytes, trio.Event().set)
        decision = desk.decide(turn, ask) if desk is not None else Refuse(RefuseReason.MODEL_UNKNOWN)
        if isinstance(decision, Refuse):
            await talk.send(decision.message())
        else:
            await talk.send(Quote(b"", decision.message().queue_ms, QUOTE_VALID_MS))

    async def _answer(self, talk: Conversation, peer_id: PeerId, request: Request) -> Abort | None:
        try:
            header = decode_header(request.header)
        except EnvelopeError:
            return Abort(AbortCode.ENVELOPE)
        desk = self._desk(header.model_digest)
        if desk is None:
            return await self._refuse(talk, Refuse(RefuseReason.MODEL_UNKNOWN))
        ask = Ask(len(request.sealed), request.max_output_tokens, request.resume_from)
        called = trio.Event()
        turn = Turn(peer_id, self._address_of(peer_id), ask.n_sealed_bytes, called.set)
        decision = desk.decide(turn, ask)
        if isinstance(decision, Refuse):
            return await self._refuse(talk, decision)
        desk.enter(turn)
        try:
            await talk.send(decision.message())
            return await self._work(talk, desk, _Held(request, ask, turn, called))
        finally:
            desk.leave(turn)

    async def _refuse(self, talk: Conversation, refuse: Refuse) -> Abort | None:
        self._count_refusal(refuse)
        await talk.send(refuse.message())
        await _see_out(talk)
        return None

    def _count_refusal(self, refuse: Refuse) -> None:
        self.served.outcomes[f"refused_{refuse.reason.name.lower()}"] += 1

    def _desk(self, digest: bytes) -> Desk | None:
        return next((desk for desk in self._desks if desk.engine.status().digest == digest), None)

    # --- the work --------------------------------------------------------------------------------------------

    async def _work(self, talk: Conversation, desk: Desk, held: _Held) -> Abort | None:
        """Run the engine while watching the entry: its end or a time-out drops the answer at once, a Cancel ends it.

        Errors are carried out of the nursery by hand, because it would wrap them in a group that nobody catches.

        Raises:
            RemoteProtocolError, StreamBrokenError, PeerTimeoutError: The entry's fault.
            LocalProtocolError: The engine's: it said what the protocol does not allow.
        """
        last: Abort | None = Abort(AbortCode.INTERNAL)
        is_done = False
        faults: list[PeerError | LocalProtocolError] = []
        watch = _Watch(talk, faults)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, nursery.cancel_scope)
            nursery.start_soon(self._prove_life, talk, desk, held, watch, nursery.cancel_scope)
            try:
                last = await self._pass_on(talk, desk, held, watch)
                is_done = True
                if last is None and not talk.exchange.is_over:
                    await watch.has_ended.wait()  # the entry has closed its half, or had time to
            except (PeerError, LocalProtocolError) as fault:
                faults.append(fault)
            nursery.cancel_scope.cancel()
        if faults:
            raise faults[0]
        if not is_done:
            self.served.outcomes["cancelled"] += 1
            return await _part(talk)
        return last

    async def _pass_on(self, talk: Conversation, desk: Desk, held: _Held, watch: _Watch) -> Abort | None:
        try:
            await held.turn_comes(desk)
            async with desk.engine.submit(held.for_engine(desk), partial(desk.free, held.turn)) as watch.answer:
                async for event in watch.answer:
                    is_cancelled = talk.exchange.state is State.STOPPING
                    await talk.send(_message(event))
                    if isinstance(event, EngineFinished):
                        self._note(event, "cancelled" if is_cancelled else "finished")
                        desk.answered(held.turn)
        except RefusedError as refused:
            refuse = Refuse(RefuseReason(refused.reason), refused.retry_after_s or 0.0)
            self._count_refusal(refuse)
            if not talk.exchange.may_send(Refused):
                return Abort(AbortCode.INTERNAL)
            await talk.send(refuse.message())
        except EnvelopeError:
            self.served.outcomes["envelope"] += 1
            return Abort(AbortCode.ENVELOPE)
        except EngineError:
            self.served.outcomes["engine"] += 1
            return Abort(AbortCode.ENGINE_DIED)
        return None

    def _note(self, event: EngineFinished, outcome: str) -> None:
        self.served.n_finished += 1
        self.served.outcomes[outcome] += 1
        self.served.n_prompt_tokens += event.n_prompt_tokens
        self.served.n_output_tokens += event.n_output_tokens

    async def _prove_life(
        self, talk: Conversation, desk: Desk, held: _Held, watch: _Watch, work: trio.CancelScope
    ) -> None:
        """Send life signs, and end the work for an entry that takes no message.   [EX-20] [EX-28]"""
        pause_s = FIRST_LIFE_SIGN_S
        while True:
            await trio.sleep(pause_s)
            pause_s = LIFE_SIGN_S
            silent_s = self._clock.now() - talk.sent_at
            if talk.is_sending:
                if silent_s >= SEND_STALL_S:
                    break
                pause_s = min(LIFE_SIGN_S, SEND_STALL_S - silent_s)
            elif talk.exchange.may_send(Waiting) and silent_s >= FIRST_LIFE_SIGN_S:
                place = desk.place(held.turn, held.ask).message()
                with trio.move_on_after(SEND_STALL_S) as limit:
                    with contextlib.suppress(StreamBrokenError, LocalProtocolError):  # it may have ended meanwhile
                        await talk.send(Waiting(place.position, place.queue_ms))
                if limit.cancelled_caught:
                    break
        watch.faults.append(PeerTimeoutError("the entry does not read its answer"))
        work.cancel()


class _Held:
    """An accepted request: ciphertext, kept here until the engine has a slot for it. Owner: `Provider._answer`."""

    def __init__(self, request: Request, ask: Ask, turn: Turn, called: trio.Event) -> None:
        self.ask = ask
        self.turn = turn
        self._request = request
        self._called = called

    async def turn_comes(self, desk: Desk) -> None:
        """Wait for a slot.

        Raises:
            RefusedError: BUSY: none came free in time.   [EX-37]
        """
        if not self.turn.has_slot:
            with trio.move_on_after(MAX_HELD_S):
                await self._called.wait()
        if not self.turn.has_slot:
            raise RefusedError(
                "no slot came free", reason=RefuseReason.BUSY, retry_after_s=desk.place(self.turn, self.ask).queue_s
            )

    def for_engine(self, desk: Desk) -> EngineRequest:
        """As it is handed over."""
        request, turn = self._request, self.turn
        return EngineRequest(
            request.header,
            request.sealed,
            request.max_output_tokens,
            request.resume_from,
            hash(turn.address),  # salted anew in every process: says who is the same, and not who
            desk.turns.most_of(turn),
        )


class _Watch:
    """Reads what the entry says while its answer runs. Owner: `Provider._work`."""

    def __init__(self, talk: Conversation, faults: list[PeerError | LocalProtocolError]) -> None:
        self.answer: EngineAnswer | None = None
        """Set once the engine has the request, hence before the entry hears of a start."""
        self.has_ended = trio.Event()
        """Nothing more is to come from an entry whose answer is out, or on its way out."""
        self._talk = talk
        self.faults = faults

    async def run(self, work: trio.CancelScope) -> None:
        """Stop the engine at a Cancel; at anything else but a voucher end the work, but for a last frame on its way."""
        try:
            while not self._talk.exchange.is_over and await self._goes_on():
                pass
        except RemoteProtocolError as fault:
            self.faults.append(fault)
        if self._talk.exchange.state is State.FINISHED:
            self.has_ended.set()
        else:
            work.cancel()

    async def _goes_on(self) -> bool:
        event = await self._talk.next_event()
        match event, self._talk.exchange.state:
            case VoucherReceived(), _:
                return True
            case RequestCancelled(), State.STOPPING if self.answer is not None:
                self.answer.cancel()
                return True
            case RequestCancelled(), State.FINISHED:
                return True
            case PeerClosed(), State.STOPPING:
                await trio.sleep(CANCEL_TIMEOUT_S)  # it reads on, but will say nothing more
        return False


async def _part(talk: Conversation) -> Abort | None:
    """The work was broken off: close where the engine had not begun; where its end did not come in time say so."""
    if talk.exchange.state is not State.CANCELLING:
        return Abort(AbortCode.TIMEOUT)
    await talk.finish()
    return None


async def _see_out(talk: Conversation) -> None:
    while not talk.exchange.is_over and isinstance(await talk.next_event(), VoucherReceived):
        pass


def _message(event: EngineEvent) -> Started | Chunk | Finished:
    match event:
        case EngineStarted():
            return Started(event.response_key, event.n_prompt_tokens)
        case EngineChunk():
            return Chunk(event.frame, event.n_tokens)
        case EngineFinished():
            return Finished(event.frame, event.receipt)
