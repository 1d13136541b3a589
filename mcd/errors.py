"""The one error tree: who is at fault, what the HTTP client sees, whether another provider may be tried.

``UserError`` is the caller's fault (4xx, never retried), ``PeerError`` another peer's (the next candidate may
be tried), ``LocalError`` ours. Messages are for people: what happened, to what, what to do. They never hold a
prompt, a completion or a peer's raw text.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class McdError(Exception):
    """Root of every error this project raises on purpose."""

    code: ClassVar[str] = "internal_error"
    """Stable machine name: OpenAI's ``code``, the metric label and the log field."""
    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "server_error"
    """OpenAI's ``type``."""
    may_try_another: ClassVar[bool] = False
    """True when a different provider could succeed with the same request."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""This process, or the machine, has as many files and sockets open as it may."""


def system_reason(problem: OSError) -> str:
    """Why the system said no, in words for a message; for the limit on open files also what to do."""
    reason = os.strerror(problem.errno) if problem.errno else "unknown error"
    return f"{reason}; raise the limit, for example: ulimit -n 4096" if problem.errno in OUT_OF_FILES else reason


# --- the caller's fault --------------------------------------------------------------------------------------


class UserError(McdError):
    """The request itself cannot be served as written."""

    code = "invalid_request"
    http_status = 400
    error_type = "invalid_request_error"


class InvalidRequestError(UserError):
    """A parameter is missing, of the wrong type or out of range; ``param`` names it."""


class ContextLengthError(UserError):
    """Prompt plus requested output do not fit the model's context."""

    code = "context_length_exceeded"


class UnsupportedError(UserError):
    """The model or this build cannot do what a parameter asks for; ``param`` names it."""

    code = "unsupported_parameter"


class ModelNotFoundError(UserError):
    """No peer in the directory offers this model. Never answered by another model."""

    code = "model_not_found"
    http_status = 404


class UnknownUrlError(UserError):
    """There is no such endpoint."""

    code = "unknown_url"
    http_status = 404


class MethodError(UserError):
    """The endpoint exists, but not for this HTTP method."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"this endpoint takes {' and '.join(allowed)}")
        self.allowed = allowed


class MediaTypeError(UserError):
    """The body is not uncompressed application/json; browsers can send anything else cross-site without asking."""

    code = "unsupported_media_type"
    http_status = 415


class SlowClientError(UserError):
    """The client did not send its request, or did not take its answer, in time."""

    code = "request_timeout"
    http_status = 408


class TooLargeError(UserError):
    """The HTTP body exceeds the limit."""

    code = "request_too_large"
    http_status = 413


class ForbiddenError(UserError):
    """Host or Origin is not allowed to use this gateway (DNS rebinding, cross-site requests)."""

    code = "forbidden"
    http_status = 403
    error_type = "permission_error"


# --- another peer's fault ------------------------------------------------------------------------------------


class PeerError(McdError):
    """Something the other peer did or failed to do."""

    code = "peer_failed"
    http_status = 502
    may_try_another = True


class RemoteProtocolError(PeerError):
    """The peer broke the protocol; the stream is dead."""

    code = "peer_protocol_error"


class StreamBrokenError(PeerError):
    """The stream ended, was reset or its connection died."""


class PeerTimeoutError(PeerError):
    """The peer did not answer in time."""

    code = "peer_timeout"
    http_status = 504


class RefusedError(PeerError):
    """A provider refused before doing any work; ``reason`` is its wire code."""

    code = "provider_refused"
    http_status = 503

    def __init__(self, message: str, *, reason: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class EnvelopeError(PeerError):
    """An envelope did not open. One class for every cause, so that none can be told from another.   [ENV-40]"""

    code = "envelope_invalid"


class RecordError(PeerError):
    """A record was dropped; ``why`` is one of the closed set counted in metrics.   [REC-20]"""

    code = "record_invalid"

    def __init__(self, why: str) -> None:
        super().__init__(f"record dropped: {why}")
        self.why = why


class ClaimedFaultError(PeerError):
    """A provider says that the request itself is at fault. It alone is not believed while another can be asked."""

    code = "claimed_fault"

    def __init__(self, fault: UserError) -> None:
        super().__init__("the provider finds fault with the request")
        self.fault = fault
        """What the user hears once it is believed."""


# --- nobody to ask -------------------------------------------------------------------------------------------


class NoProviderError(McdError):
    """Providers are known but none can take the request now; retry after ``retry_after_s``."""

    code = "no_peer_available"
    http_status = 503


# --- ours ----------------------------------------------------------------------------------------------------


class LocalError(McdError):
    """This peer is at fault."""


class LocalProtocolError(LocalError):
    """We tried something the protocol does not allow now: a bug on our side."""

    code = "local_protocol_error"


class LimitError(LocalError):
    """A value exceeds a named limit."""

    code = "limit_exceeded"


class ConfigError(LocalError):
    """A flag, file or environment cannot be used; the message says how to mend it. Exit code 2."""

    code = "config_invalid"


class EngineError(LocalError):
    """The inference process cannot do this request; another provider may."""

    code = "engine_failed"
    http_status = 502
    may_try_another = True


class EngineDeadError(EngineError):
    """The inference process died or never came up; it is being restarted."""

    code = "engine_dead"


class DownloadError(LocalError):
    """A file could not be fetched or is not what the hub announced; the message says what to do."""

    code = "download_failed"


class ModelFileError(EngineError):
    """A GGUF file cannot be served; the message says what is wrong with it."""

    code = "model_file_invalid"
    may_try_another = False
