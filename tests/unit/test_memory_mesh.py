"""The fake mesh behaves as the real one does: same stream checker, links, records, cuts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcd.errors import StreamBrokenError
from mcd.ids import ModelDigest, PeerId
from mcd.ports import Link, Mesh, Stream
from tests.fakes.check_stream import FIRST, check_stream
from tests.fakes.memory_mesh import SILENT_S, MemoryNet, open_net

A, B = PeerId("A"), PeerId("B")
ECHO = "/mc/echo/1"


@asynccontextmanager
async def pair(net: MemoryNet) -> AsyncIterator[tuple[Stream, Stream]]:
    accepted, done = trio.open_memory_channel[Stream](1), trio.Event()

    async def handler(stream: Stream) -> None:
        await accepted[0].send(stream)
        await done.wait()

    net.meshes[B].serve(ECHO, handler)
    left = await net.meshes[A].open_stream(B, ECHO, FIRST)
    yield left, await accepted[1].receive()
    done.set()


@pytest.mark.autojump
async def test_its_streams_pass_the_checker() -> None:
    async with open_net() as net:
        net.mesh("A")
        net.mesh("B")
        await check_stream(lambda: pair(net))


@pytest.mark.autojump
async def test_latency_is_what_was_asked_for() -> None:
    async with open_net(lambda _a, _b: 0.1) as net:
        mesh: Mesh = net.mesh("A")
        net.mesh("B")

        async def handler(stream: Stream) -> None:
            while data := await stream.receive():
                await stream.send(data)

        net.meshes[B].serve(ECHO, handler)
        await mesh.connect(B, ())
        start_s = trio.current_time()
        stream = await mesh.open_stream(B, ECHO, b"x")
        assert await stream.receive() == b"x"
        assert trio.current_time() - start_s == pytest.approx(0.2)
        assert mesh.links()[0].rtt_s == pytest.approx(0.2)


@pytest.mark.autojump
async def test_a_refused_protocol_surfaces_at_the_first_receive() -> None:
    async with open_net() as net:
        net.mesh("A")
        net.mesh("B")
        stream = await net.meshes[A].open_stream(B, "/mc/none/1", b"x")
        with pytest.raises(StreamBrokenError, match="does not speak"):
            await stream.receive()


@pytest.mark.autojump
async def test_links_go_up_and_down() -> None:
    news: list[str] = []

    def up(link: Link) -> None:
        news.append(f"up {link.peer_id} {link.is_outbound}")

    async with open_net() as net:
        net.mesh("A").on_link(up, lambda peer_id: news.append(f"down {peer_id}"))
        net.mesh("B").on_link(up, lambda peer_id: news.append(f"down {peer_id}"))
        await net.meshes[A].connect(B, ())
        await net.meshes[A].connect(B, ())
        net.kill("B")
    assert news == ["up B True", "up A False", "down A", "down B"]


@pytest.mark.autojump
async def test_a_cut_is_noticed_after_the_keep_alive() -> None:
    async with open_net() as net:
        net.mesh("A")
        net.mesh("B")
        async with pair(net) as (left, right):
            net.cut("A", "B")
            start_s = trio.current_time()
            with pytest.raises(StreamBrokenError):
                await left.receive()
            assert trio.current_time() - start_s == pytest.approx(SILENT_S, abs=0.1)
            with pytest.raises(StreamBrokenError):
                await net.meshes[A].connect(B, ())
            net.heal("A", "B")
            await net.meshes[A].connect(B, ())
            with pytest.raises(StreamBrokenError):
                await right.send(b"the old stream stays broken")


@pytest.mark.autojump
async def test_a_failing_handler_resets_its_stream_only() -> None:
    async def fails(stream: Stream) -> None:
        await stream.receive()
        raise StreamBrokenError("on purpose")

    async with open_net() as net:
        net.mesh("A")
        net.mesh("B").serve(ECHO, fails)
        stream = await net.meshes[A].open_stream(B, ECHO, b"x")
        with pytest.raises(StreamBrokenError):
            await stream.receive()
        assert [link.peer_id for link in net.meshes[A].links()] == [B]


@pytest.mark.autojump
async def test_records_reach_everybody_and_providers_are_found() -> None:
    digest = ModelDigest(bytes(32))
    heard: list[tuple[bytes, PeerId]] = []
    async with open_net() as net:
        net.mesh("A")
        net.mesh("B").on_record(lambda record, sender: heard.append((record, sender)) or "accept")
        await net.meshes[A].publish(b"record", [digest])
        await trio.sleep(1)
        assert heard == [(b"record", A)]
        assert net.meshes[B].counters() == {"records_accept": 1}
        await net.meshes[A].provide(digest)
        assert await net.meshes[B].find_providers(digest) == [A]
