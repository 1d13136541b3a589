"""The core's rows of the pitfall table: what libp2p 0.8.1 does wrong, and that we do not.

Each "stock" half fails when libp2p mends the fault; then our work-around may go. Rows proved elsewhere: 4, 5 and 7
in unit/test_yamux, 6 in test_mesh_streams, 14 and 15 in test_mesh_host, 18 in test_mesh_flood.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import libp2p
import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub import gossipsub, pubsub
from libp2p.stream_muxer import muxer_multistream
from libp2p.transport.tcp import tcp
from multiaddr import Multiaddr

from mcd.errors import StreamBrokenError
from mcd.ids import PeerId
from mcd.mesh import patches
from mcd.mesh import yamux_frame as wire
from mcd.mesh.host import Host
from mcd.mesh.stream import MULTISTREAM, line
from mcd.mesh.tcp import TcpStream
from tests.fakes.check_stream import exactly
from tests.integration.mesh_hosts import ECHO, echo, place, raw, running, stock, stock_addresses, two, until
from tests.integration.test_mesh_fuzz import MUXED, secured

KILLER = b"\x05\xff\xfe\xfd\xfc\n"
"""Not UTF-8: the five bytes that end a stock daemon."""


def test_we_patch_the_version_we_know() -> None:
    """A new libp2p: run every test of the mesh, then change this line."""
    assert libp2p.__version__ == "0.8.1"


# --- 1: an exception in a handler -----------------------------------------------------------------------------


async def kill_a_stock_host() -> None:
    async with running("127.0.0.1") as ours, stock() as theirs:
        await ours.connect(PeerId(theirs.get_id().to_base58()), stock_addresses(theirs))
        (link,) = ours.swarm.get_connections()
        stream = await link.muxed_conn.open_stream()
        await stream.write(KILLER)
        await trio.sleep(5)


async def test_1_five_bytes_end_a_stock_host() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await kill_a_stock_host()
    assert "UnicodeDecodeError" in repr(caught.value)


async def test_1_five_bytes_end_one_stream_of_ours() -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)
        healthy = await left.open_stream(right.peer_id, ECHO, b"a")
        (link,) = left.swarm.get_connections()
        stream = await link.muxed_conn.open_stream()
        await stream.write(KILLER)
        await until(lambda: right.counters()["streams_failed"] == 1)
        assert await exactly(healthy, 1) == b"a"


# --- 2: plaintext ---------------------------------------------------------------------------------------------


def test_2_stock_offers_plaintext_and_secio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p, "TLSTransport", lambda *_, **__: None)  # not loaded here (mesh/unused.py)
    offered = [str(p) for p in libp2p.new_host().get_network().upgrader.security_multistream.transports]
    assert "/plaintext/2.0.0" in offered
    assert "/secio/1.0.0" in offered


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_2_we_speak_noise_or_nothing(protocol: str) -> None:
    async with running("127.0.0.1") as host:
        stream = await raw(host)
        await stream.send_all(line(MULTISTREAM) + line(protocol.encode()))
        got = b""
        with trio.fail_after(5):
            while b"na\n" not in got:
                got += await stream.receive_some()
        assert protocol.encode() not in got
        await stream.aclose()


# --- 3: a cancelled write -------------------------------------------------------------------------------------


async def test_3_a_client_that_goes_away_mid_write_harms_nobody() -> None:
    async with two() as (left, right):
        right.serve(ECHO, echo)
        for _ in range(30):
            doomed = await left.open_stream(right.peer_id, ECHO, b"x")
            with trio.move_on_after(0.003):
                await doomed.send(bytes(2_000_000))
                await trio.sleep_forever()
            await doomed.reset()
        assert len(left.swarm.get_connections()) == 1
        fine = await left.open_stream(right.peer_id, ECHO, b"fine")
        assert await exactly(fine, 4) == b"fine"


# --- 8: a connect costs 250 ms --------------------------------------------------------------------------------


@pytest.mark.timed
async def test_8_a_connect_does_not_wait_for_the_fallback() -> None:
    async with running("127.0.0.1") as ours, stock() as theirs:
        took_s = []
        for _ in range(5):
            start_s = trio.current_time()
            await ours.connect(PeerId(theirs.get_id().to_base58()), stock_addresses(theirs))
            took_s.append(trio.current_time() - start_s)
            await ours.disconnect(PeerId(theirs.get_id().to_base58()))
            await until(lambda: not ours.links())
            await trio.sleep(0.15)
        assert min(took_s) < 0.15
        info = PeerInfo(ID.from_base58(ours.peer_id), [Multiaddr(text) for text in ours.addresses()])
        start_s = trio.current_time()
        await theirs.connect(info)
        assert trio.current_time() - start_s > 0.25, "libp2p mended its 250 ms"


# --- 9: close() does not stop a sender ------------------------------------------------------------------------


async def test_9_reset_stops_a_sender_and_close_does_not() -> None:
    state: dict[str, bool] = {}

    async def generate(stream: Any) -> None:
        try:
            while True:
                await stream.send(b"token")
                await trio.sleep(0.005)
        except StreamBrokenError:
            state["stopped"] = True
            raise

    async with two() as (left, right):
        right.serve("/mc/generate/1", generate)
        stream = await left.open_stream(right.peer_id, "/mc/generate/1", b"go")
        assert await stream.receive()
        await stream.close()
        await trio.sleep(0.2)
        assert not state
        await stream.reset()
        await until(lambda: bool(state), 2)


async def test_9_a_sender_whose_reader_is_gone_ends_by_itself() -> None:
    """A handler that returns abandons its stream: what still comes is dropped, not kept."""

    async def hangs_up(stream: Any) -> None:
        await stream.receive()

    async with two() as (left, right):
        right.serve("/mc/hangs-up/1", hangs_up)
        stream = await left.open_stream(right.peer_id, "/mc/hangs-up/1", b"go")
        assert await stream.receive() == b""
        with trio.move_on_after(0.5):
            await stream.send(bytes(200_000))
        await trio.sleep(0.1)
        assert right.counters()["unread_bytes"] == 0
        await stream.reset()


# --- 13: signed records in every pubsub message ---------------------------------------------------------------


def test_13_the_names_we_replace_exist_and_are_replaced() -> None:
    """Fails when libp2p renames them, so that the patch cannot fade away unseen."""
    assert "maybe_consume_signed_record" in inspect.getsource(pubsub)
    assert "env_to_send_in_RPC" in inspect.getsource(pubsub)
    assert "env_to_send_in_RPC" in inspect.getsource(gossipsub)
    patches.apply()
    for module in (pubsub, gossipsub):
        assert module.maybe_consume_signed_record(object(), object(), object()) is True
        assert module.env_to_send_in_RPC(object()) == (b"", True)


def test_13_libp2p_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    patches.apply()
    logging.getLogger("libp2p.host.basic_host").error("what a peer sent")
    assert capfd.readouterr().err == ""


# --- the muxer is injected by composition ---------------------------------------------------------------------


def test_stock_ignores_the_muxer_it_is_given() -> None:
    """Why YamuxOnly exists: the id decides the class, whatever muxer_opt says."""
    assert "yamux_conn = Yamux(" in inspect.getsource(muxer_multistream.MuxerMultistream.new_conn)


# --- inbound slots ---------------------------------------------------------------------------------------------


async def test_stock_never_gives_an_inbound_slot_back() -> None:
    """Why we have a transport of our own (its other half is in test_mesh_host)."""
    async with stock() as theirs, running("127.0.0.1") as ours:
        peer_id = PeerId(theirs.get_id().to_base58())
        for _ in range(3):
            await ours.connect(peer_id, stock_addresses(theirs))
            await ours.disconnect(peer_id)
            await trio.sleep(0.3)
        assert not theirs.get_connected_peers()
        assert theirs.get_network()._inbound_limiter.borrowed_tokens == 3


# --- 19: a message in over a hundred pieces -------------------------------------------------------------------


async def test_19_a_message_may_come_byte_by_byte() -> None:
    """libp2p's reader gives up after 100 partial reads; ours reads exactly what is asked for."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    sender = await trio.open_tcp_stream("127.0.0.1", port)
    receiver = TcpStream((await listeners[0].accept()).socket)

    async def drip() -> None:
        for _ in range(300):
            await sender.send_all(b"x")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert await receiver.read(300) == b"x" * 300
    await sender.aclose()
    await receiver.close()
    await listeners[0].aclose()


# --- 20: opening a stream costs round trips -------------------------------------------------------------------


@asynccontextmanager
async def slow_path(host: Host, one_way_s: float) -> AsyncIterator[str]:
    """An address that leads to ``host`` through a link with latency."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.44")

        async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            queue_in, queue_out = trio.open_memory_channel[tuple[float, bytes]](10_000)

            async def deliver() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for due_s, data in queue_out:
                        await trio.sleep_until(due_s)
                        await sink.send_all(data)

            async with trio.open_nursery() as both:
                both.start_soon(deliver)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some():
                        await queue_in.send((trio.current_time() + one_way_s, data))
                queue_in.close()

        async def serve(client: trio.SocketStream) -> None:
            async with client, await trio.open_tcp_stream(*place(host)) as server, trio.open_nursery() as both:
                both.start_soon(carry, client, server)
                both.start_soon(carry, server, client)

        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"/ip4/127.0.0.44/tcp/{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.timed
async def test_20_a_warm_stream_costs_one_round_trip() -> None:
    rtt_s = 0.2
    async with running("127.0.0.1") as right, slow_path(right, rtt_s / 2) as address, running("127.0.0.2") as left:
        right.serve(ECHO, echo)
        await left.connect(right.peer_id, [address])
        start_s = trio.current_time()
        stream = await left.open_stream(right.peer_id, ECHO, b"quick")
        assert await exactly(stream, 5) == b"quick"
        took_s = trio.current_time() - start_s
        assert rtt_s <= took_s < 2 * rtt_s, "one round trip, not libp2p's three"
        await stream.reset()
        stream = await left.libp2p.new_stream(ID.from_base58(right.peer_id), [TProtocol(ECHO)])
        await stream.reset()
        assert left.links()[0].rtt_s == pytest.approx(rtt_s, rel=0.5)
        await left.close()


# --- what a negotiation may cost ------------------------------------------------------------------------------


async def test_a_stream_that_never_says_its_protocol_is_reset() -> None:
    async with running("127.0.0.1", negotiate_timeout_s=1.0) as host, secured(host) as conn:
        await conn.write(MUXED)
        await conn.write(wire.encode(wire.WINDOW, wire.SYN, 1, 0))
        frames: list[wire.Frame] = []
        answers = bytearray()
        with trio.fail_after(5):
            while not any(f.flags & wire.RST and f.stream_id == 1 for f in frames):
                answers += await conn.read(None)
                after = bytes(answers).partition(line(b"/yamux/1.0.0"))[2]
                frames = wire.FrameParser().feed(after)


def test_the_reason_for_exclusive_ports_is_still_there() -> None:
    """Pitfall 14: stock binds with SO_REUSEPORT."""
    assert "SO_REUSEPORT" in inspect.getsource(tcp._set_reuse_flags)
