"""The exchange: its table as a whole, then one story after another with two real ends wired in memory."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.exchange import events
from mcd.exchange.events import EVENT_OF, NEED_DATA, PeerClosed, TimedOut
from mcd.exchange.exchange import MAX_ENTRY_FRAMES, MAX_PROVIDER_FRAMES, MAX_WAITING_BURST, Exchange
from mcd.exchange.states import (
    ABSORBING,
    ACCEPT_TIMEOUT_S,
    CANCEL_TIMEOUT_S,
    CREDIT_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    LINGER_TIMEOUT_S,
    MIN_PATIENCE_S,
    MIN_UPLOAD_BYTES_PER_S,
    PATIENCE_FACTOR,
    PAUSE_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    START_TIMEOUT_S,
    TERMINAL,
    TIMERS,
    TOTAL_TIMEOUT_S,
    TRANSITIONS,
    Closed,
    Role,
    State,
    Step,
    Timer,
)
from mcd.wire.codec import decode_exchange, encode_exchange
from mcd.wire.framing import frame
from mcd.wire.messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_OUTPUT_TOKENS,
    MAX_REQUEST_FRAME_BYTES,
    Abort,
    AbortCode,
    Accepted,
    Cancel,
    Chunk,
    ExchangeMessage,
    Finished,
    Paused,
    Quote,
    QuoteRequest,
    Refused,
    RefuseReason,
    Request,
    Started,
    Voucher,
    Waiting,
)

ENTRY, PROVIDER = Role.ENTRY, Role.PROVIDER
REQUEST = Request(b"h" * HEADER_BYTES, b"sealed", max_output_tokens=10)
STARTED = Started(b"y" * 32, n_prompt_tokens=3)
CHUNK = Chunk(b"frame", n_tokens=1)
FINISHED = Finished(b"final", b"receipt")


class Pair:
    """Both ends of one exchange; what is sent waits on the wire until `deliver`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends = {role: Exchange(role, self.now) for role in Role}
        self.wire: dict[Role, list[bytes]] = {ENTRY: [], PROVIDER: []}

    @property
    def entry(self) -> Exchange:
        return self.ends[ENTRY]

    @property
    def provider(self) -> Exchange:
        return self.ends[PROVIDER]

    def send(self, sender: Role, *messages: ExchangeMessage) -> None:
        for message in messages:
            self.wire[sender].append(self.ends[sender].send(message, self.now))

    def close(self, sender: Role) -> None:
        self.ends[sender].close(self.now)
        self.wire[sender].append(b"")

    def deliver(self, sender: Role) -> list[events.Event]:
        """Carry everything that ``sender`` put on the wire; returns the events at the other end."""
        receiver, seen = self.ends[sender.other], []
        for data in self.wire[sender]:
            receiver.receive_data(data, self.now)
            seen += drain(receiver)
        self.wire[sender].clear()
        return seen

    def say(self, sender: Role, *messages: ExchangeMessage) -> list[events.Event]:
        self.send(sender, *messages)
        return self.deliver(sender)

    def states(self) -> tuple[State, State]:
        return self.entry.state, self.provider.state


def drain(exchange: Exchange) -> list[events.Event]:
    seen: list[events.Event] = []
    while (event := exchange.next_event()) is not NEED_DATA:
        if isinstance(event, PeerClosed) and seen[-1:] == [event]:
            break  # it comes again for ever
        seen.append(event)
        if isinstance(event, PeerClosed):
            break
    return seen


def pair_in(state: State) -> Pair:
    """Two ends that agree on a state, the shortest way."""
    pair = Pair()
    for sender, message in {
        State.IDLE: [],
        State.QUOTING: [(ENTRY, QuoteRequest(b"d" * 32, 10, 10))],
        State.QUOTED: [(ENTRY, QuoteRequest(b"d" * 32, 10, 10)), (PROVIDER, Quote(b"", 0, 5000))],
        State.REQUESTED: [(ENTRY, REQUEST)],
        State.QUEUED: [(ENTRY, REQUEST), (PROVIDER, Accepted(0, 0))],
        State.STREAMING: [(ENTRY, REQUEST), (PROVIDER, Accepted(0, 0)), (PROVIDER, STARTED)],
        State.PAUSED: [(ENTRY, REQUEST), (PROVIDER, Accepted(0, 0)), (PROVIDER, STARTED), (PROVIDER, Paused(9))],
        State.CANCELLING: [(ENTRY, REQUEST), (ENTRY, Cancel())],
        State.STOPPING: [(ENTRY, REQUEST), (PROVIDER, Accepted(0, 0)), (PROVIDER, STARTED), (ENTRY, Cancel())],
        State.FINISHED: [(ENTRY, REQUEST), (PROVIDER, Accepted(0, 0)), (PROVIDER, STARTED), (PROVIDER, FINISHED)],
        State.REFUSED: [(ENTRY, REQUEST), (PROVIDER, Refused(1, 0))],
        State.ABORTED: [(ENTRY, REQUEST), (PROVIDER, Abort(1))],
    }[state]:
        pair.say(sender, message)
    assert pair.states() == (state, state)
    return pair


SAMPLES: tuple[ExchangeMessage, ...] = (
    REQUEST,
    Accepted(0, 0),
    Refused(1, 500),
    STARTED,
    CHUNK,
    FINISHED,
    Waiting(0, 100),
    Voucher(b"v"),
    Paused(5),
    Cancel(),
    Abort(1),
    QuoteRequest(b"d" * 32, 1, 1),
    Quote(b"", 0, 1),
)
REACHABLE = [state for state in State if state not in {State.BROKEN, State.CANCELLED}]


# --- the table -----------------------------------------------------------------------------------------------


def after(state: State, sender: Role, step: Step) -> State | None:
    return state if state in ABSORBING else TRANSITIONS.get((state, sender, step))


def steps_of(state: State, sender: Role) -> list[Step]:
    return [step for at, who, step in TRANSITIONS if at is state and who is sender]


@pytest.mark.spec("EX-04")
@pytest.mark.parametrize("state", [state for state in State if state not in ABSORBING])
def test_crossing_messages_commute(state: State) -> None:
    for mine, theirs in itertools.product(steps_of(state, ENTRY), steps_of(state, PROVIDER)):
        one_way = after(TRANSITIONS[state, ENTRY, mine], PROVIDER, theirs)
        other_way = after(TRANSITIONS[state, PROVIDER, theirs], ENTRY, mine)
        assert one_way is not None, f"{theirs.__name__} is lost after {mine.__name__}"
        assert one_way is other_way, f"{mine.__name__} and {theirs.__name__} cross differently"


def test_every_state_is_reached_and_can_end() -> None:
    edges: dict[State, set[State]] = {state: set() for state in State}
    for (state, _, _), target in TRANSITIONS.items():
        edges[state].add(target)
    reached, front = {State.IDLE}, [State.IDLE]
    while front:
        for target in edges[front.pop()] - reached:
            reached.add(target)
            front.append(target)
    assert reached == set(State) - {State.BROKEN}
    for state in set(State) - TERMINAL:
        assert State.ABORTED in edges[state]
    assert all(edges[state] <= TERMINAL for state in TERMINAL)


def test_every_message_has_a_sender_and_an_event() -> None:
    moved = {step for _, _, step in TRANSITIONS if step is not Closed}
    assert moved == set(EVENT_OF) == {type(sample) for sample in SAMPLES}
    assert len(set(EVENT_OF.values())) == len(EVENT_OF)


def test_only_the_provider_finishes_and_only_the_entry_asks() -> None:
    for _, sender, step in TRANSITIONS:
        if step in {Request, QuoteRequest, Voucher, Cancel}:
            assert sender is ENTRY
        elif step not in {Abort, Closed}:
            assert sender is PROVIDER


def test_every_wait_for_the_other_side_has_a_timer() -> None:
    watched = {(rule.role, state) for rule in TIMERS for state in rule.states}
    waits = {(ENTRY, state) for state in set(State) - TERMINAL - {State.IDLE, State.QUOTED}} | {
        (PROVIDER, state) for state in (State.IDLE, State.QUOTED, State.PAUSED, State.FINISHED, State.REFUSED)
    }
    assert waits <= watched


# --- what may not be done ------------------------------------------------------------------------------------


@pytest.mark.spec("EX-01", "EX-02", "EX-23")
@pytest.mark.parametrize("state", REACHABLE)
@pytest.mark.parametrize("sender", list(Role))
def test_sending_out_of_place_is_our_error_and_changes_nothing(state: State, sender: Role) -> None:
    for message in SAMPLES:
        end = pair_in(state).ends[sender]
        before = (end.state, end.deadline(), end.n_tokens, end.n_chunks, end.is_over)
        if (state, sender, type(message)) in TRANSITIONS:
            assert end.may_send(type(message))
            end.send(message, 1000.0)
            assert end.state is TRANSITIONS[state, sender, type(message)]
        else:
            assert not end.may_send(type(message))
            with pytest.raises(LocalProtocolError):
                end.send(message, 1000.0)
            assert (end.state, end.deadline(), end.n_tokens, end.n_chunks, end.is_over) == before


@pytest.mark.spec("EX-01", "EX-03", "EX-04", "EX-23")
@pytest.mark.parametrize("state", [state for state in REACHABLE if state not in ABSORBING])
@pytest.mark.parametrize("sender", list(Role))
def test_receiving_out_of_place_breaks_the_exchange_for_good(state: State, sender: Role) -> None:
    for message in SAMPLES:
        end = pair_in(state).ends[sender.other]
        end.receive_data(frame(encode_exchange(message)), 1000.0)
        if (state, sender, type(message)) in TRANSITIONS:
            assert end.next_event() == EVENT_OF[type(message)](message)  # type: ignore[arg-type]
            assert end.state is TRANSITIONS[state, sender, type(message)]
            continue
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                end.next_event()
        assert end.state is State.BROKEN
        assert end.is_over
        assert end.deadline() is None
        assert end.handle_timeout(9e9) == b""
        end.receive_data(frame(encode_exchange(CHUNK)), 1000.0)
        end.receive_data(b"", 1000.0)
        with pytest.raises(RemoteProtocolError):
            end.next_event()
        with pytest.raises(LocalProtocolError):
            end.send(Abort(1), 1000.0)
        end.close(1000.0)


@pytest.mark.spec("EX-05")
@pytest.mark.parametrize("state", [state for state in REACHABLE if state not in ABSORBING])
@pytest.mark.parametrize("sender", list(Role))
def test_a_half_that_ends_early_is_a_truncated_exchange(state: State, sender: Role) -> None:
    end = pair_in(state).ends[sender.other]
    end.receive_data(b"", 1000.0)
    expected = TRANSITIONS.get((state, sender, Closed))
    assert end.next_event() == PeerClosed(is_truncated=expected is None)
    assert end.state is (expected or State.BROKEN)
    assert end.next_event() == PeerClosed(is_truncated=expected is None)


def test_an_answer_cut_inside_a_frame_is_truncated() -> None:
    pair = pair_in(State.STREAMING)
    data = pair.provider.send(FINISHED, pair.now)
    pair.entry.receive_data(data[:-1], pair.now)
    pair.entry.receive_data(b"", pair.now)
    assert pair.entry.next_event() == PeerClosed(is_truncated=True)
    assert pair.entry.state is State.BROKEN


@pytest.mark.spec("EX-02")
@pytest.mark.parametrize("state", REACHABLE)
@pytest.mark.parametrize("sender", list(Role))
def test_closing_out_of_place_is_our_error(state: State, sender: Role) -> None:
    end = pair_in(state).ends[sender]
    if state in ABSORBING or (state, sender, Closed) in TRANSITIONS:
        end.close(1000.0)
        end.close(1000.0)
        assert not any(end.may_send(type(message)) for message in SAMPLES)
    else:
        with pytest.raises(LocalProtocolError):
            end.close(1000.0)
        assert end.state is state


@pytest.mark.spec("EX-06")
@pytest.mark.parametrize("sender", list(Role))
def test_nothing_follows_an_abort(sender: Role) -> None:
    pair = pair_in(State.STREAMING)
    assert pair.say(sender, Abort(AbortCode.INTERNAL)) == [events.PeerAborted(Abort(AbortCode.INTERNAL))]
    assert pair.states() == (State.ABORTED, State.ABORTED)
    for end in pair.ends.values():
        assert end.is_over
        assert end.deadline() is None
        for message in SAMPLES:
            with pytest.raises(LocalProtocolError):
                end.send(message, pair.now)
        end.receive_data(b"\xff" * 100 + frame(encode_exchange(CHUNK)), pair.now)
        assert end.next_event() is NEED_DATA
        assert not end._reader.n_buffered, "a flood behind an Abort is not kept"
        end.receive_data(b"", pair.now)
        assert end.next_event() == PeerClosed(is_truncated=False)


@pytest.mark.spec("EX-07")
@pytest.mark.parametrize("state", [state for state in REACHABLE if state not in ABSORBING])
@pytest.mark.parametrize("role", list(Role))
def test_the_frame_limit_follows_the_state(state: State, role: Role) -> None:
    awaits_request = role is PROVIDER and state in {State.IDLE, State.QUOTED}
    limit = MAX_REQUEST_FRAME_BYTES if awaits_request else MAX_FRAME_BYTES
    end = pair_in(state).ends[role]
    end.receive_data(limit.to_bytes(4, "big"), 1000.0)
    assert end.next_event() is NEED_DATA
    end = pair_in(state).ends[role]
    end.receive_data((limit + 1).to_bytes(4, "big"), 1000.0)
    with pytest.raises(RemoteProtocolError):
        end.next_event()


@pytest.mark.spec("EX-07")
def test_a_large_frame_is_taken_for_a_request_only() -> None:
    body = msgpack.packb([12, b"d" * 32, 1, 1, b"a later version's field" * 4000])
    assert len(body) > MAX_FRAME_BYTES
    assert decode_exchange(body) == QuoteRequest(b"d" * 32, 1, 1)
    pair = Pair()
    pair.provider.receive_data(frame(body), pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.provider.next_event()


@pytest.mark.spec("EX-08")
def test_neither_side_may_flood() -> None:
    pair = pair_in(State.PAUSED)
    pair.entry._tally.n_frames[ENTRY] = pair.provider._tally.n_frames[ENTRY] = MAX_ENTRY_FRAMES - 1
    pair.say(ENTRY, Voucher(b"last"))
    with pytest.raises(LocalProtocolError):
        pair.send(ENTRY, Voucher(b"one more"))
    pair.provider.receive_data(frame(encode_exchange(Voucher(b"one more"))), pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.provider.next_event()

    pair = pair_in(State.STREAMING)
    pair.entry._tally.n_frames[PROVIDER] = pair.provider._tally.n_frames[PROVIDER] = MAX_PROVIDER_FRAMES
    with pytest.raises(LocalProtocolError):
        pair.send(PROVIDER, CHUNK)
    assert pair.say(PROVIDER, Abort(1)) == [events.PeerAborted(Abort(1))]


@pytest.mark.spec("EX-09")
def test_reasons_and_codes_of_later_versions_are_taken() -> None:
    assert pair_in(State.REQUESTED).say(PROVIDER, Refused(200, 0)) == [events.RequestRefused(Refused(200, 0))]
    assert pair_in(State.QUEUED).say(PROVIDER, Abort(200)) == [events.PeerAborted(Abort(200))]
    assert 200 not in [*RefuseReason, *AbortCode]


# --- counts --------------------------------------------------------------------------------------------------


@pytest.mark.spec("EX-10")
@pytest.mark.parametrize(("limit", "resume_from"), [(10, 10), (10, 11), (0, MAX_OUTPUT_TOKENS)])
def test_a_request_may_not_resume_behind_its_own_limit(limit: int, resume_from: int) -> None:
    request = Request(b"h" * HEADER_BYTES, b"s", limit, resume_from)
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.send(ENTRY, request)
    assert pair.entry.state is State.IDLE
    pair.provider.receive_data(frame(encode_exchange(request)), pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.provider.next_event()


@pytest.mark.spec("EX-11", "EX-22")
def test_no_more_tokens_than_asked_for_counting_what_came_before() -> None:
    pair = Pair()
    pair.say(ENTRY, Request(b"h" * HEADER_BYTES, b"s", max_output_tokens=10, resume_from=6))
    pair.say(PROVIDER, Accepted(0, 0), STARTED, Chunk(b"f", 3), Chunk(b"f", 0))
    with pytest.raises(LocalProtocolError):
        pair.send(PROVIDER, Chunk(b"f", 2))
    pair.say(PROVIDER, Chunk(b"f", 1))
    assert (pair.entry.n_tokens, pair.provider.n_tokens) == (4, 4)
    assert (pair.entry.n_chunks, pair.provider.n_chunks) == (3, 3)
    pair.entry.receive_data(frame(encode_exchange(Chunk(b"f", 1))), pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.entry.next_event()
    assert pair.entry.n_tokens == 4


@pytest.mark.spec("EX-21")
def test_life_signs_come_no_faster_than_one_a_second() -> None:
    pair = pair_in(State.QUEUED)
    for _ in range(MAX_WAITING_BURST):
        assert pair.say(PROVIDER, Waiting(0, 0)) == [events.WaitReported(Waiting(0, 0))]
    with pytest.raises(LocalProtocolError):
        pair.send(PROVIDER, Waiting(0, 0))
    pair.now += 1.0
    pair.say(PROVIDER, Waiting(0, 0))
    pair.entry.receive_data(frame(encode_exchange(Waiting(0, 0))), pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.entry.next_event()


@pytest.mark.spec("EX-02")
def test_a_message_out_of_its_bounds_never_leaves() -> None:
    pair = pair_in(State.STREAMING)
    for message in (Chunk(b"", 0), Chunk(b"f", -1), Finished(b"f" * (MAX_FRAME_BYTES + 1), b"")):
        with pytest.raises(LocalProtocolError):
            pair.send(PROVIDER, message)
    assert pair.provider.state is State.STREAMING
    assert pair.provider.n_chunks == 0


# --- stories -------------------------------------------------------------------------------------------------


@pytest.mark.spec("EX-04", "EX-23")
def test_a_whole_answer() -> None:
    pair = Pair()
    assert pair.say(ENTRY, REQUEST) == [events.RequestReceived(REQUEST)]
    assert pair.say(PROVIDER, Accepted(2, 800), Waiting(1, 400), STARTED) == [
        events.RequestAccepted(Accepted(2, 800)),
        events.WaitReported(Waiting(1, 400)),
        events.AnswerStarted(STARTED),
    ]
    assert pair.say(PROVIDER, CHUNK, CHUNK, FINISHED) == [
        events.ChunkReceived(CHUNK),
        events.ChunkReceived(CHUNK),
        events.AnswerFinished(FINISHED),
    ]
    assert pair.entry.is_over
    assert not pair.provider.is_over, "a last voucher may still come"
    pair.close(ENTRY)
    assert pair.deliver(ENTRY) == [PeerClosed(is_truncated=False)]
    assert pair.provider.is_over
    pair.close(PROVIDER)
    assert pair.deliver(PROVIDER) == [PeerClosed(is_truncated=False)]
    assert pair.states() == (State.FINISHED, State.FINISHED)
    assert (pair.entry.n_tokens, pair.provider.n_tokens) == (2, 2)


def test_bytes_may_come_one_by_one() -> None:
    pair = Pair()
    *pieces, last = [bytes([byte]) for byte in pair.entry.send(REQUEST, pair.now)]
    for piece in pieces:
        pair.provider.receive_data(piece, pair.now)
        assert pair.provider.next_event() is NEED_DATA
    pair.provider.receive_data(last, pair.now)
    assert pair.provider.next_event() == events.RequestReceived(REQUEST)


def test_a_quote_comes_first() -> None:
    pair = Pair()
    asked = QuoteRequest(b"d" * 32, n_prompt_bytes=100, max_output_tokens=10)
    assert pair.say(ENTRY, asked) == [events.QuoteRequested(asked)]
    quote = Quote(b"signed price", queue_ms=50, valid_ms=5000)
    assert pair.say(PROVIDER, quote) == [events.QuoteReceived(quote)]
    paid = Request(b"h" * HEADER_BYTES, b"s", 10, quote=b"signed price", voucher=b"promise")
    assert pair.say(ENTRY, paid) == [events.RequestReceived(paid)]
    assert pair.states() == (State.REQUESTED, State.REQUESTED)


@pytest.mark.spec("EX-31")
def test_a_pause_ends_with_the_next_chunk_not_with_the_voucher() -> None:
    pair = pair_in(State.STREAMING)
    assert pair.say(PROVIDER, Paused(1000)) == [events.CreditPaused(Paused(1000))]
    assert pair.say(ENTRY, Voucher(b"too little")) == [events.VoucherReceived(Voucher(b"too little"))]
    assert pair.states() == (State.PAUSED, State.PAUSED)
    pair.say(PROVIDER, Paused(1000))
    pair.say(ENTRY, Voucher(b"enough"))
    assert pair.states() == (State.PAUSED, State.PAUSED)
    pair.say(PROVIDER, CHUNK)
    assert pair.states() == (State.STREAMING, State.STREAMING)


@pytest.mark.spec("EX-04")
def test_a_voucher_and_a_pause_cross() -> None:
    pair = pair_in(State.STREAMING)
    pair.send(ENTRY, Voucher(b"v"))
    pair.send(PROVIDER, Paused(5))
    pair.deliver(ENTRY)
    pair.deliver(PROVIDER)
    assert pair.states() == (State.PAUSED, State.PAUSED)


@pytest.mark.spec("EX-04")
def test_cancel_meets_finished_half_way() -> None:
    pair = pair_in(State.STREAMING)
    pair.send(ENTRY, Cancel())
    pair.send(PROVIDER, CHUNK, FINISHED)
    assert pair.deliver(ENTRY) == [events.RequestCancelled(Cancel())]
    assert pair.deliver(PROVIDER) == [events.ChunkReceived(CHUNK), events.AnswerFinished(FINISHED)]
    assert pair.states() == (State.FINISHED, State.FINISHED)


@pytest.mark.spec("EX-27")
def test_cancelling_a_running_answer_still_accounts_for_it() -> None:
    pair = pair_in(State.STREAMING)
    pair.say(PROVIDER, CHUNK)
    pair.say(ENTRY, Cancel())
    assert pair.states() == (State.STOPPING, State.STOPPING)
    with pytest.raises(LocalProtocolError):
        pair.provider.close(pair.now)
    pair.say(PROVIDER, FINISHED)
    assert pair.states() == (State.FINISHED, State.FINISHED)
    pair.say(ENTRY, Voucher(b"for what was delivered"))
    assert pair.states() == (State.FINISHED, State.FINISHED)


@pytest.mark.spec("EX-27")
def test_cancelling_before_the_start_owes_nothing() -> None:
    pair = pair_in(State.QUEUED)
    pair.say(ENTRY, Cancel())
    pair.close(ENTRY)
    assert pair.deliver(ENTRY) == [PeerClosed(is_truncated=False)]
    pair.close(PROVIDER)
    assert pair.deliver(PROVIDER) == [PeerClosed(is_truncated=False)]
    assert pair.states() == (State.CANCELLED, State.CANCELLED)


@pytest.mark.spec("EX-04")
def test_a_cancel_that_crosses_the_start_is_still_accounted_for() -> None:
    pair = pair_in(State.QUEUED)
    pair.send(ENTRY, Cancel())
    pair.send(PROVIDER, STARTED)
    pair.deliver(PROVIDER)
    pair.deliver(ENTRY)
    assert pair.states() == (State.STOPPING, State.STOPPING)


# --- time ----------------------------------------------------------------------------------------------------


def expire(end: Exchange, at_s: float) -> bytes:
    """Let the end's next timer run out, which must be at ``at_s`` and not before."""
    assert end.deadline() == pytest.approx(at_s)
    assert end.handle_timeout(at_s - 0.001) == b""
    assert drain(end) == []
    return end.handle_timeout(at_s)


@pytest.mark.spec("EX-50")
@pytest.mark.parametrize(
    ("role", "state", "timer", "limit_s", "code"),
    [
        (PROVIDER, State.IDLE, Timer.REQUEST, REQUEST_TIMEOUT_S, AbortCode.TIMEOUT),
        (PROVIDER, State.QUOTED, Timer.HOLD, 150.0, AbortCode.TIMEOUT),
        (PROVIDER, State.PAUSED, Timer.CREDIT, CREDIT_TIMEOUT_S, AbortCode.CREDIT_TIMEOUT),
        (PROVIDER, State.STOPPING, Timer.CANCEL, CANCEL_TIMEOUT_S, AbortCode.TIMEOUT),
        (PROVIDER, State.STREAMING, Timer.TOTAL, TOTAL_TIMEOUT_S, AbortCode.TIMEOUT),
        (ENTRY, State.QUOTING, Timer.QUOTE, 5.0, AbortCode.TIMEOUT),
        (ENTRY, State.STREAMING, Timer.IDLE, IDLE_TIMEOUT_S, AbortCode.TIMEOUT),
        (ENTRY, State.PAUSED, Timer.PAUSE, PAUSE_TIMEOUT_S, AbortCode.TIMEOUT),
        (ENTRY, State.CANCELLING, Timer.CANCEL, CANCEL_TIMEOUT_S, AbortCode.TIMEOUT),
        (ENTRY, State.STOPPING, Timer.CANCEL, CANCEL_TIMEOUT_S, AbortCode.TIMEOUT),
    ],
)
def test_a_timer_that_runs_out_aborts_both_ends(
    role: Role, state: State, timer: Timer, limit_s: float, code: AbortCode
) -> None:
    pair = pair_in(state)
    data = expire(pair.ends[role], pair.now + limit_s)
    assert data == frame(encode_exchange(Abort(code)))
    assert drain(pair.ends[role]) == [TimedOut(timer)]
    assert pair.ends[role].state is State.ABORTED
    pair.ends[role.other].receive_data(data, pair.now + limit_s)
    assert drain(pair.ends[role.other]) == [events.PeerAborted(Abort(code))]
    assert pair.states() == (State.ABORTED, State.ABORTED)


@pytest.mark.spec("EX-53")
def test_accepting_is_timed_from_the_end_of_the_upload() -> None:
    pair = Pair()
    large = Request(b"h" * HEADER_BYTES, b"s" * MIN_UPLOAD_BYTES_PER_S * 3, 10)
    pair.send(ENTRY, large)
    n_seconds = len(pair.wire[ENTRY][0]) / MIN_UPLOAD_BYTES_PER_S
    assert 3.0 < n_seconds < 3.01
    expire(pair.entry, pair.now + ACCEPT_TIMEOUT_S + n_seconds)
    assert drain(pair.entry) == [TimedOut(Timer.ACCEPT)]


@pytest.mark.spec("EX-51")
def test_trickling_bytes_are_no_proof_of_life_but_messages_are() -> None:
    pair = pair_in(State.STREAMING)
    started_at = pair.now
    pair.now += 10.0
    data = pair.provider.send(CHUNK, pair.now)
    pair.entry.receive_data(data[:-1], pair.now)
    assert drain(pair.entry) == []
    assert pair.entry.deadline() == started_at + IDLE_TIMEOUT_S
    pair.entry.receive_data(data[-1:], pair.now)
    assert drain(pair.entry) == [events.ChunkReceived(CHUNK)]
    assert pair.entry.deadline() == pair.now + IDLE_TIMEOUT_S


def test_life_signs_do_not_extend_the_queue_for_ever() -> None:
    pair = pair_in(State.QUEUED)
    pair.entry.promised(START_TIMEOUT_S)
    requested_at = pair.now
    while pair.now < requested_at + START_TIMEOUT_S - 10:
        pair.now += 10.0
        pair.say(PROVIDER, Waiting(0, 0))
    upload_s = len(frame(encode_exchange(REQUEST))) / MIN_UPLOAD_BYTES_PER_S
    expire(pair.entry, requested_at + upload_s + START_TIMEOUT_S)
    assert drain(pair.entry) == [TimedOut(Timer.START)]


def live_on(pair: Pair, wait_s: float) -> None:
    """Life signs of the provider, and nothing else, until so much time has passed."""
    until = pair.now + wait_s
    while pair.now + 10 < until:
        pair.now += 10.0
        pair.say(PROVIDER, Waiting(3, 600_000) if pair.entry.state is not State.PAUSED else Paused(9))
    pair.now = until


@pytest.mark.spec("EX-55")
@pytest.mark.parametrize("state", [State.QUEUED, State.STREAMING, State.PAUSED])
def test_who_lives_and_computes_nothing_is_left_in_the_end(state: State) -> None:
    """It held a request for an hour, by a few bytes every few seconds."""
    pair = pair_in(state)
    began_at = pair.now
    live_on(pair, MIN_PATIENCE_S)
    upload_s = len(frame(encode_exchange(REQUEST))) / MIN_UPLOAD_BYTES_PER_S
    expire(pair.entry, began_at + MIN_PATIENCE_S + (upload_s if state is State.QUEUED else 0))
    assert drain(pair.entry) == [TimedOut(Timer.PATIENCE)]


@pytest.mark.spec("EX-55")
def test_output_begins_the_wait_anew_and_an_empty_chunk_does_not() -> None:
    pair = pair_in(State.STREAMING)
    live_on(pair, 100)
    pair.say(PROVIDER, Chunk(b"padding", 0))
    live_on(pair, 10)
    pair.say(PROVIDER, CHUNK)
    output_at = pair.now
    live_on(pair, MIN_PATIENCE_S)
    expire(pair.entry, output_at + MIN_PATIENCE_S)
    results = pair_in(State.STREAMING)
    for n_results in (1, 1, 2, 2):
        live_on(results, 70)
        results.entry.results_came(n_results, results.now)
    live_on(results, MIN_PATIENCE_S - 70)
    expire(results.entry, results.now)


@pytest.mark.spec("EX-55")
def test_what_was_promised_is_borne_with_and_what_is_announced_later_is_not() -> None:
    pair = Pair()
    pair.entry.promised(4.0)
    pair.say(ENTRY, REQUEST)
    pair.say(PROVIDER, Accepted(1, 6_000), Waiting(9, 600_000), STARTED)
    began_at = pair.now
    live_on(pair, MIN_PATIENCE_S + PATIENCE_FACTOR * 10)
    expire(pair.entry, began_at + MIN_PATIENCE_S + PATIENCE_FACTOR * 10)


@pytest.mark.spec("EX-30")
def test_insufficient_vouchers_do_not_extend_a_pause() -> None:
    pair = pair_in(State.PAUSED)
    paused_at = pair.now
    for _ in range(29):
        pair.now += 1.0
        pair.say(ENTRY, Voucher(b"dust"))
        pair.say(PROVIDER, Paused(9))
    expire(pair.provider, paused_at + CREDIT_TIMEOUT_S)
    assert drain(pair.provider) == [TimedOut(Timer.CREDIT)]


@pytest.mark.spec("EX-52")
def test_lingering_ends_without_changing_the_outcome() -> None:
    pair = pair_in(State.FINISHED)
    assert expire(pair.provider, pair.now + LINGER_TIMEOUT_S) == b""
    assert drain(pair.provider) == [TimedOut(Timer.LINGER)]
    assert pair.provider.state is State.FINISHED
    assert pair.provider.is_over
    assert pair.provider.deadline() is None


@pytest.mark.spec("EX-50")
def test_a_side_that_closed_its_half_times_out_silently() -> None:
    pair = pair_in(State.STOPPING)
    pair.close(ENTRY)
    assert expire(pair.entry, pair.now + CANCEL_TIMEOUT_S) == b""
    assert drain(pair.entry) == [TimedOut(Timer.CANCEL)]
    assert pair.entry.state is State.ABORTED


def test_an_over_exchange_has_no_timers() -> None:
    for state in (State.FINISHED, State.REFUSED, State.ABORTED):
        end: Any = pair_in(state).entry
        assert end.is_over
        assert end.deadline() is None
        assert end.handle_timeout(9e9) == b""
