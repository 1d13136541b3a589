"""Our yamux on virtual time: dead peers, paused readers, half-closed streams, round trips."""

from __future__ import annotations

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from trio.testing import MockClock

from mcd.mesh import yamux
from mcd.mesh import yamux_frame as wire
from tests.fakes.memory_conn import read_exactly, settle, two_yamux, yamux_and_peer

WINDOW = wire.INITIAL_WINDOW_BYTES
pytestmark = pytest.mark.autojump


async def test_a_silent_peer_is_declared_dead_within_ten_seconds() -> None:
    """Pitfall 7: stock never notices a frozen process or an unplugged cable."""
    async with yamux_and_peer() as (muxer, peer):
        await trio.sleep(60)
        assert not muxer.is_closed, "an idle peer that answers pings is alive"
        peer.answers_pings = False
        start_s = trio.current_time()
        await muxer.event_closed.wait()
        assert trio.current_time() - start_s <= 10
        assert muxer.end_reason == "peer is silent"


async def test_a_peer_that_only_sends_is_alive() -> None:
    async with yamux_and_peer() as (muxer, peer):
        peer.answers_pings = False
        for _ in range(20):
            await peer.send(wire.WINDOW, 0, 99, 1)
            await trio.sleep(5)
        assert not muxer.is_closed


def test_our_own_suspension_is_not_the_peers_silence() -> None:
    clock = MockClock()

    async def scenario() -> None:
        async with yamux_and_peer() as (muxer, _):
            await settle()
            clock.jump(600)
            await settle()
            assert not muxer.is_closed, "what the peer sent meanwhile had not been read yet"
            clock.jump(2.5)
            await settle()
            assert not muxer.is_closed

    trio.run(scenario, clock=clock)


async def test_pings_measure_the_round_trip() -> None:
    async with yamux_and_peer(latency_s=0.04) as (muxer, _):
        assert muxer.rtt_s is None
        await trio.sleep(10)
        assert muxer.rtt_s == pytest.approx(0.08, abs=0.001)


async def test_a_reader_may_pause_for_as_long_as_it_likes() -> None:
    """Pitfall 4: stock resets the stream after 5 s without window."""
    async with two_yamux() as (left, right):
        sender = await left.open_stream()
        receiver = await right.accept_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.write, bytes(3 * WINDOW))
            await trio.sleep(3600)
            assert not sender.is_closed
            assert right.n_unread_bytes == WINDOW
            assert len(await read_exactly(receiver, 3 * WINDOW)) == 3 * WINDOW


async def test_a_half_closed_stream_whose_peer_is_quiet_ends() -> None:
    async with yamux_and_peer() as (muxer, peer):
        stream = await muxer.open_stream()
        await stream.close()
        await trio.sleep(yamux.HALF_CLOSED_S - 20)
        assert muxer.n_streams == 1, "a long answer may start late"
        await trio.sleep(60)
        assert muxer.n_streams == 0
        assert peer.sent(wire.WINDOW, wire.RST)


async def test_an_abandoned_stream_lets_its_last_words_arrive_and_then_ends() -> None:
    async with two_yamux() as (left, right):
        theirs = await left.open_stream()
        mine = await right.accept_stream()
        await mine.write(b"answer")
        mine.abandon()
        await theirs.write(bytes(1000))
        assert await theirs.read() == b"answer"
        with pytest.raises(MuxedStreamEOF):
            await theirs.read()
        assert right.n_unread_bytes == 0, "nobody will read it, so it is not kept"
        await trio.sleep(yamux.ABANDONED_S + 20)
        assert right.n_streams == 0
        assert left.n_streams == 0


async def test_a_window_grows_when_the_round_trip_limits_a_fast_reader() -> None:
    async with two_yamux(latency_s=0.05) as (left, right):
        await trio.sleep(1)
        sender = await left.open_stream()
        receiver = await right.accept_stream()
        start_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.write, bytes(20_000_000))
            await read_exactly(receiver, 20_000_000)
        assert 20_000_000 / (trio.current_time() - start_s) > 6_000_000, "256 KiB at 100 ms would be 2.6 MB/s"
