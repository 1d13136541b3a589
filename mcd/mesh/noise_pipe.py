"""Noise's transport messages straight over TCP: one layer in place of the five that libp2p stacks after the handshake.

A message is two bytes of length and a ChaCha20-Poly1305 box whose nonce counts messages; the handshake, still
libp2p's, leaves both keys and counts. libp2p 0.8.1 spends 45 calls on reading one message, which made a tenth of
what a small request costs its entry. Everything that has arrived is opened at once.
"""

from __future__ import annotations

from typing import Any

from libp2p.security.secure_session import SecureSession

LENGTH_BYTES = 2


class _Key:
    """One direction's key and count. Owner: its NoisePipe."""

    def __init__(self, cipher_state: Any) -> None:
        self.aead = cipher_state.cipher.cipher
        self._n = cipher_state.n

    def next_nonce(self) -> bytes:
        """Four zero bytes, then the count in little endian."""
        nonce: bytes = (self._n << 32).to_bytes(12, "little")
        self._n += 1
        return nonce


class NoisePipe:
    """A secured connection, as our muxer uses it. One reader and one writer at a time."""

    def __init__(self, session: SecureSession) -> None:
        """Take over a session that finished its handshake; nobody else may read or write it any more."""
        self.is_initiator: bool = session.is_initiator
        self._session = session
        self._tcp = session.conn.read_writer.read_write_closer.stream
        protocol = session.conn.noise_state.noise_protocol
        self._receiving = _Key(protocol.cipher_state_decrypt)
        self._sending = _Key(protocol.cipher_state_encrypt)
        self._left = b"" if session.low_watermark == session.high_watermark else session._drain(None)  # noqa: SLF001  # what negotiation did not take
        self._held = bytearray()

    async def read(self, _: int | None = None) -> bytes:
        """The plaintext of all messages that have arrived whole, at least one byte.

        Raises:
            ConnectionClosedError: The connection is gone.
            cryptography.exceptions.InvalidTag: A message is not what the peer sealed; the connection is lost.
        """
        plain, self._left = self._left, b""
        while not plain:
            self._held += await self._tcp.read()
            plain = self._open()
        return plain

    async def write(self, data: bytes) -> None:
        """Send one message of at most 65,519 bytes.

        Raises:
            ConnectionClosedError: The connection is gone.
        """
        sealed = self._sending.aead.encrypt(self._sending.next_nonce(), data, None)
        await self._tcp.write(len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed)

    async def close(self) -> None:
        """Close the socket."""
        await self._session.close()

    def get_remote_address(self) -> Any:
        """Host and port of the peer."""
        return self._session.get_remote_address()

    def get_transport_addresses(self) -> Any:
        """Multiaddrs of the connection."""
        return self._session.get_transport_addresses()

    def get_connection_type(self) -> Any:
        """Direct or relayed."""
        return self._session.get_connection_type()

    def _open(self) -> bytes:
        held, at = self._held, 0
        parts: list[bytes] = []
        while len(held) - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            end = begin + int.from_bytes(held[at:begin], "big")
            if end > len(held):
                break
            parts.append(self._receiving.aead.decrypt(self._receiving.next_nonce(), bytes(held[begin:end]), None))
            at = end
        del held[:at]
        return b"".join(parts)
