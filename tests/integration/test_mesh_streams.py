"""ports.Stream over real libp2p: the shared checker, a foreign (stock) peer both ways, many streams at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcd.errors import StreamBrokenError
from mcd.mesh import yamux
from mcd.mesh.host import Host
from mcd.mesh.stream import agreement
from mcd.ports import Stream
from tests.fakes.check_stream import FIRST, check_stream, exactly
from tests.integration.mesh_hosts import ECHO, echo, running, two, until

PAIR = "/mc/pair/1"


@asynccontextmanager
async def pair(left_host: Host, right_host: Host) -> AsyncIterator[tuple[Stream, Stream]]:
    """One stream, held open on both sides until the context ends."""
    accepted, done = trio.open_memory_channel[Stream](1), trio.Event()

    async def handler(stream: Stream) -> None:
        await accepted[0].send(stream)
        await done.wait()

    right_host.serve(PAIR, handler)
    left = await left_host.open_stream(right_host.peer_id, PAIR, FIRST)
    try:
        yield left, await accepted[1].receive()
    finally:
        await left.reset()
        done.set()


async def test_real_streams_pass_the_checker() -> None:
    async with two() as (left, right):
        await check_stream(lambda: pair(left, right))
        await trio.sleep(0.2)
        assert right.counters()["unread_bytes"] == 0
        assert left.counters()["unread_bytes"] == 0


async def test_streams_opened_by_the_peer_that_was_dialled_pass_too() -> None:
    async with two() as (left, right):
        await check_stream(lambda: pair(right, left))


async def test_a_protocol_nobody_serves_surfaces_at_the_first_receive() -> None:
    async with two() as (left, right):
        stream = await left.open_stream(right.peer_id, "/mc/none/1", b"first")
        with pytest.raises(StreamBrokenError, match="does not speak this protocol"):
            await stream.receive()
        with pytest.raises(StreamBrokenError):
            await stream.send(b"more")


AGREED = agreement(ECHO)


@pytest.mark.parametrize(
    "pieces",
    [
        [AGREED + b"hello"],
        [AGREED, b"hello"],
        [AGREED[:20], AGREED[20:] + b"hello"],
        [AGREED[:30], AGREED[30:], b"hello"],
    ],
    ids=["at once", "then the message", "line by line", "cut in a line"],
)
async def test_an_opener_may_send_its_lines_in_any_pieces(pieces: list[bytes]) -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)
        stream = await left.swarm.get_connections()[0].muxed_conn.open_stream()
        for piece in pieces:
            await stream.write(piece)
            await trio.sleep(0.05)
        got = b""
        while len(got) < len(AGREED) + 5:
            got += await stream.read()
        assert got == AGREED + b"hello"


async def test_one_who_names_our_protocol_at_once_is_not_read_byte_by_byte() -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)
        right.libp2p.multiselect.handlers.clear()  # who is left to libp2p is refused
        stream = await left.open_stream(right.peer_id, ECHO, b"hello")
        assert await exactly(stream, 5) == b"hello"


async def test_300_streams_at_once_on_one_link() -> None:
    """Stock yamux hangs at the 257th (pitfall 6); its acknowledgement backlog is kept nevertheless."""
    async with two() as (left, right):
        right.serve(ECHO, echo)
        n_done = 0

        async def one(index: int, everybody: trio.Event) -> None:
            nonlocal n_done
            stream = await left.open_stream(right.peer_id, ECHO, b"%d " % index)
            assert await exactly(stream, len(b"%d " % index)) == b"%d " % index
            n_done += 1
            if n_done == 300:
                everybody.set()
            await everybody.wait()
            await stream.send(b"bye")
            assert await exactly(stream, 3) == b"bye"
            await stream.close()
            assert await stream.receive() == b""

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                everybody = trio.Event()
                for index in range(300):
                    nursery.start_soon(one, index, everybody)


async def test_a_handler_that_fails_resets_its_stream_only() -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)

        async def fails(stream: Stream) -> None:
            await stream.receive()
            raise RuntimeError("a bug")

        right.serve("/mc/fails/1", fails)
        healthy = await left.open_stream(right.peer_id, ECHO, b"a")
        broken = await left.open_stream(right.peer_id, "/mc/fails/1", b"b")
        with pytest.raises(StreamBrokenError):
            await broken.receive()
        assert await exactly(healthy, 1) == b"a"
        assert right.counters()["streams_failed"] == 1


async def test_a_handler_that_returns_ends_the_stream() -> None:
    async with two() as (left, right):

        async def answers(stream: Stream) -> None:
            await stream.receive()
            await stream.send(b"answer")

        right.serve("/mc/answer/1", answers)
        stream = await left.open_stream(right.peer_id, "/mc/answer/1", b"question")
        assert await exactly(stream, 6) == b"answer"
        assert await stream.receive() == b""


async def test_streams_of_one_peer_are_capped() -> None:
    async with running("127.0.0.1", max_streams_per_peer=4) as right, running("127.0.0.2") as left:
        right.serve(ECHO, echo)
        await left.connect(right.peer_id, right.addresses())
        await trio.sleep(0.3)  # identify's own stream ends
        held = [await left.open_stream(right.peer_id, ECHO, b"x") for _ in range(4)]
        for stream in held:
            assert await exactly(stream, 1) == b"x"
        one_more = await left.open_stream(right.peer_id, ECHO, b"x")
        with pytest.raises(StreamBrokenError):
            await one_more.receive()
        await held[0].reset()
        await trio.sleep(0.2)
        again = await left.open_stream(right.peer_id, ECHO, b"y")
        assert await exactly(again, 1) == b"y"


async def test_a_peer_that_acknowledges_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)
        await trio.sleep(0.3)  # identify has its streams
        monkeypatch.setattr(yamux, "MAX_BACKLOG", 0)
        monkeypatch.setattr(yamux, "OPEN_S", 0.2)
        with pytest.raises(StreamBrokenError, match="takes no more streams"):
            await left.open_stream(right.peer_id, ECHO, b"x")


async def test_a_listener_with_a_bug_ends_nothing() -> None:
    def bug(_: object) -> None:
        raise RuntimeError("a bug")

    async with running("127.0.0.1") as right, running("127.0.0.2") as left:
        right.serve(ECHO, echo)
        right.on_link(bug, bug)
        for _ in range(2):
            await left.connect(right.peer_id, right.addresses())
            stream = await left.open_stream(right.peer_id, ECHO, b"x")
            assert await exactly(stream, 1) == b"x"
            await left.disconnect(right.peer_id)
            await until(lambda: not right.links())
