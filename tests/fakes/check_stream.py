"""What every ports.Stream does. The real streams and the fake ones are held to the same list.

``make_pair`` opens one stream and yields (opener's end, acceptor's end); the opener's first bytes are FIRST.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from mcd.errors import StreamBrokenError
from mcd.ports import Stream

FIRST = b"first bytes"
MORE_THAN_A_WINDOW = 1_500_000
PATIENCE_S = 15.0
SETTLE_S = 0.3

MakePair = Callable[[], AbstractAsyncContextManager[tuple[Stream, Stream]]]


async def check_stream(make_pair: MakePair) -> None:
    """Run every check, each on a fresh stream.

    Raises:
        AssertionError: A check failed.
    """
    for check in CHECKS:
        with trio.fail_after(PATIENCE_S):
            async with make_pair() as (left, right):
                await check(left, right, make_pair)


async def exactly(stream: Stream, n_bytes: int) -> bytes:
    """Receive ``n_bytes``, and assert that no piece is empty or over 64 KiB."""
    got = bytearray()
    while len(got) < n_bytes:
        piece = await stream.receive()
        assert 1 <= len(piece) <= 65_536
        got += piece
    return bytes(got)


async def _send_forever(stream: Stream) -> None:
    while True:
        await stream.send(bytes(50_000))


async def _receive_forever(stream: Stream) -> None:
    while True:
        assert await stream.receive() != b"", "a torn message must not look like an end"


async def first_bytes_come_first(left: Stream, right: Stream, _: MakePair) -> None:
    await left.send(b", more")
    assert await exactly(right, len(FIRST) + 6) == FIRST + b", more"
    await right.send(b"reply")
    assert await exactly(left, 5) == b"reply"
    assert left.peer_id != right.peer_id


async def both_directions_at_once(left: Stream, right: Stream, _: MakePair) -> None:
    data = bytes(range(256)) * (MORE_THAN_A_WINDOW // 256)
    got: dict[str, bytes] = {}

    async def receive(name: str, stream: Stream, n_bytes: int) -> None:
        got[name] = await exactly(stream, n_bytes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.send, data)
        nursery.start_soon(right.send, data[::-1])
        nursery.start_soon(receive, "right", right, len(FIRST) + len(data))
        nursery.start_soon(receive, "left", left, len(data))
    assert got["right"] == FIRST + data
    assert got["left"] == data[::-1]


async def close_ends_one_half(left: Stream, right: Stream, _: MakePair) -> None:
    await left.send(b"last words")
    await left.close()
    assert await exactly(right, len(FIRST) + 10) == FIRST + b"last words"
    assert await right.receive() == b""
    assert await right.receive() == b"", "the end stays the end"
    await right.send(b"still talking")
    assert await exactly(left, 13) == b"still talking"
    with pytest.raises(StreamBrokenError):
        await left.send(b"after close")
    await right.close()
    assert await left.receive() == b""
    await left.close()
    await left.reset()


async def abandon_ends_one_half_and_reads_no_more(left: Stream, right: Stream, _: MakePair) -> None:
    await left.send(b"last words")
    left.abandon()
    left.abandon()
    await right.send(b"for nobody")
    assert await exactly(right, len(FIRST) + 10) == FIRST + b"last words"
    assert await right.receive() == b""
    with pytest.raises(StreamBrokenError):
        await left.send(b"after the end")


async def reset_ends_both(left: Stream, right: Stream, _: MakePair) -> None:
    await exactly(right, len(FIRST))
    await left.reset()
    await left.reset()
    with pytest.raises(StreamBrokenError):
        await right.receive()
    with pytest.raises(StreamBrokenError):
        await right.send(b"x")
    with pytest.raises(StreamBrokenError):
        await left.receive()
    with pytest.raises(StreamBrokenError):
        await left.send(b"x")
    await right.reset()


async def reset_stops_a_blocked_sender(left: Stream, right: Stream, _: MakePair) -> None:
    stopped = []

    async def send_forever() -> None:
        with pytest.raises(StreamBrokenError):
            await _send_forever(right)
        stopped.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_forever)
        await trio.sleep(SETTLE_S)
        assert not stopped, "a full window is no error"
        await left.reset()
    assert stopped


async def a_slow_reader_pauses_only_its_sender(left: Stream, right: Stream, make_pair: MakePair) -> None:
    n_sent = 0

    async def send() -> None:
        nonlocal n_sent
        for _ in range(30):
            await left.send(bytes(50_000))
            n_sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(SETTLE_S)
        assert n_sent < 30, "nobody reads, so the sender must wait"
        async with make_pair() as (other_left, other_right):
            await exactly(other_right, len(FIRST))
            await other_right.send(b"free")
            assert await exactly(other_left, 4) == b"free"
        assert len(await exactly(right, len(FIRST) + 1_500_000)) == len(FIRST) + 1_500_000


async def a_cancelled_receive_loses_nothing(left: Stream, right: Stream, _: MakePair) -> None:
    await exactly(right, len(FIRST))
    for _ in range(5):
        with trio.move_on_after(SETTLE_S / 30) as scope:
            await right.receive()
        assert scope.cancelled_caught
    await left.send(b"whole")
    assert await exactly(right, 5) == b"whole"


async def a_cancelled_send_breaks_only_its_stream(left: Stream, right: Stream, make_pair: MakePair) -> None:
    with trio.move_on_after(SETTLE_S) as scope:
        await left.send(bytes(3_000_000))
    assert scope.cancelled_caught
    with pytest.raises(StreamBrokenError):
        await _receive_forever(right)
    for _ in range(5):
        async with make_pair() as (other_left, other_right):
            await exactly(other_right, len(FIRST))
            await other_right.send(b"alive")
            assert await exactly(other_left, 5) == b"alive"


async def nothing_is_nothing(left: Stream, right: Stream, _: MakePair) -> None:
    await left.send(b"")
    await left.send(b"x")
    assert await exactly(right, len(FIRST) + 1) == FIRST + b"x"


async def a_waiting_receive_wakes(left: Stream, right: Stream, _: MakePair) -> None:
    await exactly(right, len(FIRST))

    async def later() -> None:
        await trio.sleep(SETTLE_S / 3)
        await left.send(b"wake")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await exactly(right, 4) == b"wake"


CHECKS = (
    first_bytes_come_first,
    both_directions_at_once,
    close_ends_one_half,
    abandon_ends_one_half_and_reads_no_more,
    reset_ends_both,
    reset_stops_a_blocked_sender,
    a_slow_reader_pauses_only_its_sender,
    a_cancelled_receive_loses_nothing,
    a_cancelled_send_breaks_only_its_stream,
    nothing_is_nothing,
    a_waiting_receive_wakes,
)
