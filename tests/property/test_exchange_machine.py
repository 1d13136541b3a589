"""Two exchanges wired in memory, driven at random: no order, cut, garbage or silence leaves either undefined.

The machine knows nothing of the table. It sends any message from either side at any time, splits and delays what is
on the wire, and states three promises: only the two protocol errors ever come out, honest ends agree once all bytes
have arrived, and an exchange that is over stays over.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.exchange.events import NEED_DATA, PeerClosed, TimedOut
from mcd.exchange.exchange import Exchange
from mcd.exchange.states import ABSORBING, TERMINAL, Role, State
from mcd.wire.codec import encode_exchange
from mcd.wire.framing import frame
from mcd.wire.messages import (
    HEADER_BYTES,
    Abort,
    Accepted,
    Cancel,
    Chunk,
    Finished,
    Paused,
    Quote,
    QuoteRequest,
    Refused,
    Request,
    Started,
    Voucher,
    Waiting,
)

MESSAGES = st.one_of(
    st.builds(
        Request,
        st.just(b"h" * HEADER_BYTES),
        st.just(b"sealed"),
        st.integers(0, 6),
        st.integers(0, 6),
    ),
    st.builds(Accepted, st.just(0), st.just(0)),
    st.builds(Refused, st.integers(1, 255), st.just(100)),
    st.builds(Started, st.just(b"y" * 32), st.just(3)),
    st.builds(Chunk, st.binary(min_size=1, max_size=4), st.integers(0, 3)),
    st.builds(Finished, st.just(b"final"), st.just(b"")),
    st.builds(Waiting, st.just(0), st.just(0)),
    st.builds(Voucher, st.just(b"v")),
    st.builds(Paused, st.just(1)),
    st.just(Cancel()),
    st.builds(Abort, st.integers(0, 255)),
    st.builds(QuoteRequest, st.just(b"d" * 32), st.just(1), st.just(1)),
    st.builds(Quote, st.just(b""), st.just(0), st.just(0)),
)
ONE_OF_EACH = (
    Request(b"h" * HEADER_BYTES, b"sealed", 0),
    Accepted(0, 0),
    Refused(1, 0),
    Started(b"y" * 32, 3),
    Chunk(b"f", 1),
    Finished(b"final", b""),
    Waiting(0, 0),
    Voucher(b"v"),
    Paused(1),
    Cancel(),
    QuoteRequest(b"d" * 32, 1, 1),
    Quote(b"", 0, 0),
)
ROLES = st.sampled_from(Role)
GARBAGE = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.binary(min_size=1, max_size=40).map(frame),
    MESSAGES.map(encode_exchange).map(frame),
)


class TwoEnds(RuleBasedStateMachine):
    """Both ends and the two directions of the wire between them."""

    @initialize(is_hostile=st.booleans())
    def open_stream(self, is_hostile: bool) -> None:
        self.is_hostile = is_hostile
        self.now = 0.0
        self.ends = {role: Exchange(role, 0.0) for role in Role}
        self.wire = {role: bytearray() for role in Role}
        self.half_ended = dict.fromkeys(Role, False)
        self.end_seen = dict.fromkeys(Role, False)
        self.is_cut = dict.fromkeys(Role, False)
        self.is_honest = True
        self.over_as: dict[Role, State] = {}

    # --- what the two sides try ------------------------------------------------------------------------------

    @rule(role=ROLES, message=MESSAGES)
    def send_anything(self, role: Role, message) -> None:
        if not isinstance(message, Abort) or self.now > 20:
            self.try_to_send(role, message)

    def try_to_send(self, role: Role, message) -> None:
        end = self.ends[role]
        before = (end.state, end.n_tokens, end.n_chunks, end.deadline())
        try:
            data = end.send(message, self.now)
        except LocalProtocolError:
            assert (end.state, end.n_tokens, end.n_chunks, end.deadline()) == before
        else:
            assert not self.half_ended[role]
            self._put(role, data)

    @rule(seed=st.integers(0, 2**32 - 1), n_moves=st.integers(1, 20))
    def converse(self, seed: int, n_moves: int) -> None:
        """Each side says what it may, and some of it crosses; hypothesis's own choices rarely get past the first."""
        random = Random(seed)
        for _ in range(n_moves):
            role = random.choice(list(Role))
            allowed = [message for message in ONE_OF_EACH if self.ends[role].may_send(type(message))]
            weights = [1 if isinstance(message, Cancel | Refused | Finished) else 6 for message in allowed]
            if allowed and not (isinstance(allowed[0], Cancel) and random.random() < 0.8):
                self.try_to_send(role, random.choices(allowed, weights)[0])
            if random.random() < 0.6:
                self.deliver_all(random.choice(list(Role)))

    @rule(role=ROLES)
    def try_to_close(self, role: Role) -> None:
        before = self.ends[role].state
        try:
            self.ends[role].close(self.now)
        except LocalProtocolError:
            assert self.ends[role].state is before
        else:
            self.half_ended[role] = True

    # --- what the wire does ----------------------------------------------------------------------------------

    @rule(sender=ROLES, share=st.floats(0, 1))
    def deliver_some(self, sender: Role, share: float) -> None:
        n_bytes = int(len(self.wire[sender]) * share)
        self._carry(sender, n_bytes)

    @rule(sender=ROLES)
    def deliver_all(self, sender: Role) -> None:
        self._carry(sender, len(self.wire[sender]))

    @precondition(lambda self: self.is_hostile)
    @rule(sender=ROLES, garbage=GARBAGE)
    def inject(self, sender: Role, garbage: bytes) -> None:
        self.is_honest = False
        self._put(sender, garbage)

    @precondition(lambda self: self.is_hostile)
    @rule(sender=ROLES)
    def lose_the_rest(self, sender: Role) -> None:
        self.is_honest = False
        self.wire[sender].clear()
        self.is_cut[sender] = True
        self._carry(sender, 0)

    # --- time ------------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(role=ROLES)
    def let_timers_run_out(self, role: Role) -> None:
        end = self.ends[role]
        deadline = end.deadline()
        if deadline is not None and deadline <= self.now:
            self._put(role, end.handle_timeout(self.now))
            assert isinstance(end.next_event(), TimedOut)
            assert end.state in TERMINAL
            if self.half_ended[role]:
                self.is_honest = False  # it had no way to tell the other side
        else:
            assert end.handle_timeout(self.now) == b""

    # --- promises --------------------------------------------------------------------------------------------

    @invariant()
    def over_is_over(self) -> None:
        for role, end in self.ends.items():
            assert isinstance(end.state, State)
            if end.state in ABSORBING:
                assert end.is_over
                assert end.deadline() is None
                assert self.over_as.setdefault(role, end.state) is end.state
            if end.state in TERMINAL:
                assert not end.may_send(Chunk)
                assert not end.may_send(Request)

    @invariant()
    def honest_ends_agree_when_all_has_arrived(self) -> None:
        if self.is_honest and not any(self.wire.values()) and self.half_ended == self.end_seen:
            entry, provider = self.ends[Role.ENTRY], self.ends[Role.PROVIDER]
            assert entry.state is provider.state
            assert State.BROKEN not in {entry.state, provider.state}
            if entry.state is not State.ABORTED:
                assert (entry.n_tokens, entry.n_chunks) == (provider.n_tokens, provider.n_chunks)

    # --- inside ----------------------------------------------------------------------------------------------

    def _put(self, sender: Role, data: bytes) -> None:
        if not self.is_cut[sender] and not self.end_seen[sender]:
            self.wire[sender] += data

    def _carry(self, sender: Role, n_bytes: int) -> None:
        data = bytes(self.wire[sender][:n_bytes])
        del self.wire[sender][:n_bytes]
        receiver = self.ends[sender.other]
        if data:
            receiver.receive_data(data, self.now)
        if (self.half_ended[sender] or self.is_cut[sender]) and not self.wire[sender]:
            receiver.receive_data(b"", self.now)
            self.end_seen[sender] = True
        self._drain(receiver)

    def _drain(self, end: Exchange) -> None:
        try:
            while (event := end.next_event()) is not NEED_DATA:
                if isinstance(event, PeerClosed):
                    assert event.is_truncated is (end.state is State.BROKEN)
                    break
        except RemoteProtocolError:
            assert not self.is_honest, "an honest peer was called a liar"
            assert end.state is State.BROKEN


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_honest_ends_agree_however_their_messages_cross(seed: int) -> None:
    """A conversation a seed, to its end: uniform choices reach every state, which shrinking choices do not."""
    pair = TwoEnds()
    pair.open_stream(is_hostile=False)
    random = Random(seed)
    for _ in range(10):
        pair.converse(random.getrandbits(32), 10)
        if random.random() < 0.05:
            pair.try_to_send(random.choice(list(Role)), Abort(1))
        if random.random() < 0.3:
            pair.try_to_close(random.choice(list(Role)))
        pair.over_is_over()
    for role in (*Role, *Role):
        pair.deliver_all(role)
    pair.honest_ends_agree_when_all_has_arrived()
