"""What an exchange tells its shell, in the past tense: one event a message, one for each way a stream can end."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

import msgspec

from mcd.exchange.states import Timer
from mcd.wire.messages import (
    Abort,
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


class RequestReceived(msgspec.Struct, frozen=True):
    """At the provider: admit it or refuse it, within seconds."""

    message: Request


class RequestAccepted(msgspec.Struct, frozen=True):
    """At the entry: admitted."""

    message: Accepted


class RequestRefused(msgspec.Struct, frozen=True):
    """At the entry: the provider said no before any work; nothing is owed."""

    message: Refused


class AnswerStarted(msgspec.Struct, frozen=True):
    """At the entry: the engine opened the envelope."""

    message: Started


class ChunkReceived(msgspec.Struct, frozen=True):
    """At the entry: one sealed response frame."""

    message: Chunk


class AnswerFinished(msgspec.Struct, frozen=True):
    """At the entry: the sealed last frame and the receipt; both still have to be checked."""

    message: Finished


class WaitReported(msgspec.Struct, frozen=True):
    """At the entry: the provider lives, the answer is not there yet."""

    message: Waiting


class VoucherReceived(msgspec.Struct, frozen=True):
    """At the provider: a newer promise; also comes after the end, for what the last frame brought."""

    message: Voucher


class CreditPaused(msgspec.Struct, frozen=True):
    """At the entry: nothing more until a voucher of at least ``message.needed``."""

    message: Paused


class RequestCancelled(msgspec.Struct, frozen=True):
    """At the provider: stop computing now. Nothing is left to do when the exchange is already over."""

    message: Cancel


class PeerAborted(msgspec.Struct, frozen=True):
    """The other side broke off."""

    message: Abort


class QuoteRequested(msgspec.Struct, frozen=True):
    """At the provider: what would it cost?"""

    message: QuoteRequest


class QuoteReceived(msgspec.Struct, frozen=True):
    """At the entry: the price, and a place held."""

    message: Quote


class PeerClosed(msgspec.Struct, frozen=True):
    """The other side ended its half, or the stream broke. Comes again whenever asked."""

    is_truncated: bool
    """True when it still had something to say: the answer or request is cut."""


class TimedOut(msgspec.Struct, frozen=True):
    """A timer ran out; the exchange is over (or, for LINGER, was over already)."""

    timer: Timer


MessageEvent = (
    RequestReceived
    | RequestAccepted
    | RequestRefused
    | AnswerStarted
    | ChunkReceived
    | AnswerFinished
    | WaitReported
    | VoucherReceived
    | CreditPaused
    | RequestCancelled
    | PeerAborted
    | QuoteRequested
    | QuoteReceived
)
Event = MessageEvent | PeerClosed | TimedOut

EVENT_OF: Final[dict[type[Message], type[MessageEvent]]] = {
    Request: RequestReceived,
    Accepted: RequestAccepted,
    Refused: RequestRefused,
    Started: AnswerStarted,
    Chunk: ChunkReceived,
    Finished: AnswerFinished,
    Waiting: WaitReported,
    Voucher: VoucherReceived,
    Paused: CreditPaused,
    Cancel: RequestCancelled,
    Abort: PeerAborted,
    QuoteRequest: QuoteRequested,
    Quote: QuoteReceived,
}
"""The event each message becomes at its receiver."""


class NeedData(Enum):
    """Sentinel type of NEED_DATA."""

    NEED_DATA = "need data"


NEED_DATA: Final[Literal[NeedData.NEED_DATA]] = NeedData.NEED_DATA
"""Returned by ``Exchange.next_event`` when it has seen all bytes: receive more, or stop when the exchange is over."""
