"""Claiming a port says in words what is wrong and what to do."""

from __future__ import annotations

import errno
import socket

import pytest

from mcd.errors import ConfigError
from mcd.mesh import portlock


async def test_a_taken_port_is_named_with_its_remedy() -> None:
    first = portlock.claim("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken.*--listen"):
        portlock.claim("127.0.0.1", port)
    first.close()
    portlock.claim("127.0.0.1", port).close()


async def test_a_port_held_with_reuseport_is_taken_too() -> None:
    """As libp2p's own listener holds it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        with pytest.raises(ConfigError, match="is taken"):
            portlock.claim("127.0.0.1", holder.getsockname()[1])


async def test_the_wildcard_and_one_address_are_the_same_port() -> None:
    first = portlock.claim("0.0.0.0", 0)
    with pytest.raises(ConfigError, match="is taken"):
        portlock.claim("127.0.0.1", first.getsockname()[1])
    first.close()


async def test_both_families_may_have_the_same_port() -> None:
    first = portlock.claim("0.0.0.0", 0)
    portlock.claim("::", first.getsockname()[1]).close()
    first.close()


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match="not an address of this machine"):
        portlock.claim("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "privileges"), (errno.EADDRINUSE, "taken"), (errno.EINVAL, "cannot listen")]
)
def test_every_cause_has_words(number: int, words: str) -> None:
    text = portlock._explain("127.0.0.1", 80, OSError(number, "Errno text"))
    assert words in text
    assert "80" in text
