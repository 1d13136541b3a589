"""Claim a listening port for one daemon, or say who must give way.

libp2p listens with SO_REUSEPORT, under which a second daemon on the same port starts without a word and the
kernel deals connections to either at random. We bind without it: the second daemon fails at once.
"""

from __future__ import annotations

import errno
import socket

import trio

from mcd.errors import ConfigError

ACCEPT_BACKLOG = 1024
"""Connections the kernel completes before we accept them; at 128 a burst of idle ones delays honest peers by 1 s."""


class ForeignAddressError(ConfigError):
    """Nothing on this machine has that address."""


def claim(host: str, port: int) -> trio.socket.SocketType:
    """A listening socket that nobody else shares; port 0 lets the kernel choose.

    Raises:
        ForeignAddressError: The address is not this machine's.
        ConfigError: The port is taken or not ours to use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(ACCEPT_BACKLOG)
    except OSError as error:
        listener.close()
        kind = ForeignAddressError if error.errno == errno.EADDRNOTAVAIL else ConfigError
        raise kind(_explain(host, port, error)) from error
    return trio.socket.from_stdlib_socket(listener)


def _explain(host: str, port: int, error: OSError) -> str:
    place = f"port {port} of {host}"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{place} is taken, probably by another mcd; stop it, or choose another port: "
                f"--listen /ip4/0.0.0.0/tcp/{port + 1 if port < 65_535 else 0}"
            )
        case errno.EACCES:
            return f"{place} needs privileges we do not have; choose one above 1023: --listen /ip4/0.0.0.0/tcp/4101"
        case errno.EADDRNOTAVAIL:
            return (
                f"{host} is not an address of this machine; listen on /ip4/0.0.0.0/tcp/{port} for all of them, "
                "and on this one besides if it is your router's and forwards the port"
            )
        case _:
            return f"cannot listen on {place}: {error.strerror}"
