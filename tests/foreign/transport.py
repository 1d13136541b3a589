"""libp2p's TCP, multistream-select, Noise XX and yamux, as far as a ModelCloud peer needs them.   [01: links]"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MULTISTREAM, NOISE, YAMUX = "/multistream/1.0.0", "/noise", "/yamux/1.0.0"
KEY_PREFIX = bytes.fromhex("08011220")
"""libp2p's PublicKey protobuf of an Ed25519 key, before its 32 bytes."""
WINDOW_BYTES = 256 * 1024
"""What yamux lets either side send on a new stream."""
PIECE_BYTES = 32 * 1024
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]
Handler = Callable[["Stream"], Awaitable[None]]


class PeerError(Exception):
    """The other side broke a rule or is gone."""


def multihash(public_key: bytes) -> bytes:
    """What a peer id spells."""
    return b"\x00\x24" + KEY_PREFIX + public_key


def peer_id(public_key: bytes) -> str:
    """The name of an Ed25519 key.   [ID-01]"""
    number, text = int.from_bytes(multihash(public_key), "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return "1" + text  # the leading zero byte


def key_of(name: str) -> bytes:
    """The Ed25519 key that a peer id names.   [ID-02]"""
    number = 0
    for letter in name if len(name) == 52 else "":
        number = number * 58 + BASE58.find(letter) if letter in BASE58 else 0
    key = number.to_bytes(48, "big")[-32:]
    if peer_id(key) != name:
        raise PeerError("not a peer id")
    return key


class EndError(PeerError):
    """The other side ended its half, between two reads."""


# --- multistream-select: each line is a varint length, the text and a newline


async def read_line(read: Read) -> str:
    """The next line, without its newline."""
    length = (await read(1))[0]
    if length & 0x80:
        length = length & 0x7F | (await read(1))[0] << 7
    text = await read(length)
    if not text.endswith(b"\n"):
        raise PeerError("not a line")
    return text[:-1].decode("ascii", "replace")


def line(text: str) -> bytes:
    """One line; ours are shorter than 128 bytes."""
    return bytes([len(text) + 1]) + text.encode() + b"\n"


async def select(read: Read, write: Write, protocol: str) -> None:
    """Ask for one protocol and be granted it."""
    await write(line(MULTISTREAM) + line(protocol))
    if await read_line(read) != MULTISTREAM or await read_line(read) != protocol:
        raise PeerError(f"the peer does not speak {protocol}")


async def grant(read: Read, write: Write, known: Container[str]) -> str:
    """Be asked for protocols until one is known; which."""
    await write(line(MULTISTREAM))
    await read_line(read)
    while (asked := await read_line(read)) not in known:
        await write(line("na"))
    await write(line(asked))
    return asked


# --- Noise_XX_25519_ChaChaPoly_SHA256 with libp2p's identity payload


class Cipher:
    """One direction: a key and the number of the next message."""

    def __init__(self, key: bytes) -> None:
        self.aead, self.n = ChaCha20Poly1305(key), 0

    def nonce(self) -> bytes:
        self.n += 1
        return struct.pack("<4xQ", self.n - 1)


class Handshake:
    """The symmetric state of a Noise handshake."""

    def __init__(self) -> None:
        self.ck = self.h = b"Noise_XX_25519_ChaChaPoly_SHA256"
        self.cipher = Cipher(bytes(32))
        self.mix_hash(b"")

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, secret: bytes) -> tuple[bytes, bytes]:
        prk = hmac.digest(self.ck, secret, "sha256")
        first = hmac.digest(prk, b"\1", "sha256")
        return first, hmac.digest(prk, first + b"\2", "sha256")

    def mix_key(self, secret: bytes) -> None:
        self.ck, key = self.hkdf(secret)
        self.cipher = Cipher(key)

    def seal(self, plain: bytes) -> bytes:
        sealed = self.cipher.aead.encrypt(self.cipher.nonce(), plain, self.h)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plain = self.cipher.aead.decrypt(self.cipher.nonce(), sealed, self.h)
        self.mix_hash(sealed)
        return plain


def identity_payload(identity: Ed25519PrivateKey, static: bytes) -> bytes:
    """Protobuf of the identity key (1) and its signature over the static key (2)."""
    signature = identity.sign(b"noise-libp2p-static-key:" + static)
    return b"\x0a\x24" + KEY_PREFIX + identity.public_key().public_bytes_raw() + b"\x12\x40" + signature


def protobuf(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field number and bytes of a message that has only fields of bytes below 128."""
    while data:
        yield data[0] >> 3, data[2 : 2 + data[1]]
        data = data[2 + data[1] :]


def proven_key(payload: bytes, static: bytes) -> bytes:
    """The identity key whose signature over this static key the payload holds."""
    fields = dict(protobuf(payload))
    key = fields[1].removeprefix(KEY_PREFIX)
    Ed25519PublicKey.from_public_bytes(key).verify(fields[2], b"noise-libp2p-static-key:" + static)
    return key


def agree(ours: X25519PrivateKey, theirs: bytes) -> bytes:
    """Diffie-Hellman with a key as it was sent."""
    return ours.exchange(X25519PublicKey.from_public_bytes(theirs))


class Secure:
    """The TCP stream under Noise: two ciphers, and plaintext that was not read yet."""

    def __init__(self, tcp: trio.SocketStream) -> None:
        self.tcp, self.raw, self.plain = tcp, bytearray(), bytearray()
        self.ours = self.theirs = Cipher(bytes(32))

    async def read_raw(self, n: int) -> bytes:
        while len(self.raw) < n:
            more = await self.tcp.receive_some()
            if not more:
                raise PeerError("the connection ended")
            self.raw += more
        taken, self.raw = bytes(self.raw[:n]), self.raw[n:]
        return taken

    async def read_message(self) -> bytes:
        return await self.read_raw(int.from_bytes(await self.read_raw(2), "big"))

    async def write_message(self, message: bytes) -> None:
        await self.tcp.send_all(len(message).to_bytes(2, "big") + message)

    async def read(self, n: int) -> bytes:
        while len(self.plain) < n:
            self.plain += self.theirs.aead.decrypt(self.theirs.nonce(), await self.read_message(), None)
        taken, self.plain = bytes(self.plain[:n]), self.plain[n:]
        return taken

    async def write(self, data: bytes) -> None:
        await self.write_message(self.ours.aead.encrypt(self.ours.nonce(), data, None))

    async def initiate(self, identity: Ed25519PrivateKey) -> bytes:
        """XX, `-> e`, `<- e ee s es`, `-> s se`, from the first side; the key that the other one proved."""
        noise, e, s = Handshake(), X25519PrivateKey.generate(), X25519PrivateKey.generate()
        noise.mix_hash(e.public_key().public_bytes_raw())
        noise.mix_hash(b"")
        await self.write_message(e.public_key().public_bytes_raw())

        message = await self.read_message()
        noise.mix_hash(message[:32])
        noise.mix_key(agree(e, message[:32]))
        their_static = noise.open(message[32:80])
        noise.mix_key(agree(e, their_static))
        key = proven_key(noise.open(message[80:]), their_static)

        our_static = s.public_key().public_bytes_raw()
        sealed = noise.seal(our_static)
        noise.mix_key(agree(s, message[:32]))
        await self.write_message(sealed + noise.seal(identity_payload(identity, our_static)))
        self.ours, self.theirs = map(Cipher, noise.hkdf(b""))
        return key

    async def respond(self, identity: Ed25519PrivateKey) -> bytes:
        """The same from the second side."""
        noise, e, s = Handshake(), X25519PrivateKey.generate(), X25519PrivateKey.generate()
        their_e = await self.read_message()
        noise.mix_hash(their_e)
        noise.mix_hash(b"")

        our_e, our_static = e.public_key().public_bytes_raw(), s.public_key().public_bytes_raw()
        noise.mix_hash(our_e)
        noise.mix_key(agree(e, their_e))
        sealed = noise.seal(our_static)
        noise.mix_key(agree(s, their_e))
        await self.write_message(our_e + sealed + noise.seal(identity_payload(identity, our_static)))

        message = await self.read_message()
        their_static = noise.open(message[:48])
        noise.mix_key(agree(e, their_static))
        key = proven_key(noise.open(message[48:]), their_static)
        self.theirs, self.ours = map(Cipher, noise.hkdf(b""))
        return key


# --- yamux


class Stream:
    """One stream of a link: `read`, `write`, `close` our half, `reset`."""

    def __init__(self, link: Link, number: int) -> None:
        self.link, self.number, self.protocol = link, number, ""
        self.arrived, self.ended, self.broken = bytearray(), False, False
        self.credit, self.changed = WINDOW_BYTES, trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def read(self, n: int) -> bytes:
        """Exactly ``n`` bytes; raises PeerError when the stream ends or breaks before."""
        taken = b""
        while len(taken) < n:
            while not self.arrived:
                if self.broken or (self.ended and taken):
                    raise PeerError("the stream broke off")
                if self.ended:
                    raise EndError("the stream ended")
                await self.changed.wait()
            piece = bytes(self.arrived[: n - len(taken)])
            self.arrived = self.arrived[len(piece) :]
            taken += piece
            await self.link.send(WINDOW, 0, self.number, len(piece))
        return taken

    async def write(self, data: bytes) -> None:
        while data:
            while not self.credit and not self.broken:
                await self.changed.wait()
            if self.broken:
                raise PeerError("the stream was reset")
            piece = data[: min(self.credit, PIECE_BYTES)]
            data, self.credit = data[len(piece) :], self.credit - len(piece)
            await self.link.send(DATA, 0, self.number, len(piece), piece)

    async def close(self) -> None:
        """End our half."""
        await self.link.send(WINDOW, FIN, self.number, 0)

    async def reset(self) -> None:
        self.broken = True
        await self.link.send(WINDOW, RST, self.number, 0)


class Link:
    """A connection to one peer, whose key is proven, with streams in both directions."""

    def __init__(self, secure: Secure, key: bytes, handlers: dict[str, Handler], first_number: int = 1) -> None:
        self.secure, self.key, self.handlers = secure, key, handlers
        self.streams: dict[int, Stream] = {}
        self.next_number, self.sending = first_number, trio.Lock()

    async def send(self, kind: int, flags: int, number: int, length: int, data: bytes = b"") -> None:
        async with self.sending:
            await self.secure.write(struct.pack(">BBHII", 0, kind, flags, number, length) + data)

    async def open(self, protocol: str) -> Stream:
        """A new stream that the other side takes for ``protocol``."""
        stream = self.streams[self.next_number] = Stream(self, self.next_number)
        self.next_number += 2
        await self.send(WINDOW, SYN, stream.number, 0)
        await select(stream.read, stream.write, protocol)
        stream.protocol = protocol
        return stream

    async def answer(self, stream: Stream) -> None:
        """Agree on a protocol that we handle, and handle it."""
        try:
            stream.protocol = await grant(stream.read, stream.write, self.handlers)
            await self.handlers[stream.protocol](stream)
        except PeerError:
            await stream.reset()

    async def run(self, nursery: trio.Nursery) -> None:
        """Take what arrives until the connection ends."""
        try:
            while True:
                _, kind, flags, number, length = struct.unpack(">BBHII", await self.secure.read(12))
                data = await self.secure.read(length) if kind == DATA else b""
                if kind == PING and flags & SYN:
                    await self.send(PING, ACK, 0, length)
                if kind not in (DATA, WINDOW):
                    continue
                if flags & SYN:
                    self.streams[number] = Stream(self, number)
                    await self.send(WINDOW, ACK, number, 0)
                    nursery.start_soon(self.answer, self.streams[number])
                if stream := self.streams.get(number):
                    stream.arrived += data
                    stream.credit += length if kind == WINDOW else 0
                    stream.ended |= bool(flags & FIN)
                    stream.broken |= bool(flags & RST)
                    stream.wake()
        except (PeerError, trio.BrokenResourceError, trio.ClosedResourceError):
            for stream in self.streams.values():
                stream.broken = True
                stream.wake()


@contextlib.asynccontextmanager
async def dial(address: str, identity: Ed25519PrivateKey, handlers: dict[str, Handler]) -> AsyncIterator[Link]:
    """A link to the peer of `/ip4/A/tcp/P/p2p/ID`; ends with the block."""
    _, _, host, _, port, _, name = address.split("/")
    async with await trio.open_tcp_stream(host, int(port)) as tcp:
        secure = Secure(tcp)
        with trio.fail_after(10):
            await select(secure.read_raw, tcp.send_all, NOISE)
            if await secure.initiate(identity) != key_of(name):
                raise PeerError("another peer answered")
            await select(secure.read, secure.write, YAMUX)
        failed = None
        async with trio.open_nursery() as nursery:
            link = Link(secure, key_of(name), handlers)
            nursery.start_soon(link.run, nursery)
            try:
                yield link
            except PeerError as error:
                failed = error
            nursery.cancel_scope.cancel()
    if failed:
        raise failed  # as itself and not in a group


async def listen(identity: Ed25519PrivateKey, handlers: dict[str, Handler], nursery: trio.Nursery) -> str:
    """Take links on a free port of loopback until cancelled; the multiaddr to dial."""

    async def welcome(tcp: trio.SocketStream) -> None:
        with contextlib.suppress(PeerError, trio.BrokenResourceError):
            secure = Secure(tcp)
            await grant(secure.read_raw, tcp.send_all, {NOISE})
            key = await secure.respond(identity)
            await grant(secure.read, secure.write, {YAMUX})
            async with trio.open_nursery() as streams:
                await Link(secure, key, handlers, first_number=2).run(streams)
                streams.cancel_scope.cancel()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, welcome, [listener])
    port = listener.socket.getsockname()[1]
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(identity.public_key().public_bytes_raw())}"
