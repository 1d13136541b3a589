"""Our errors as OpenAI's: status, headers and the body whose four members clients rely on.   [GW-20]

Official clients repeat a request by themselves on 408, 409, 429 and every 5xx, twice. A repeat may run a paid prompt
again, so all errors but those raised before any work say ``x-should-retry: false``.   [GW-21]
"""

from __future__ import annotations

import math

import msgspec

from mcd.errors import McdError, MethodError, NoProviderError, RefusedError

DEFAULT_RETRY_AFTER_S = 1.0

_json = msgspec.json.Encoder()


def error_body(error: McdError) -> bytes:
    """Write ``{"error": {message, type, param, code}}``; also the data of a failing stream's last event."""
    # OpenAI leaves ``code`` null when ``param`` says it all.
    code = None if error.code == "invalid_request" else error.code
    members = {"message": error.message, "type": error.error_type, "param": error.param, "code": code}
    return _json.encode({"error": members})


def error_headers(error: McdError) -> dict[str, str]:
    """Tell the client whether and when to try again, or with which method."""
    if isinstance(error, MethodError):
        return {"x-should-retry": "false", "allow": ", ".join(error.allowed)}
    if not isinstance(error, (NoProviderError, RefusedError)):
        return {"x-should-retry": "false"}
    delay_s = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return {"retry-after": str(max(1, math.ceil(delay_s))), "retry-after-ms": str(math.ceil(delay_s * 1000))}
