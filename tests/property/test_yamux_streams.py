"""Random lives of many streams, between two of ours and between ours and libp2p's own yamux, in memory.

Whatever is opened, written, paused, cancelled, half-closed and reset in whatever order and however the bytes are
split: what is read is a prefix of what was written, all of it where nothing was torn, and the connection lives.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux
from trio.testing import MockClock

from mcd.mesh import patches
from mcd.mesh.yamux import Yamux
from tests.fakes.memory_conn import conn_pair, two_yamux

patches.silence()

BIG = 400_000
"""More than a window."""
PAUSE_S = 20.0
SETTLE_S = 1.0
END = ("close", "reset", "cancel")

lives = st.lists(
    st.tuples(
        st.lists(st.sampled_from((1, 100, 5_000, BIG)), min_size=1, max_size=4),
        st.sampled_from(END),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
"""Of each stream: its writes, how it ends, whether its reader pauses."""
tame_lives = st.lists(
    st.tuples(
        st.lists(st.sampled_from((1, 100, 5_000, BIG)), min_size=1, max_size=3),
        st.sampled_from(("close", "reset")),
        st.just(False),
    ),
    min_size=1,
    max_size=8,
)
"""What stock yamux survives: it has no cancel and no pause."""


class Life:
    """What happened to one stream."""

    def __init__(self, sizes: list[int], end: str, pauses: bool) -> None:
        self.sizes, self.end, self.pauses = sizes, end, pauses
        self.sent = bytes(random.Random(sum(sizes)).randbytes(sum(sizes)))
        self.got = bytearray()
        self.saw_end = ""


async def write_life(life: Life, stream: Any) -> None:
    await stream.write(b"%08d" % len(life.sent))
    at = 0
    for size in life.sizes[:-1]:
        await stream.write(life.sent[at : at + size])
        at += size
    if life.end == "cancel":
        with trio.move_on_after(0.01):
            await stream.write(life.sent[at:])
            await trio.sleep_forever()
        await stream.reset()
    elif life.end == "reset":
        await stream.reset()
    else:
        await stream.write(life.sent[at:])
        await stream.close()


async def read_life(life: Life, stream: Any) -> None:
    if life.pauses:
        await trio.sleep(PAUSE_S)
    try:
        while True:
            life.got += await stream.read(30_000)
    except MuxedStreamEOF:
        life.saw_end = "eof"
    except MuxedStreamError:
        life.saw_end = "reset"
    await stream.close()


Pair = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]


async def live(lives: list[Life], pair: Pair) -> None:
    """Every life at once, opener to acceptor; then one more stream to prove that the connection is well."""
    async with pair() as (opener, acceptor), trio.open_nursery() as readers:

        async def accept() -> None:
            while True:
                stream = await acceptor.accept_stream()
                readers.start_soon(read_life, lives[(stream.stream_id - 1) // 2], stream)

        async with trio.open_nursery() as accepting:
            accepting.start_soon(accept)
            async with trio.open_nursery() as writers:
                for life in lives:
                    stream = await opener.open_stream()
                    writers.start_soon(write_life, life, stream)
            await trio.sleep(SETTLE_S)
            accepting.cancel_scope.cancel()
        await prove_alive(opener, acceptor)


async def prove_alive(opener: Any, acceptor: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say, opener)
        stream = await acceptor.accept_stream()
        got = b""
        while len(got) < 5:
            got += await stream.read(5)
        assert got == b"alive"


async def _say(opener: Any) -> None:
    stream = await opener.open_stream()
    await stream.write(b"alive")


def judge(lives: list[Life], *, is_reader_ours: bool) -> None:
    for life in lives:
        whole = b"%08d" % len(life.sent) + life.sent
        assert whole.startswith(bytes(life.got)), "bytes came out of order or out of nowhere"
        if life.end == "close":
            assert bytes(life.got) == whole
            assert life.saw_end == "eof"
        elif is_reader_ours:  # stock yamux may report a reset as the end
            assert life.saw_end == "reset" or not life.got, "a torn stream must not look whole"
            assert life.saw_end != "eof"


@asynccontextmanager
async def ours_and_stock(*, seed: int, we_dial: bool) -> AsyncIterator[tuple[Any, Any]]:
    left, right = conn_pair(seed=seed)
    ours = Yamux(left if we_dial else right, "stock")
    stock = StockYamux(right if we_dial else left, "ours", is_initiator=not we_dial)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.start)
        nursery.start_soon(stock.start)
        await ours.event_started.wait()
        await stock.event_started.wait()
        yield ours, stock
        nursery.cancel_scope.cancel()


def in_virtual_time(lives: list[Life], pair: Pair, *, is_reader_ours: bool = True) -> None:
    trio.run(live, lives, pair, clock=MockClock(autojump_threshold=0))
    judge(lives, is_reader_ours=is_reader_ours)


@settings(deadline=None, max_examples=80)
@given(lives, st.integers(0, 99), st.booleans())
def test_between_two_of_ours(plan: list[tuple[list[int], str, bool]], seed: int, odd: bool) -> None:
    in_virtual_time([Life(*life) for life in plan], lambda: two_yamux(seed=seed if odd else None, latency_s=0.005))


@settings(deadline=None, max_examples=25)
@given(tame_lives, st.integers(0, 99), st.booleans())
def test_from_ours_to_stock(plan: list[tuple[list[int], str, bool]], seed: int, we_dial: bool) -> None:
    in_virtual_time(
        [Life(*life) for life in plan], lambda: ours_and_stock(seed=seed, we_dial=we_dial), is_reader_ours=False
    )


@settings(deadline=None, max_examples=25)
@given(tame_lives, st.integers(0, 99), st.booleans())
def test_from_stock_to_ours(plan: list[tuple[list[int], str, bool]], seed: int, we_dial: bool) -> None:
    @asynccontextmanager
    async def stock_and_ours() -> AsyncIterator[tuple[Any, Any]]:
        async with ours_and_stock(seed=seed, we_dial=we_dial) as (ours, stock):
            yield stock, ours

    in_virtual_time([Life(*life) for life in plan], stock_and_ours)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_random_frames_end_a_connection_or_leave_it_in_order(seed: int) -> None:
    """Valid headers with random fields: the muxer never raises, never hangs, never keeps more than it granted."""
    trio.run(_random_frames, random.Random(seed), clock=MockClock(autojump_threshold=0))


async def _random_frames(rng: random.Random) -> None:
    from mcd.mesh import yamux_frame as wire
    from tests.fakes.memory_conn import yamux_and_peer

    async with yamux_and_peer() as (muxer, peer):
        for _ in range(200):
            kind = rng.choices((wire.DATA, wire.WINDOW, wire.PING, wire.GO_AWAY, 9), (50, 30, 15, 4, 0.2))[0]
            body = rng.randbytes(rng.choice((0, 1, 50, 3000))) if kind == wire.DATA else b""
            value = len(body) if kind == wire.DATA else rng.choice((0, 1, 2**31, 2**32 - 1))
            if muxer.is_closed:
                break
            stream_id = rng.choice((0, 1, 3, 3, 5, 7, 2, 2**32 - 1))
            await peer.conn.write(wire.encode(kind, rng.randrange(16), stream_id, value) + body)
            await trio.sleep(0.01)
        assert muxer.n_unread_bytes <= 8 * wire.INITIAL_WINDOW_BYTES
        await muxer.close()
        await muxer.event_closed.wait()
        assert muxer.n_streams == 0
        assert muxer.n_unread_bytes == 0
