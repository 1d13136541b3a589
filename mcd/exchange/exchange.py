"""Exchange: one request between two peers, either role, as a machine of bytes, events and the time.

It owns no stream and no clock. The shell around it reads::

    exchange = Exchange(Role.ENTRY, clock.now())
    await stream.send(exchange.send(request, clock.now()))
    while not exchange.is_over:
        event = exchange.next_event()
        if event is NEED_DATA:
            ... receive until exchange.deadline(), then exchange.receive_data(data, now)
            ... or, at the deadline, await stream.send(exchange.handle_timeout(now))

What may follow what is `mcd.exchange.states`; this file adds the counts that a table of types cannot hold (tokens,
frames, life signs) and keeps them alike on both sides by applying the same rules to what is sent and received.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.exchange.events import EVENT_OF, NEED_DATA, Event, NeedData, PeerClosed, TimedOut
from mcd.exchange.states import (
    ABSORBING,
    MIN_UPLOAD_BYTES_PER_S,
    PATIENCE_FACTOR,
    TERMINAL,
    TIMERS_IN,
    TRANSITIONS,
    Closed,
    Role,
    State,
    Timer,
    TimerRule,
)
from mcd.units import Seconds
from mcd.wire.codec import decode_exchange, encode_exchange
from mcd.wire.framing import FrameReader, frame
from mcd.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_OUTPUT_TOKENS,
    MAX_REQUEST_FRAME_BYTES,
    Abort,
    Accepted,
    Chunk,
    ExchangeMessage,
    Request,
    Started,
    Waiting,
)

MAX_PROVIDER_FRAMES = 1_048_576
"""Messages a provider may send: one for each token of the longest answer."""
MAX_ENTRY_FRAMES = 65_536
"""Messages an entry may send: a voucher for every 16 tokens of the longest answer."""
MAX_WAITING_BURST = 16
"""Life signs beyond one a second that a receiver bears: what a stalled connection may deliver at once."""

_MAX_FRAMES: Final = {Role.ENTRY: MAX_ENTRY_FRAMES, Role.PROVIDER: MAX_PROVIDER_FRAMES}


class Tally:
    """The counts that both sides keep alike. Owner: its Exchange."""

    def __init__(self) -> None:
        self.n_tokens = 0
        """Output tokens delivered in this exchange; what an earlier provider delivered is not in it."""
        self.n_chunks = 0
        self.n_frames = {Role.ENTRY: 0, Role.PROVIDER: 0}
        self.n_waiting = 0
        self.resume_from = 0
        self.token_limit = MAX_OUTPUT_TOKENS
        self.requested_at: Seconds | None = None

    def fault(self, sender: Role, message: ExchangeMessage, now: Seconds) -> str | None:
        """Why the table's next step is still not allowed, in words without content; None when it is."""
        if self.n_frames[sender] >= _MAX_FRAMES[sender] and not isinstance(message, Abort):
            return f"more than {_MAX_FRAMES[sender]} messages"
        match message:
            case Request() if message.resume_from >= (message.max_output_tokens or MAX_OUTPUT_TOKENS):
                return "a request resumes at or behind its own output limit"
            case Chunk() if self.resume_from + self.n_tokens + message.n_tokens > self.token_limit:
                return "a chunk delivers more output tokens than were asked for"
            case Waiting() if self.n_waiting >= MAX_WAITING_BURST + self._elapsed_s(now):
                return "life signs come faster than one a second"
            case _:
                return None

    def count(self, sender: Role, message: ExchangeMessage, now: Seconds) -> None:
        """Take note of a message that was sent or received."""
        self.n_frames[sender] += 1
        match message:
            case Request():
                self.resume_from = message.resume_from
                self.token_limit = message.max_output_tokens or MAX_OUTPUT_TOKENS
                self.requested_at = now
            case Chunk():
                self.n_chunks += 1
                self.n_tokens += message.n_tokens
            case Waiting():
                self.n_waiting += 1
            case _:
                pass

    def _elapsed_s(self, now: Seconds) -> Seconds:
        return now - self.requested_at if self.requested_at is not None else 0.0


class Exchange:
    """One request and its answer between two peers. Owner: the shell that owns the stream.

    Whatever is called in whatever order, the only exceptions are LocalProtocolError (ours, nothing changed) and
    RemoteProtocolError (theirs, the exchange is BROKEN).
    """

    def __init__(self, role: Role, now: Seconds) -> None:
        self.role: Final = role
        self._peer: Final = role.other
        self._state = State.IDLE
        self._tally = Tally()
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._events: deque[TimedOut] = deque()
        self._fault: str | None = None
        self._is_closed = {Role.ENTRY: False, Role.PROVIDER: False}
        self._eof = False
        self._has_lingered = False
        self._upload_s: Seconds = 0.0
        self._promised_s: Seconds = 0.0
        self._now = now
        self._entered_at = now
        self._heard_at = now
        self._output_at = now
        self._n_results = 0

    # --- what the shell may look at --------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the exchange stands."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Nothing is left to do but to let go of the stream.

        A provider is over only when the entry has closed its half (or the linger time has passed): until then a last
        voucher may come.
        """
        if self._state in ABSORBING:
            return True
        if self._state not in TERMINAL:
            return False
        return self.role is Role.ENTRY or self._is_closed[Role.ENTRY] or self._has_lingered

    @property
    def n_tokens(self) -> int:
        """Output tokens that this exchange delivered."""
        return self._tally.n_tokens

    @property
    def n_chunks(self) -> int:
        """Chunks that this exchange delivered."""
        return self._tally.n_chunks

    def may_send(self, message_type: type[ExchangeMessage]) -> bool:
        """Whether the table lets us send a message of this type now."""
        is_open = not self._is_closed[self.role]
        return is_open and (self._state, self.role, message_type) in TRANSITIONS

    # --- towards the peer ------------------------------------------------------------------------------------

    def send(self, message: ExchangeMessage, now: Seconds) -> bytes:
        """Take note of a message of ours and return its frame, to be sent whole and in order.

        Raises:
            LocalProtocolError: Not allowed now, or out of its bounds; nothing has changed.   [EX-02]
        """
        if not self.may_send(type(message)):
            raise LocalProtocolError(f"{self.role.value} may not send {type(message).__name__} in {self._state.name}")
        fault = self._tally.fault(self.role, message, now)
        if fault is not None:
            raise LocalProtocolError(f"refusing to send {type(message).__name__}: {fault}")
        body = encode_exchange(message)
        if len(body) > (MAX_REQUEST_FRAME_BYTES if isinstance(message, Request) else MAX_FRAME_BYTES):
            raise LocalProtocolError(f"{type(message).__name__} of {len(body)} bytes exceeds its frame limit")
        data = frame(body)
        if isinstance(message, Request):
            self._upload_s = len(data) / MIN_UPLOAD_BYTES_PER_S
            self._output_at = now + self._upload_s
        self._tally.count(self.role, message, now)
        self._enter(TRANSITIONS[self._state, self.role, type(message)], now)
        return data

    def close(self, now: Seconds) -> None:
        """Take note that we end our half. The shell then closes the stream's half.

        Raises:
            LocalProtocolError: The exchange is not at a point where we may: send Cancel or Abort first.
        """
        if self._is_closed[self.role]:
            return
        after = self._state if self._state in ABSORBING else TRANSITIONS.get((self._state, self.role, Closed))
        if after is None:
            raise LocalProtocolError(f"{self.role.value} may not close in {self._state.name}")
        self._is_closed[self.role] = True
        self._enter(after, now)

    # --- from the peer ---------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: Seconds) -> None:
        """Take in received bytes; ``b""`` means that the peer closed its half or the stream broke.

        Never raises; `next_event` judges. Drain it after each call, so that no more than one read is held.
        """
        self._now = max(self._now, now)
        if self._eof or self._state in ABSORBING:
            self._eof = self._eof or not data
        elif data:
            self._reader.feed(data)
        else:
            self._eof = True

    def next_event(self) -> Event | Literal[NeedData.NEED_DATA]:
        """The next thing that happened, or NEED_DATA.

        Raises:
            RemoteProtocolError: The peer broke the protocol. The exchange is BROKEN and every later call raises the
                same: reset the stream.   [EX-03]
        """
        if self._events:
            return self._events.popleft()
        if self._fault is not None:
            raise RemoteProtocolError(self._fault)
        if self._state not in ABSORBING:
            try:
                body = self._next_frame()
                if body is not None:
                    return self._receive(body)
            except RemoteProtocolError as error:
                self._fault = error.message
                self._enter(State.BROKEN, self._now)
                raise
        return self._peer_closed() if self._eof else NEED_DATA

    # --- time ------------------------------------------------------------------------------------------------

    def promised(self, wait_s: Seconds) -> None:
        """Bear with a wait for output that the provider promised, besides what it says in `Accepted`.   [EX-55]"""
        self._promised_s += wait_s

    def results_came(self, n_results: int, now: Seconds) -> None:
        """Take note of how many results of a task have come; only who opens the chunks can count them."""
        if n_results > self._n_results:
            self._n_results, self._output_at = n_results, now

    def deadline(self) -> Seconds | None:
        """The instant at which to call `handle_timeout`, if nothing happens before; None when nothing can run out."""
        rule = self._next_timer()
        return None if rule is None else self._expires_at(rule)

    def handle_timeout(self, now: Seconds) -> bytes:
        """Let timers expire: queues TimedOut and returns the Abort to send, if one is due and may still be sent."""
        rule = self._next_timer()
        if rule is None or now < self._expires_at(rule):
            return b""
        self._events.append(TimedOut(rule.timer))
        if rule.timer is Timer.LINGER:
            self._has_lingered = True
            return b""
        if self.may_send(Abort):
            return self.send(Abort(rule.code), now)
        self._enter(State.ABORTED, now)
        return b""

    # --- inside ----------------------------------------------------------------------------------------------

    def _next_frame(self) -> bytes | None:
        awaits_request = self.role is Role.PROVIDER and self._state in {State.IDLE, State.QUOTED}
        self._reader.max_bytes = MAX_REQUEST_FRAME_BYTES if awaits_request else MAX_FRAME_BYTES
        return self._reader.next_frame()

    def _receive(self, body: bytes) -> Event:
        message = decode_exchange(body)
        sender, kind = self._peer, type(message)
        after = TRANSITIONS.get((self._state, sender, kind))
        if after is None:
            raise RemoteProtocolError(f"{sender.value} sent {kind.__name__} in {self._state.name}")
        if len(body) > MAX_FRAME_BYTES and kind is not Request:
            raise RemoteProtocolError(f"{sender.value} sent {kind.__name__} over its frame limit")
        fault = self._tally.fault(sender, message, self._now)
        if fault is not None:
            raise RemoteProtocolError(f"{sender.value} broke a count: {fault}")
        self._heard_at = self._now
        self._tally.count(sender, message, self._now)
        self._enter(after, self._now)
        match message:
            case Accepted():
                self._promised_s += message.queue_ms / 1000
            case Started():
                self._output_at = self._now
            case Chunk() if message.n_tokens:
                self._output_at = self._now
            case _:
                pass
        return EVENT_OF[kind](message)  # type: ignore[arg-type]  # EVENT_OF pairs them

    def _enter(self, state: State, now: Seconds) -> None:
        if state is not self._state:
            self._state = state
            self._entered_at = now

    def _peer_closed(self) -> PeerClosed:
        peer = self._peer
        if not self._is_closed[peer]:
            self._is_closed[peer] = True
            if self._state not in ABSORBING:
                self._enter(TRANSITIONS.get((self._state, peer, Closed), State.BROKEN), self._now)
        return PeerClosed(is_truncated=self._state is State.BROKEN)

    def _next_timer(self) -> TimerRule | None:
        due = TIMERS_IN[self.role, self._state]
        if self.is_over or not due:
            return None
        return min(due, key=self._expires_at)

    def _expires_at(self, rule: TimerRule) -> Seconds:
        match rule.since:
            case "entered":
                since = self._entered_at
            case "heard":
                since = max(self._heard_at, self._entered_at)
            case "output":
                since = self._output_at + self._promised_s * PATIENCE_FACTOR
            case "requested":
                asked_at = self._tally.requested_at
                since = self._upload_s + (self._entered_at if asked_at is None else asked_at)
        return since + rule.limit_s
