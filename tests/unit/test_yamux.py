"""Our yamux: limits, windows, manners, and what a misbehaving peer gets. What takes time is in test_yamux_time."""

from __future__ import annotations

import pytest
import trio
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from mcd.mesh import yamux, yamux_pulse, yamux_queue, yamux_stream
from mcd.mesh import yamux_frame as wire
from mcd.mesh.limits import ReceiveBudget
from mcd.mesh.yamux import Yamux
from tests.fakes.memory_conn import RawPeer, conn_pair, read_exactly, settle, two_yamux, yamux_and_peer

WINDOW = wire.INITIAL_WINDOW_BYTES
pytestmark = pytest.mark.autojump


# --- the peer's misbehaviour ---------------------------------------------------------------------------------


async def test_a_window_violation_ends_the_connection() -> None:
    """Pitfall 5: stock buffers whatever comes; 300 MB went into a reader that did not read."""
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await peer.data(1, bytes(WINDOW))
        await settle()
        assert not muxer.is_closed, "the whole window is the peer's right"
        assert muxer.n_unread_bytes == WINDOW
        await peer.data(1, b"x")
        await settle()
        assert muxer.end_reason == "peer exceeded the window of a stream"


async def test_a_violation_by_a_body_that_comes_in_pieces_is_found_too() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await peer.conn.write(wire.encode(wire.DATA, 0, 1, WINDOW + 1) + bytes(WINDOW // 2))
        await settle()
        assert not muxer.is_closed
        await peer.conn.write(bytes(WINDOW // 2 + 1))
        await settle()
        assert muxer.is_closed


async def test_what_a_stream_begins_with_is_taken_whole_or_not_at_all() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        stream = await muxer.accept_stream()
        assert not stream.take(b"abc")
        await peer.data(1, b"ab")
        await settle()
        assert not stream.take(b"abc")
        await peer.data(1, b"cd")
        await settle()
        assert not stream.take(b"bcd")
        assert stream.take(b"abc")
        assert muxer.n_unread_bytes == 1
        assert await stream.read() == b"d"


async def test_data_for_an_unknown_stream_is_answered_by_reset() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.data(7, b"who?")
        await peer.data(9, b"gone", flags=wire.RST)
        await peer.send(wire.WINDOW, 0, 11, 1000)
        await settle()
        assert [frame.stream_id for frame in peer.sent(wire.WINDOW, wire.RST)] == [7]
        assert not muxer.is_closed


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(1, wire.DATA, 0, 1, 0),
        wire.HEADER.pack(0, 4, 0, 1, 0),
        wire.encode(wire.WINDOW, wire.SYN, 0, 0),
        wire.encode(wire.WINDOW, wire.SYN, 2, 0),
    ],
    ids=["version", "type", "stream zero", "our own parity"],
)
async def test_what_is_not_yamux_ends_the_connection(header: bytes) -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.conn.write(header)
        await settle()
        assert muxer.is_closed


async def test_stream_zero_is_nobodys_on_the_dialling_side_either() -> None:
    """Zero is even, so only whoever dialled could take it for one of the peer's."""
    theirs, ours = conn_pair()
    muxer, peer = Yamux(ours, "peer", is_initiator=True), RawPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        nursery.start_soon(peer.run)
        await muxer.event_started.wait()
        await peer.conn.write(wire.encode(wire.WINDOW, wire.SYN, 0, 0))
        await settle()
        assert muxer.is_closed
        nursery.cancel_scope.cancel()


async def test_opening_a_stream_twice_ends_the_connection() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await settle()
        assert muxer.is_closed


async def test_data_after_the_end_of_a_half_ends_the_connection() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN | wire.FIN, 1)
        await peer.data(1, b"undead")
        await settle()
        assert muxer.is_closed


async def test_inbound_streams_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_STREAMS", 3)
    async with yamux_and_peer() as (_, peer):
        for stream_id in (1, 3, 5, 7):
            await peer.send(wire.WINDOW, wire.SYN, stream_id)
        await settle()
        assert [frame.stream_id for frame in peer.sent(wire.WINDOW, wire.RST)] == [7]
        await peer.send(wire.WINDOW, wire.RST, 3)
        await peer.send(wire.WINDOW, wire.SYN, 9)
        await settle()
        assert len(peer.sent(wire.WINDOW, wire.RST)) == 1, "a reset stream gives its place back"


async def test_streams_nobody_accepts_are_capped() -> None:
    async with yamux_and_peer() as (muxer, peer):
        for index in range(yamux.MAX_BACKLOG + 5):
            await peer.send(wire.WINDOW, wire.SYN, 2 * index + 1)
        await settle()
        assert len(peer.sent(wire.WINDOW, wire.RST)) == 5
        assert not peer.sent(wire.WINDOW, wire.ACK), "only accepting acknowledges"
        stream = await muxer.accept_stream()
        await stream.write(b"an answer takes the acknowledgement along")
        await settle()
        assert [frame.stream_id for frame in peer.sent(wire.WINDOW, wire.ACK)] == [1]


async def test_a_stream_accepted_and_left_unanswered_is_acknowledged_with_the_next_ping() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await muxer.accept_stream()
        await trio.sleep(yamux_pulse.PING_EVERY_S + 0.1)
        assert [frame.stream_id for frame in peer.sent(wire.WINDOW, wire.ACK)] == [1]


async def test_a_stream_reset_before_it_was_accepted_is_never_seen() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN | wire.RST, 1)
        await peer.send(wire.WINDOW, wire.SYN, 3)
        assert (await muxer.accept_stream()).stream_id == 3


async def test_a_peer_that_pings_and_never_reads_is_dropped() -> None:
    async with yamux_and_peer() as (muxer, peer):
        muxer.secured_conn.is_stalled = True
        with trio.fail_after(5):
            while not muxer.is_closed:
                await peer.conn.write(wire.encode(wire.PING, wire.SYN, 0, 1) * 1000)
                await settle()
        assert muxer.end_reason == "peer does not read"


async def test_a_write_that_the_network_never_takes_ends_the_connection() -> None:
    async with yamux_and_peer() as (muxer, peer):
        muxer.secured_conn.is_stalled = True
        start_s = trio.current_time()
        while not muxer.is_closed:
            await peer.send(wire.PING, wire.ACK, 0, 99)
            await trio.sleep(1)
        assert muxer.end_reason == "write stalled"
        assert trio.current_time() - start_s < yamux_pulse.WRITE_STALL_S + 5


async def test_unread_bytes_of_a_connection_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_UNREAD_BYTES", 3 * WINDOW)
    async with yamux_and_peer() as (muxer, peer):
        for stream_id in (1, 3, 5, 7):
            await peer.send(wire.WINDOW, wire.SYN, stream_id)
        await peer.data(1, bytes(WINDOW))
        for stream_id in (3, 5, 7):
            await peer.data(stream_id, bytes(WINDOW - 10))
        await settle()
        assert [frame.stream_id for frame in peer.sent(wire.WINDOW, wire.RST)] == [1], "the heaviest goes"
        assert muxer.n_unread_bytes == 3 * (WINDOW - 10)
        assert not muxer.is_closed


async def test_over_the_hosts_budget_the_heaviest_connection_pays() -> None:
    budget = ReceiveBudget(max_bytes=WINDOW)
    (hog_conn, ours_1), (modest_conn, ours_2) = conn_pair(), conn_pair()
    hog, modest = RawPeer(hog_conn), RawPeer(modest_conn)
    muxers = [Yamux(ours_1, "hog", budget=budget), Yamux(ours_2, "modest", budget=budget)]
    async with trio.open_nursery() as nursery:
        for task in (hog.run, modest.run, muxers[0].start, muxers[1].start):
            nursery.start_soon(task)
        await hog.send(wire.WINDOW, wire.SYN, 1)
        await modest.send(wire.WINDOW, wire.SYN, 1)
        await hog.data(1, bytes(WINDOW - 100))
        await settle()
        await modest.data(1, bytes(200))
        await settle()
        assert hog.sent(wire.WINDOW, wire.RST)
        assert not modest.sent(wire.WINDOW, wire.RST)
        assert budget.n_bytes == 200
        nursery.cancel_scope.cancel()
    assert budget.n_bytes == 0
    assert not budget.members


# --- our own manners -----------------------------------------------------------------------------------------


async def test_opening_waits_at_the_acknowledgement_backlog() -> None:
    async with yamux_and_peer() as (muxer, peer):
        for _ in range(yamux.MAX_BACKLOG):
            await muxer.open_stream()
        with trio.move_on_after(1) as scope:
            await muxer.open_stream()
        assert scope.cancelled_caught
        await settle()
        assert len(peer.sent(wire.WINDOW, wire.SYN)) == yamux.MAX_BACKLOG
        await peer.send(wire.WINDOW, wire.ACK, 2)
        await peer.send(wire.WINDOW, wire.RST, 4)
        await muxer.open_stream()
        await muxer.open_stream()
        with trio.move_on_after(1) as scope:
            await muxer.open_stream()
        assert scope.cancelled_caught


async def test_what_is_queued_together_travels_together() -> None:
    """One Noise message and one system call for a hundred chunks, and none above 16 KiB (pitfall 19)."""
    async with yamux_and_peer() as (muxer, peer):
        streams = [await muxer.open_stream() for _ in range(100)]
        await settle()
        before = muxer.secured_conn.n_writes
        for stream in streams:
            await stream.write(bytes(100))
        await settle()
        assert len(peer.sent(wire.DATA)) == 100
        assert muxer.secured_conn.n_writes - before <= 3
        await streams[0].write(bytes(100_000))
        await settle()
        assert muxer.secured_conn.max_write_bytes <= 16 * 1024


async def test_writers_wait_while_the_send_queue_is_long() -> None:
    async with yamux_and_peer() as (muxer, _):
        streams = [await muxer.open_stream() for _ in range(10)]
        muxer.secured_conn.is_stalled = True
        done = 0

        async def write(stream: yamux_stream.YamuxStream) -> None:
            nonlocal done
            await stream.write(bytes(60_000))
            done += 1

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(write, stream)
            await settle()
            assert done < 10
            muxer.secured_conn.is_stalled = False
            muxer.secured_conn.changed.unpark_all()
        assert done == 10


async def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    """Pitfall 3: stock loses every stream at about the second cancelled write."""
    async with two_yamux(seed=1) as (left, right):
        for _ in range(50):
            doomed = await left.open_stream()
            theirs = await right.accept_stream()
            with trio.move_on_after(0.001) as scope:
                await doomed.write(bytes(10 * WINDOW))
            assert scope.cancelled_caught
            with pytest.raises(MuxedStreamReset):
                await read_exactly(theirs, 10 * WINDOW)
        fine = await left.open_stream()
        theirs = await right.accept_stream()
        await fine.write(b"fine")
        assert await read_exactly(theirs, 4) == b"fine"
        assert right.n_unread_bytes == 0


async def test_a_write_cancelled_before_its_first_byte_leaves_the_stream_whole() -> None:
    async with two_yamux() as (left, right):
        stream = await left.open_stream()
        theirs = await right.accept_stream()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.write(b"never")
        await stream.write(b"whole")
        assert await theirs.read() == b"whole"


async def test_closing_flushes_what_was_written() -> None:
    async with two_yamux(latency_s=0.01) as (left, right):
        stream = await left.open_stream()
        theirs = await right.accept_stream()
        await stream.write(bytes(100_000))
        await left.close()
        await right.event_closed.wait()
        assert len(await read_exactly(theirs, 100_000)) == 100_000, "received is readable after the end"
        with pytest.raises(MuxedStreamReset):
            await theirs.read()


async def test_after_go_away_old_streams_live_and_new_ones_are_refused() -> None:
    async with yamux_and_peer() as (muxer, peer):
        stream = await muxer.open_stream()
        await peer.send(wire.GO_AWAY, 0, 0, wire.GO_AWAY_NORMAL)
        await settle()
        with pytest.raises(MuxedConnUnavailable):
            await muxer.open_stream()
        await peer.data(stream.stream_id, b"still here")
        assert await stream.read() == b"still here"


async def test_the_end_wakes_everybody() -> None:
    async with yamux_and_peer() as (muxer, peer):
        reader = await muxer.open_stream()
        writer = await muxer.open_stream()
        errors: list[type[BaseException]] = []

        async def wait_for(call: object, *args: object) -> None:
            try:
                await call(*args)  # type: ignore[operator]
            except (MuxedStreamReset, MuxedConnUnavailable) as error:
                errors.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for, reader.read)
            nursery.start_soon(wait_for, writer.write, bytes(2 * WINDOW))
            nursery.start_soon(wait_for, muxer.accept_stream)
            await settle()
            await peer.conn.close()
        assert len(errors) == 3
        assert muxer.end_reason
        with pytest.raises(MuxedConnUnavailable):
            await muxer.open_stream()


async def test_halves_end_apart() -> None:
    async with two_yamux() as (left, right):
        stream = await left.open_stream()
        theirs = await right.accept_stream()
        await stream.write(b"question")
        await stream.close()
        with pytest.raises(MuxedStreamClosed):
            await stream.write(b"more")
        assert await theirs.read() == b"question"
        with pytest.raises(MuxedStreamEOF):
            await theirs.read()
        await theirs.write(b"answer")
        assert await stream.read() == b"answer"
        await theirs.close()
        with pytest.raises(MuxedStreamEOF):
            await stream.read()
        assert left.n_streams == right.n_streams == 0


async def test_read_takes_no_more_than_asked() -> None:
    async with two_yamux() as (left, right):
        stream = await left.open_stream()
        theirs = await right.accept_stream()
        await stream.write(b"abcdef")
        assert await theirs.read(2) == b"ab"
        assert await theirs.read(100) == b"cdef"


async def test_what_one_stream_writes_in_a_row_is_one_frame() -> None:
    async with yamux_and_peer() as (muxer, peer):
        await peer.send(wire.WINDOW, wire.SYN, 1)
        await peer.send(wire.WINDOW, wire.SYN, 3)
        first, second = await muxer.accept_stream(), await muxer.accept_stream()
        await settle()
        for stream, text in ((first, b"a"), (first, b"b"), (second, b"c"), (first, b"d"), (first, b"e")):
            await stream.write(text)
        await first.close()
        await settle()
        assert [(frame.stream_id, frame.body) for frame in peer.sent(wire.DATA)] == [(1, b"ab"), (3, b"c"), (1, b"de")]
        await second.write(bytes(yamux_queue.MAX_DATA_BYTES - 1))
        await second.write(b"xy")
        await settle()
        sizes = [frame.value for frame in peer.sent(wire.DATA) if frame.stream_id == 3]
        assert sizes == [1, yamux_queue.MAX_DATA_BYTES - 1, 2], "no frame outgrows one Noise message"
