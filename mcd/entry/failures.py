"""Why an attempt failed, in our own errors: what the provider said, and whose fault it is."""

from __future__ import annotations

from mcd.errors import (
    ClaimedFaultError,
    ContextLengthError,
    InvalidRequestError,
    PeerError,
    PeerTimeoutError,
    RefusedError,
    RemoteProtocolError,
    StreamBrokenError,
    UnsupportedError,
    UserError,
)
from mcd.exchange.events import (
    CreditPaused,
    Event,
    PeerAborted,
    PeerClosed,
    QuoteReceived,
    RequestRefused,
    TimedOut,
)
from mcd.wire.messages import Refused, RefuseReason
from mcd.wire.payload import Failure

_USER_FAULTS: dict[str, type[UserError]] = {
    fault.code: fault for fault in (InvalidRequestError, ContextLengthError, UnsupportedError)
}
_REFUSALS = {int(reason): reason.name.lower().replace("_", " ") for reason in RefuseReason} | {
    RefuseReason.BUSY: "every place there is taken",
    RefuseReason.EXPIRED: "the request is too old, or the clock there and ours differ",
    RefuseReason.LOADING: "it is still loading the model",
    RefuseReason.PEER_LIMIT: "this peer has as many requests there as one may have",
}
"""What a user reads; the others are settled between the peers."""


def failure_of(event: Event, n_ctx: int, may_be_too_large: bool) -> PeerError:
    """The error of an event that ends an attempt.

    Args:
        event: What came instead of the answer.
        n_ctx: The context of the provider's model, by its record.
        may_be_too_large: Whether by that record the request may be.   [EX-45]
    """
    match event:
        case RequestRefused(message=message):
            return _refusal(message, n_ctx, may_be_too_large)
        case PeerAborted():
            return StreamBrokenError("the provider broke off")
        case TimedOut():
            return PeerTimeoutError("the provider did not answer in time")
        case PeerClosed():
            return StreamBrokenError("the provider ended the stream before the answer was complete")
        case CreditPaused() | QuoteReceived():
            return RemoteProtocolError("the provider asks for payment on the free rail")
        case _:
            return RemoteProtocolError("the provider sent what only an entry may send")


def _refusal(message: Refused, n_ctx: int, may_be_too_large: bool) -> PeerError:
    if message.reason == RefuseReason.TOO_LARGE:
        if not may_be_too_large:
            return RemoteProtocolError("the provider refuses as too large what fits by its own record")
        far = f"the request is far larger than fits the {n_ctx} tokens of this model's context"
        return ClaimedFaultError(ContextLengthError(far))
    why = _REFUSALS.get(message.reason, f"reason {message.reason}")
    return RefusedError(
        f"the provider refused: {why}", reason=message.reason, retry_after_s=message.retry_after_ms / 1000
    )


def claimed_fault(failure: Failure) -> PeerError:
    """The error of a sealed error frame: a claim until another provider says so too.   [EX-43]"""
    fault = _USER_FAULTS.get(failure.code)
    if fault is None:
        return StreamBrokenError("the engine failed on this request")
    return ClaimedFaultError(fault(failure.message, param=failure.param or None))
