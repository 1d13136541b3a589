"""NoisePipe over a made-up socket: however the bytes arrive, what was sealed comes out, once and in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.mesh.noise_pipe import NoisePipe

KEYS = (b"a" * 32, b"b" * 32)


class Wire:
    """A socket that delivers what it is told to, and keeps what is written."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.written = b""

    async def read(self, n: int | None = None) -> bytes:
        return self.pieces.pop(0)

    async def write(self, data: bytes) -> None:
        self.written += data


def pipe(wire: Wire, *, is_initiator: bool = True, left: bytes = b"", n_used: int = 0) -> NoisePipe:
    states = [SimpleNamespace(n=n_used, cipher=SimpleNamespace(cipher=ChaCha20Poly1305(key))) for key in KEYS]
    sending, receiving = states if is_initiator else reversed(states)
    protocol = SimpleNamespace(cipher_state_encrypt=sending, cipher_state_decrypt=receiving)
    session: Any = SimpleNamespace(
        is_initiator=is_initiator,
        low_watermark=0,
        high_watermark=len(left),
        _drain=lambda _: left,
        conn=SimpleNamespace(
            noise_state=SimpleNamespace(noise_protocol=protocol),
            read_writer=SimpleNamespace(read_write_closer=SimpleNamespace(stream=wire)),
        ),
    )
    return NoisePipe(session)


async def sealed(messages: list[bytes]) -> bytes:
    wire = Wire([])
    ours = pipe(wire)
    for message in messages:
        await ours.write(message)
    return wire.written


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=6), st.lists(st.integers(1, 300)))
def test_messages_come_out_whole_however_their_bytes_arrive(messages: list[bytes], sizes: list[int]) -> None:
    async def main() -> None:
        data = await sealed(messages)
        pieces = []
        for size in [*sizes, len(data)]:
            pieces.append(data[:size])
            data = data[size:]
        theirs = pipe(Wire([piece for piece in pieces if piece]), is_initiator=False)
        got = b""
        while len(got) < sum(map(len, messages)):
            got += await theirs.read()
        assert got == b"".join(messages)

    trio.run(main)


async def test_what_arrived_together_is_read_together() -> None:
    theirs = pipe(Wire([await sealed([b"one", b"two", b"three"])]), is_initiator=False)
    assert await theirs.read() == b"onetwothree"


async def test_a_message_as_libp2p_writes_it_is_length_then_box() -> None:
    data = await sealed([b"hello"])
    assert data[:2] == (5 + 16).to_bytes(2, "big")
    assert ChaCha20Poly1305(KEYS[0]).decrypt(bytes(12), data[2:], None) == b"hello"


async def test_the_counts_go_on_where_the_negotiation_left_them() -> None:
    wire = Wire([])
    await pipe(wire, n_used=3).write(b"x")
    assert ChaCha20Poly1305(KEYS[0]).decrypt(bytes(4) + (3).to_bytes(8, "little"), wire.written[2:], None) == b"x"


async def test_what_the_negotiation_did_not_take_comes_first() -> None:
    theirs = pipe(Wire([await sealed([b"new"])]), is_initiator=False, left=b"left")
    assert [await theirs.read(), await theirs.read()] == [b"left", b"new"]


async def test_an_empty_message_is_no_end() -> None:
    theirs = pipe(Wire([await sealed([b"", b"x"])]), is_initiator=False)
    assert await theirs.read() == b"x"


@pytest.mark.parametrize("change", ["flip", "drop", "swap"])
async def test_a_tampered_stream_is_refused(change: str) -> None:
    data = bytearray(await sealed([b"one", b"two"]))
    half = len(data) // 2
    if change == "flip":
        data[-1] ^= 1
    elif change == "drop":
        del data[:half]
    else:
        data = data[half:] + data[:half]
    theirs = pipe(Wire([bytes(data)]), is_initiator=False)
    with pytest.raises(InvalidTag):
        await theirs.read()
