"""The optimistic open: multistream lines, however they are split, and every wrong answer."""

from __future__ import annotations

import weakref

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from multiaddr import Multiaddr
from trio.testing import MockClock

from mcd.conversation import Conversation
from mcd.errors import StreamBrokenError
from mcd.exchange.events import PeerClosed, RequestAccepted
from mcd.exchange.states import Role
from mcd.ids import PeerId
from mcd.mesh import yamux_frame as wire
from mcd.mesh.stream import MULTISTREAM, MeshStream, line
from mcd.mesh.tcp import place_of
from mcd.mesh.yamux import ABANDONED_S
from mcd.ports import Stream
from mcd.wire.codec import encode_exchange
from mcd.wire.framing import frame
from mcd.wire.messages import HEADER_BYTES, Abort, AbortCode, Accepted, Request
from tests.fakes.engine_entry import RealClock
from tests.fakes.memory_conn import yamux_and_peer

PROTOCOL = b"/mc/exchange/1"
AGREED = line(MULTISTREAM) + line(PROTOCOL)


async def receive_after(answer: list[bytes]) -> bytes | None:
    """What the opener reads when the peer answers with these pieces and ends; None when the stream broke."""
    async with yamux_and_peer() as (muxer, peer):
        stream = MeshStream(await muxer.open_stream(), PeerId("peer"), expected=AGREED)
        for piece in answer:
            await peer.data(2, piece)
            await trio.sleep(0.01)
        await peer.send(wire.WINDOW, wire.FIN, 2)
        got = b""
        try:
            while data := await stream.receive():
                got += data
        except StreamBrokenError:
            return None
        return got


def run(answer: list[bytes]) -> bytes | None:
    return trio.run(receive_after, answer, clock=MockClock(autojump_threshold=0))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.lists(st.integers(1, 20), min_size=1, max_size=10))
def test_the_answer_may_be_split_anywhere(reply: bytes, sizes: list[int]) -> None:
    raw, pieces, at = AGREED + reply, [], 0
    while at < len(raw):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(raw[at : at + size])
        at += size
    assert run(pieces) == reply


@pytest.mark.parametrize(
    "answer",
    [
        line(MULTISTREAM) + line(b"na"),
        line(b"/multistream/2.0.0") + line(PROTOCOL),
        line(MULTISTREAM) + line(b"/mc/exchange/2"),
        b"\x00",
        b"\xff\xff\x03rest",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        line(MULTISTREAM),
        bytes(5000),
    ],
    ids=["na", "multistream 2", "other protocol", "empty line", "huge line", "http", "silence", "half", "zeros"],
)
def test_any_other_answer_breaks_the_stream(answer: bytes) -> None:
    assert run([answer] if answer else []) is None


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=1, max_size=2000))
def test_garbage_never_passes_for_an_answer(answer: bytes) -> None:
    assert run([answer]) is None


def test_long_lines_have_long_lengths() -> None:
    assert line(b"x" * 126)[:1] == b"\x7f"
    assert line(b"x" * 127)[:2] == b"\x80\x01"
    assert line(b"x" * 300)[:2] == b"\xad\x02"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/ip4/192.0.2.1/tcp/4101", ("192.0.2.1", 4101)),
        ("/ip6/2001:db8::1/tcp/4101", ("2001:db8::1", 4101)),
        ("/dns4/example.org/tcp/1", ("example.org", 1)),
        ("/ip4/192.0.2.1/udp/4101/quic-v1", None),
        ("/ip4/192.0.2.1/tcp/4101/ws", None),
        ("/ip4/192.0.2.1", None),
        ("/unix/tmp", None),
    ],
)
def test_only_plain_tcp_is_dialled(text: str, place: tuple[str, int] | None) -> None:
    assert place_of(Multiaddr(text)) == place


def test_a_relayed_address_is_not_plain_tcp() -> None:
    peer = "12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"
    assert place_of(Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{peer}")) == ("192.0.2.1", 1)
    assert place_of(Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{peer}/p2p-circuit")) is None


@pytest.mark.autojump
@pytest.mark.parametrize("last", [Abort(AbortCode.PROTOCOL), Abort(AbortCode.ENVELOPE)])
async def test_what_comes_after_an_entrys_last_word_is_not_kept(last: Abort) -> None:
    """Only its half ended: a window full of what a liar went on sending stayed unread, for five minutes each time."""
    async with yamux_and_peer() as (muxer, peer):
        talk = Conversation(Role.ENTRY, RealClock(), MeshStream(await muxer.open_stream(), PeerId("peer")))
        await talk.send(Request(bytes(HEADER_BYTES), b"sealed", 1))
        await peer.data(2, bytes(1000))
        await talk.end(last)
        await peer.data(2, bytes(200_000))
        await trio.sleep(1)
        assert muxer.n_unread_bytes == 0
        await trio.sleep(2 * ABANDONED_S)
        assert muxer.n_streams == 0


@pytest.mark.autojump
async def test_a_request_opens_one_stream_and_is_not_kept_once_it_is_sent() -> None:
    """All of it, eight megabytes of pictures perhaps, stayed in memory for as long as its answer took."""
    n_opened = 0

    class Open:
        async def __call__(self, first: bytes) -> Stream:
            nonlocal n_opened
            n_opened += 1
            stream = MeshStream(await muxer.open_stream(), PeerId("peer"))
            await stream.send(first)
            await peer.data(2, frame(encode_exchange(Accepted(0, 0))))
            return stream

    async with yamux_and_peer() as (muxer, peer):
        talk, open_stream = Conversation(Role.ENTRY, RealClock()), Open()
        talk.ask(Request(bytes(HEADER_BYTES), b"sealed", 1), open_stream)
        kept = weakref.ref(open_stream)
        del open_stream
        assert isinstance(await talk.next_event(), RequestAccepted)
        assert kept() is None
        await peer.send(wire.WINDOW, wire.RST, 2)
        assert await talk.next_event() == PeerClosed(is_truncated=True)
        assert n_opened == 1


@pytest.mark.autojump
async def test_a_stream_that_cannot_be_opened_is_not_tried_again() -> None:
    n_opened = 0

    async def open_stream(_: bytes) -> Stream:
        nonlocal n_opened
        n_opened += 1
        raise StreamBrokenError("nobody there")

    talk = Conversation(Role.ENTRY, RealClock())
    talk.ask(Request(bytes(HEADER_BYTES), b"sealed", 1), open_stream)
    with pytest.raises(StreamBrokenError):
        await talk.next_event()
    assert await talk.next_event() == PeerClosed(is_truncated=True)
    assert n_opened == 1
