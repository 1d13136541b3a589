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


def claim(host: str, port: int) -> trio.socket.SocketType:
    """A listening socket that nobody else shares; port 0 lets the kernel choose.

    Raises:
        ConfigError: The port is taken, not ours to use, or the address is not this machine's.
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
        raise ConfigError(_explain(host, port, error)) from error
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
            return f"{host} is not an address of this machine; listen on /ip4/0.0.0.0/tcp/{port} for all of them"
        case _:
            return f"cannot listen on {place}: {error.strerror}"
