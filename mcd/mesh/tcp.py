"""TCP for libp2p: exclusive listeners behind the address gate, exact reads, a slot that ends with its socket.

In libp2p 0.8.1 an inbound connection's slot is never given back when the connection ends, so that the 250th
connection of a daemon's life is its last; an IPv6 peer has no remote address; and a message that arrives in over
100 pieces is an error. A transport of our own mends all three.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio
from libp2p.abc import IListener, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from mcd.mesh.limits import AddressGate, Admission

READ_BYTES = 64 * 1024
MAX_UNSENT_BYTES = 16 * 1024
"""In the kernel and not yet sent: what waits there cannot be overtaken by a ping or a token."""
ACCEPT_RETRY_S = 0.1
"""Pause after accept failed for want of descriptors; they come back as connections end."""
HANDSHAKE_RETRY_S = 0.05
"""Between two looks at an exhausted handshake bucket; it refills by one in that time."""
_GONE = (OSError, ValueError, trio.ClosedResourceError)
"""What a socket that failed or was closed raises; ValueError: its descriptor is negative."""
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

ConnectionHandler = Callable[[ReadWriteCloser], Awaitable[None]]


class TcpStream(ReadWriteCloser):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """One TCP connection, as libp2p's layers read it. One reader and one writer at a time."""

    def __init__(self, connected: trio.socket.SocketType, admission: Admission | None = None) -> None:
        """Take over a connected socket.

        Raises:
            OSError: The peer has gone; the socket is closed.
        """
        self.admission = admission
        """Its place at the gate; None when we dialled."""
        self.on_close: Callable[[], None] = lambda: None
        # The plain socket: trio's wrapper spends 20 calls on each read and write.
        self._socket = socket.socket(fileno=connected.detach())
        self._socket.setblocking(False)
        self._buffer = bytearray()
        try:
            peer = self._socket.getpeername()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(AttributeError, OSError):  # not every system has it
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        except OSError:
            self._socket.close()
            raise
        self._remote = (str(peer[0]), int(peer[1]))

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, fewer only at the end of the connection; without ``n``, what comes next.

        Raises:
            ConnectionClosedError: The connection is gone.
        """
        if n is None and not self._buffer:
            data = await self._receive()
            if not data:
                raise ConnectionClosedError("peer closed the connection")
            return data
        wanted = 1 if n is None else n
        while len(self._buffer) < wanted and (data := await self._receive()):
            self._buffer += data
        taken = bytes(self._buffer[:n])
        del self._buffer[: len(taken)]
        if not taken and wanted:
            raise ConnectionClosedError("peer closed the connection")
        return taken

    async def write(self, data: bytes) -> None:
        """Hand all of ``data`` to the kernel.

        Raises:
            ConnectionClosedError: The connection is gone.
        """
        try:
            while (n_sent := self._send(data)) < len(data):
                data = data[n_sent:]
                await trio.lowlevel.wait_writable(self._socket.fileno())
        except _GONE as error:
            raise ConnectionClosedError("connection is gone") from error

    async def close(self) -> None:
        """Close the socket, even when cancelled, and end the task that accepted it."""
        self.close_now()
        self.on_close()
        await trio.lowlevel.checkpoint_if_cancelled()

    def close_now(self) -> None:
        """Close the socket; whoever waits for it learns that it is gone. Idempotent."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()

    def _send(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def _receive(self) -> bytes:
        """What comes next, ``b""`` at the end."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket.fileno())
                try:
                    return self._socket.recv(READ_BYTES)
                except BlockingIOError:
                    continue  # somebody was wrong about there being something
        except _GONE as error:
            raise ConnectionClosedError("connection is gone") from error

    def get_remote_address(self) -> tuple[str, int]:
        """Host and port of the peer."""
        return self._remote


class TcpListener(IListener):  # type: ignore[misc]  # as above
    """Accepts on one claimed socket; every connection passes the gate and owns one task."""

    def __init__(self, transport: TcpTransport, handler: ConnectionHandler) -> None:
        self.background_nursery: trio.Nursery | None = None
        """Set by the swarm before ``listen``; our tasks run in it."""
        self._transport = transport
        self._handler = handler
        self._scope = trio.CancelScope()
        self._socket: trio.socket.SocketType | None = None

    async def listen(self, maddr: Multiaddr) -> None:
        """Start accepting on the socket claimed for ``maddr``.

        Raises:
            OpenConnectionError: No socket was claimed for it.
        """
        self._socket = self._transport.sockets.get(str(maddr))
        if self._socket is None or self.background_nursery is None:
            raise OpenConnectionError(f"no socket was claimed for {maddr}")
        self.background_nursery.start_soon(self._accept)
        await trio.lowlevel.checkpoint()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """The bound address, with the port the kernel chose."""
        if self._socket is None:
            return ()
        name = self._socket.getsockname()
        family = "ip6" if ":" in name[0] else "ip4"
        return (Multiaddr(f"/{family}/{name[0]}/tcp/{name[1]}"),)

    async def close(self) -> None:
        """Stop accepting and end every connection accepted here."""
        self._scope.cancel()
        if self._socket is not None:
            self._socket.close()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _accept(self) -> None:
        assert self._socket is not None
        with self._scope:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        accepted, _ = await self._socket.accept()
                    except OSError as error:
                        if error.errno in _OUT_OF_RESOURCES:
                            await trio.sleep(ACCEPT_RETRY_S)
                        elif self._socket.fileno() < 0:
                            return
                        continue
                    nursery.start_soon(self._serve, accepted)

    async def _serve(self, accepted: trio.socket.SocketType) -> None:
        """Own one connection: its place at the gate lasts exactly as long as its socket."""
        with trio.CancelScope() as scope:
            stream = None
            admission = None
            try:
                admission = self._transport.gate.admit(accepted.getpeername()[0], scope.cancel)
                if admission is None:
                    return
                stream = TcpStream(accepted, admission)
                stream.on_close = scope.cancel
                while not admission.may_begin(trio.current_time()):  # noqa: ASYNC110  # time itself is what it waits for
                    await trio.sleep(HANDSHAKE_RETRY_S)
                await self._handler(stream)
            except OSError:
                return  # the peer was gone before we looked
            except Exception:  # noqa: BLE001  # supervision: whatever a peer's bytes did ends its connection only
                self._transport.n_failed += 1
            finally:
                if admission is not None:
                    admission.release()
                if stream is not None:
                    stream.close_now()
                accepted.close()


class TcpTransport(ITransport):  # type: ignore[misc]  # as above
    """Dials, and listens on sockets claimed beforehand."""

    def __init__(self, gate: AddressGate, sockets: Mapping[str, trio.socket.SocketType]) -> None:
        self.gate = gate
        self.sockets = sockets
        """Claimed listening sockets by multiaddr text."""
        self.n_failed = 0
        """Inbound connections ended by an exception nobody had foreseen."""

    async def dial(self, maddr: Multiaddr) -> RawConnection:
        """Connect; the caller sets the deadline.

        Raises:
            OpenConnectionError: Nobody answered, or it is no TCP address.
        """
        place = place_of(maddr)
        if place is None:
            raise OpenConnectionError(f"not a TCP address: {maddr}")
        try:
            stream = await trio.open_tcp_stream(*place)
        except OSError as error:
            raise OpenConnectionError(f"nobody answers at {maddr}") from error
        try:
            return RawConnection(TcpStream(stream.socket), True)
        except OSError as error:
            raise OpenConnectionError(f"the peer at {maddr} hung up at once") from error

    def create_listener(self, handler_function: ConnectionHandler) -> TcpListener:
        """A listener that hands every admitted connection to ``handler_function``."""
        return TcpListener(self, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Plain TCP only."""
        return place_of(maddr) is not None

    def can_listen(self, maddr: Multiaddr) -> bool:
        """Plain TCP only."""
        return place_of(maddr) is not None

    def protocols(self) -> list[str]:
        """The multiaddr protocol we handle."""
        return ["tcp"]


def place_of(maddr: Multiaddr) -> tuple[str, int] | None:
    """Host and port of ``/ip4|ip6|dns/../tcp/..[/p2p/..]``; None for anything else, relayed addresses too."""
    names = [protocol.name for protocol in maddr.protocols()]
    if len(names) not in (2, 3) or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or names[1] != "tcp":
        return None
    if names[2:] not in ([], ["p2p"]):
        return None
    host: Any = None
    port: Any = None
    with contextlib.suppress(Exception):  # multiaddr raises its own and the standard library's errors alike
        host, port = maddr.value_for_protocol(names[0]), maddr.value_for_protocol("tcp")
    return (str(host), int(port)) if host and port else None
