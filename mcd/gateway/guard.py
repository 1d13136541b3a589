"""Who may talk to the HTTP port: our user's programs, and no web page or DNS trick.   [GW-50]

A browser lets any page send requests to 127.0.0.1, and a hostile DNS name may resolve to it. Two facts separate
them from the user's own programs: such a request names a foreign host, or it says which site it comes from. So the
Host must be localhost or a literal address, and a request that names an origin must come from our own pages.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from multidict import CIMultiDictProxy

from mcd.errors import ForbiddenError, MediaTypeError

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_JSON = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)

Headers = CIMultiDictProxy[str]


class Guard:
    """Judges the headers of every request, before its body is read."""

    def __init__(self, bound_host: str) -> None:
        """Remember where we listen: an address beyond loopback, or a name, may then also be asked for."""
        address = _address(bound_host)
        self._is_open = bound_host != "localhost" and (address is None or not address.is_loopback)
        self._names = {"localhost", bound_host.lower()} if address is None else {"localhost"}

    def check(self, headers: Headers) -> None:
        """Let the request pass.

        Raises:
            ForbiddenError: Host, Origin or Sec-Fetch-Site is not the user's own program.
        """
        host = self._host(headers.getall("Host", []))
        origins = headers.getall("Origin", [])
        if origins and origins != [f"http://{host}"]:
            raise ForbiddenError("web pages of other origins may not use this API")
        if headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise ForbiddenError("web pages of other sites may not use this API")

    def _host(self, hosts: list[str]) -> str:
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or not self._is_ours(match["name"]):
            raise ForbiddenError("the Host header must be localhost or the address of this API")
        return hosts[0]

    def _is_ours(self, name: str) -> bool:
        address = _address(name.strip("[]"))
        if address is None:
            return name.lower() in self._names
        # A literal address cannot be rebound, so beyond loopback any of ours will do.
        return address.is_loopback or (self._is_open and not address.is_unspecified)


def check_json(headers: Headers) -> None:
    """Insist on uncompressed JSON: the one kind of body a foreign page cannot send without asking first.

    Raises:
        MediaTypeError: Another content type, or a compressed body.
    """
    if _JSON.fullmatch(headers.get("Content-Type", "")) is None:
        raise MediaTypeError("send the header Content-Type: application/json")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MediaTypeError("send the body without Content-Encoding: a compressed body may hide its size")


@lru_cache(maxsize=64)  # every request of a client names the same host
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
