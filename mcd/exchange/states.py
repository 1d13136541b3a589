"""The one table of an exchange: which message may be sent in which state, by whom, and what follows.

Theory. Two peers run this same table over one stream. Each applies its own messages when it sends them and the
other's when they arrive, so the two see different interleavings of the same two sequences. Four rules make that
safe, and tests/unit/test_exchange.py proves them over every entry of the table:

1. The table does not know which side we play. It is keyed by (state, sender's role, step), nothing else.
2. Crossing messages commute. Wherever the entry may send ``e`` and the provider may send ``p``, both may still come
   after the other, and ``e`` then ``p`` ends where ``p`` then ``e`` does. Hence, once all bytes have arrived, both
   sides are in the same state whatever crossed on the wire; a `Cancel` or `Voucher` that meets a `Finished` half-way
   is an ordinary case, not an error. This rule shaped three entries: a `Voucher` does not leave PAUSED (the next
   `Chunk` does, because only the provider knows whether the voucher was enough), a `Cancel` before `Started` has a
   state of its own (the provider may still start), and FINISHED still takes what an entry had under way.
3. What is absent is forbidden. Sending it is our bug (LocalProtocolError, nothing changes); receiving it ends the
   exchange (RemoteProtocolError, BROKEN).
4. ABORTED and BROKEN absorb: whatever still arrives is discarded unread.

Closing one's half of the stream is a step like a message: it may only come when that side has nothing left to say.
Money never appears here: quotes, vouchers and receipts are opaque bytes, empty on the free rail. Timers are the second
table, below; they too are keyed by role and state alone.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from mcd.units import Seconds
from mcd.wire.messages import (
    Abort,
    AbortCode,
    Accepted,
    Cancel,
    Chunk,
    Finished,
    Message,
    Paused,
    Quote,
    QuoteRequest,
    Refused,
    Request,
    Started,
    Voucher,
    Waiting,
)


class Role(Enum):
    """Who speaks."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash runs Python code at every look-up

    ENTRY = "entry"
    PROVIDER = "provider"

    @property
    def other(self) -> Role:
        """The side at the far end of the stream."""
        return Role.PROVIDER if self is Role.ENTRY else Role.ENTRY


class State(Enum):
    """Where an exchange stands."""

    __hash__ = object.__hash__  # as above

    IDLE = "idle"
    """The stream is open; nothing was asked."""
    QUOTING = "quoting"
    """The entry asked for a price and a place."""
    QUOTED = "quoted"
    """The provider holds a place until the quote runs out."""
    REQUESTED = "requested"
    """The sealed request is under way; the provider admits or refuses."""
    QUEUED = "queued"
    """Admitted; the engine has not opened the envelope yet."""
    STREAMING = "streaming"
    """The engine opened the envelope; chunks flow."""
    PAUSED = "paused"
    """The credit window is used up; a voucher, then a chunk, lead on."""
    CANCELLING = "cancelling"
    """The entry took it back before the engine started; nothing is owed unless it starts after all."""
    STOPPING = "stopping"
    """The entry cancelled a running answer; the provider still sends its last frame and the receipt."""
    FINISHED = "finished"
    """Last frame and receipt are out. The finish reason inside says whether the answer was cut."""
    REFUSED = "refused"
    """The provider said no before any work."""
    CANCELLED = "cancelled"
    """Taken back before any work; nothing is owed."""
    ABORTED = "aborted"
    """One side broke off and said so."""
    BROKEN = "broken"
    """The protocol was broken, or the stream ended where it may not."""


class Closed(msgspec.Struct, frozen=True):
    """The step of ending one's half of the stream."""


Step = type[Message] | type[Closed]

TERMINAL: Final = frozenset({State.FINISHED, State.REFUSED, State.CANCELLED, State.ABORTED, State.BROKEN})
"""Outcomes."""
ABSORBING: Final = frozenset({State.ABORTED, State.BROKEN})
"""Outcomes in which arriving bytes are discarded unread."""

_Row = dict[Role, dict[Step, State]]

_ROWS: dict[State, _Row] = {
    State.IDLE: {
        Role.ENTRY: {QuoteRequest: State.QUOTING, Request: State.REQUESTED},
        Role.PROVIDER: {Abort: State.ABORTED},
    },
    State.QUOTING: {
        Role.ENTRY: {Cancel: State.CANCELLING, Abort: State.ABORTED},
        Role.PROVIDER: {Quote: State.QUOTED, Refused: State.REFUSED, Abort: State.ABORTED},
    },
    State.QUOTED: {
        Role.ENTRY: {Request: State.REQUESTED, Cancel: State.CANCELLING, Abort: State.ABORTED},
        Role.PROVIDER: {Abort: State.ABORTED},
    },
    State.REQUESTED: {
        Role.ENTRY: {Cancel: State.CANCELLING, Abort: State.ABORTED},
        Role.PROVIDER: {Accepted: State.QUEUED, Refused: State.REFUSED, Abort: State.ABORTED},
    },
    State.QUEUED: {
        Role.ENTRY: {Cancel: State.CANCELLING, Abort: State.ABORTED},
        Role.PROVIDER: {
            Waiting: State.QUEUED,
            Started: State.STREAMING,
            Refused: State.REFUSED,
            Abort: State.ABORTED,
        },
    },
    State.STREAMING: {
        Role.ENTRY: {Voucher: State.STREAMING, Cancel: State.STOPPING, Abort: State.ABORTED},
        Role.PROVIDER: {
            Waiting: State.STREAMING,
            Chunk: State.STREAMING,
            Paused: State.PAUSED,
            Finished: State.FINISHED,
            Abort: State.ABORTED,
        },
    },
    State.PAUSED: {
        Role.ENTRY: {Voucher: State.PAUSED, Cancel: State.STOPPING, Abort: State.ABORTED},
        Role.PROVIDER: {
            Paused: State.PAUSED,
            Chunk: State.STREAMING,
            Finished: State.FINISHED,
            Abort: State.ABORTED,
        },
    },
    State.CANCELLING: {
        Role.ENTRY: {Abort: State.ABORTED, Closed: State.CANCELLING},
        Role.PROVIDER: {
            Quote: State.CANCELLING,
            Accepted: State.CANCELLING,
            Waiting: State.CANCELLING,
            Started: State.STOPPING,
            Refused: State.REFUSED,
            Abort: State.ABORTED,
            Closed: State.CANCELLED,
        },
    },
    State.STOPPING: {
        Role.ENTRY: {Abort: State.ABORTED, Closed: State.STOPPING},
        Role.PROVIDER: {
            Waiting: State.STOPPING,
            Chunk: State.STOPPING,
            Paused: State.STOPPING,
            Finished: State.FINISHED,
            Abort: State.ABORTED,
        },
    },
    State.FINISHED: {
        Role.ENTRY: {
            Voucher: State.FINISHED,
            Cancel: State.FINISHED,
            Abort: State.ABORTED,
            Closed: State.FINISHED,
        },
        Role.PROVIDER: {Closed: State.FINISHED},
    },
    State.REFUSED: {
        Role.ENTRY: {Cancel: State.REFUSED, Abort: State.ABORTED, Closed: State.REFUSED},
        Role.PROVIDER: {Closed: State.REFUSED},
    },
    State.CANCELLED: {
        Role.ENTRY: {Abort: State.ABORTED, Closed: State.CANCELLED},
        Role.PROVIDER: {},
    },
}

TRANSITIONS: Final = MappingProxyType(
    {
        (state, sender, step): after
        for state, row in _ROWS.items()
        for sender, steps in row.items()
        for step, after in steps.items()
    }
)
"""(state, sender, step) -> next state. Everything a side may do; ABORTED and BROKEN have no entries (rule 4)."""


class Timer(Enum):
    """What may run out."""

    REQUEST = "request"
    HOLD = "hold"
    QUOTE = "quote"
    ACCEPT = "accept"
    START = "start"
    IDLE = "idle"
    PATIENCE = "patience"
    PAUSE = "pause"
    CREDIT = "credit"
    CANCEL = "cancel"
    TOTAL = "total"
    LINGER = "linger"


MIN_UPLOAD_BYTES_PER_S = 131_072
"""Slowest uplink a request is timed for: 1 Mbit/s, a poor home line. A larger request may take longer."""
REQUEST_TIMEOUT_S = 90.0
"""Stream opened to complete request, provider's watch: the largest frame at the slowest uplink takes 72 s."""
QUOTE_TIMEOUT_S = 5.0
"""A quote costs a look-up and a signature; slower means overloaded."""
HOLD_TIMEOUT_S = 150.0
"""Longest validity of a quote (60 s) and the upload that follows it."""
ACCEPT_TIMEOUT_S = 10.0
"""Request sent (upload allowed for) to Accepted or Refused. Admission computes nothing; 10 s is packet loss."""
START_TIMEOUT_S = 600.0
"""Longest queue a provider may announce (MAX_QUEUE_MS)."""
IDLE_TIMEOUT_S = 15.0
"""Silence of a provider that has work. It proves life every 4 s, so three proofs were lost."""
MIN_PATIENCE_S = 120.0
"""Without output from a provider that lives: thoughts that another server keeps to itself, a machine that swaps."""
PATIENCE_FACTOR = 8
"""How much longer than promised a provider may take: a prompt has up to four times the tokens that an entry guesses
from its characters, and another as long beside it halves the speed.   [EX-55]"""
CREDIT_TIMEOUT_S = 30.0
"""A provider holds a slot this long for a voucher. Vouchers that are not enough do not extend it."""
PAUSE_TIMEOUT_S = CREDIT_TIMEOUT_S + IDLE_TIMEOUT_S
"""The entry's watch over a pause: the provider's own limit, and then silence."""
CANCEL_TIMEOUT_S = 5.0
"""Cancel to the provider's last word; decode steps take well under a second."""
TOTAL_TIMEOUT_S = 3600.0
"""Whole exchange from the request on: 20,000 tokens at 6 tokens/s. Ends a stream that is alive but hopeless."""
LINGER_TIMEOUT_S = 5.0
"""After its last message a provider reads this long for a last voucher and the entry's close."""

Anchor = Literal["entered", "heard", "output", "requested"]
"""Counted from entering the state, from the other side's newest message, from its newest output (or start), or from the
request."""


class TimerRule(msgspec.Struct, frozen=True):
    """One timer: whose watch, in which states, how long, counted from what, and what is said on expiry."""

    timer: Timer
    role: Role
    states: tuple[State, ...]
    limit_s: Seconds
    since: Anchor
    code: AbortCode = AbortCode.TIMEOUT


_WORKING = (State.QUEUED, State.STREAMING)
_ASKED = (State.REQUESTED, *_WORKING, State.PAUSED, State.CANCELLING, State.STOPPING)

TIMERS: Final = (
    TimerRule(Timer.REQUEST, Role.PROVIDER, (State.IDLE,), REQUEST_TIMEOUT_S, "entered"),
    TimerRule(Timer.HOLD, Role.PROVIDER, (State.QUOTED,), HOLD_TIMEOUT_S, "entered"),
    TimerRule(Timer.CREDIT, Role.PROVIDER, (State.PAUSED,), CREDIT_TIMEOUT_S, "entered", AbortCode.CREDIT_TIMEOUT),
    TimerRule(Timer.TOTAL, Role.PROVIDER, _ASKED, TOTAL_TIMEOUT_S, "requested"),
    TimerRule(
        Timer.LINGER, Role.PROVIDER, (State.FINISHED, State.REFUSED, State.CANCELLED), LINGER_TIMEOUT_S, "entered"
    ),
    TimerRule(Timer.QUOTE, Role.ENTRY, (State.QUOTING,), QUOTE_TIMEOUT_S, "entered"),
    TimerRule(Timer.ACCEPT, Role.ENTRY, (State.REQUESTED,), ACCEPT_TIMEOUT_S, "requested"),
    TimerRule(Timer.START, Role.ENTRY, (State.QUEUED,), START_TIMEOUT_S, "requested"),
    TimerRule(Timer.IDLE, Role.ENTRY, _WORKING, IDLE_TIMEOUT_S, "heard"),
    TimerRule(Timer.PATIENCE, Role.ENTRY, (*_WORKING, State.PAUSED), MIN_PATIENCE_S, "output"),
    TimerRule(Timer.PAUSE, Role.ENTRY, (State.PAUSED,), PAUSE_TIMEOUT_S, "heard"),
    TimerRule(Timer.CANCEL, Role.PROVIDER, (State.STOPPING,), CANCEL_TIMEOUT_S, "entered"),
    TimerRule(Timer.CANCEL, Role.ENTRY, (State.CANCELLING, State.STOPPING), CANCEL_TIMEOUT_S, "entered"),
    TimerRule(Timer.TOTAL, Role.ENTRY, _ASKED, TOTAL_TIMEOUT_S, "requested"),
)
"""Every timer. An expired one sends Abort with its code and becomes a TimedOut event; LINGER only stops the wait."""

TIMERS_IN: Final = MappingProxyType(
    {
        (role, state): tuple(rule for rule in TIMERS if rule.role is role and state in rule.states)
        for role in Role
        for state in State
    }
)
"""The same by who watches in which state."""
