"""OpenAI's image parts: a picture has to come along as a data: URL.   Pure.

An address that a request names is never opened, neither by the entry nor by a provider: it could be one of the
operator's own network, and whoever serves it would learn who asks (specs/10). So a picture travels inside the request,
under the seal, and its bytes are decoded only in a process of the engine that may be killed.
"""

from __future__ import annotations

import binascii
import re

from mcd.api.request import ChatImage
from mcd.errors import InvalidRequestError

MEDIA_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif")
DETAILS = frozenset({"auto", "low", "high"})
SHOWN_TYPES = "image/png, image/jpeg, image/webp or image/gif"

_DATA_URL = re.compile(r"data:(?P<type>[A-Za-z0-9.+/-]{0,64})(?:;[A-Za-z0-9-]{1,32}=[^;,]{0,64})*;base64,")


def parse_image(url: str, detail: str | None, at: int, where: str) -> ChatImage:
    """Read one part.

    Raises:
        InvalidRequestError: Not a picture in a data: URL; ``param`` is ``where``.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidRequestError(_no_data_url(url), param=where)
    if head["type"].lower() not in MEDIA_TYPES:
        raise InvalidRequestError(f"a picture has to be {SHOWN_TYPES}", param=where)
    try:
        data = binascii.a2b_base64(url[head.end() :], strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError("the picture is not valid base64", param=where) from None
    return ChatImage(data, at, detail or "auto")


def _no_data_url(url: str) -> str:
    if url[:5].lower() == "data:":
        return "a data: URL of a picture has to read data:image/png;base64,... (or jpeg, webp, gif)"
    return (
        "pictures are not fetched from addresses, neither here nor at a provider: read the file yourself and send it as"
        " a data: URL (data:image/png;base64,...)"
    )
