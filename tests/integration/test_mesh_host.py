"""The host on real sockets: dialling, links, foreign peers, death, closing."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys

import pytest
import trio
from libp2p.abc import INotifee
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service.trio_tasks import FunctionTask
from multiaddr import Multiaddr

from mcd.errors import ConfigError, StreamBrokenError
from mcd.ids import PeerId
from mcd.log import Log
from mcd.mesh.host import CLOSE_S, STOP_S, Host
from mcd.ports import Link, Stream
from tests.fakes.check_stream import exactly
from tests.integration.mesh_hosts import (
    ECHO,
    TrioClock,
    echo,
    new_host,
    place,
    raw,
    running,
    stock,
    stock_addresses,
    until,
)

# --- addresses -----------------------------------------------------------------------------------------------


async def test_addresses_can_be_dialled_and_name_us() -> None:
    async with running("0.0.0.0") as host, running("127.0.0.2") as other:
        addresses = host.addresses()
        assert addresses
        assert all(address.endswith(f"/p2p/{host.peer_id}") for address in addresses)
        assert not any("/0.0.0.0/" in address or "/tcp/0/" in address for address in addresses)
        assert len(addresses) == 1 or not any("/127.0.0.1/" in address for address in addresses)
        await other.connect(host.peer_id, addresses)


async def test_ipv6() -> None:
    async with running("::1") as left, running("127.0.0.2") as right:
        right.serve(ECHO, echo)
        left.serve(ECHO, echo)
        await right.connect(left.peer_id, left.addresses())
        assert right.links()[0].address.startswith("/ip6/::1/tcp/")
        assert left.links()[0].address.startswith("/ip6/::1/tcp/")
        stream = await right.open_stream(left.peer_id, ECHO, b"six")
        assert await exactly(stream, 3) == b"six"


@pytest.mark.parametrize(
    "text", ["", "nonsense", "/ip4/127.0.0.1/udp/4101/quic-v1", "/ip4/127.0.0.1/tcp/1/p2p/QmX", "/dns/a/tcp/1"]
)
def test_what_is_no_listen_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        Host(bytes(32), [text], log=Log(), clock=TrioClock())


async def test_a_second_daemon_on_the_port_is_told_so() -> None:
    """Pitfall 14: libp2p starts it silently and the kernel splits connections between the two."""
    async with running("127.0.0.1") as host:
        port = place(host)[1]
        with pytest.raises(ConfigError, match=f"port {port} .*--listen"):
            await new_host("127.0.0.1", port=port).run()
    async with running("127.0.0.1", port=port):
        pass


# --- dialling ------------------------------------------------------------------------------------------------


async def test_a_routers_address_is_announced_and_not_listened_on() -> None:
    """Behind a router that forwards the port; 203.0.113.0/24 is nobody's (RFC 5737)."""
    forwarded = "/ip4/203.0.113.5/tcp/4101"
    host = Host(bytes(range(32)), [forwarded, "/ip4/127.0.0.1/tcp/0"], log=Log(), clock=TrioClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        assert host.addresses() == [f"{forwarded}/p2p/{host.peer_id}"]
        await host.close()


@pytest.mark.parametrize("n_addresses", [1, 2])
async def test_nothing_but_foreign_addresses_is_refused(n_addresses: int) -> None:
    listen = [f"/ip4/203.0.113.{last}/tcp/4101" for last in range(n_addresses)]
    with pytest.raises(ConfigError, match=r"not an address of this machine; listen on /ip4/0\.0\.0\.0/tcp/4101"):
        await Host(bytes(range(32)), listen, log=Log(), clock=TrioClock()).run()


async def test_a_routers_address_needs_the_port_that_it_forwards() -> None:
    """Port 0, the kernel's choice here, was announced as it stood: nobody can dial that."""
    listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/203.0.113.5/tcp/0"]
    with pytest.raises(ConfigError, match="name the port it forwards"):
        await Host(bytes(range(32)), listen, log=Log(), clock=TrioClock()).run()


async def test_connect_makes_one_link_and_both_sides_hear_of_it() -> None:
    news: list[tuple[str, str, object]] = []
    async with running("127.0.0.1") as left, running("127.0.0.2") as right:
        for name, host in (("left", left), ("right", right)):

            def up(link: Link, name: str = name) -> None:
                news.append((name, link.peer_id, link.is_outbound))

            def down(peer_id: PeerId, name: str = name) -> None:
                news.append((name, peer_id, "down"))

            host.on_link(up, down)
        await left.connect(right.peer_id, right.addresses())
        await left.connect(right.peer_id, right.addresses())
        await until(lambda: len(news) == 2)
        assert sorted(news) == [("left", right.peer_id, True), ("right", left.peer_id, False)]
        await until(lambda: left.links()[0].rtt_s is not None)
        link = left.links()[0]
        assert link.path == "direct tcp"
        assert link.address == f"/ip4/127.0.0.2/tcp/{place(right)[1]}"
        await right.disconnect(left.peer_id)
        await until(lambda: len(news) == 4)
        assert ("left", right.peer_id, "down") in news
        assert not left.links()


async def test_a_peer_that_was_away_is_dialled_again_at_once() -> None:
    """Pitfall 15: libp2p refuses for 60 s after one failure."""
    async with running("127.0.0.1") as left:
        right = new_host("127.0.0.2", port=free_port("127.0.0.2"))
        address = f"{right._listen[0]}/p2p/{right.peer_id}"
        with pytest.raises(StreamBrokenError):
            await left.connect(right.peer_id, [address])
        async with trio.open_nursery() as nursery:
            await nursery.start(right.run)
            await left.connect(right.peer_id, [address])
            assert [link.peer_id for link in left.links()] == [right.peer_id]
            await right.close()


@pytest.mark.timed
async def test_a_dead_address_among_good_ones_costs_a_moment() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.5", 0))
        hole.listen(1)
        dead = f"/ip4/127.0.0.5/tcp/{hole.getsockname()[1]}"
        async with running("127.0.0.1") as left, running("127.0.0.2") as right:
            start_s = trio.current_time()
            await left.connect(right.peer_id, [dead, "/ip4/127.0.0.6/tcp/9", "bad text", *right.addresses()])
            assert trio.current_time() - start_s < 2


@pytest.mark.timed
async def test_a_peer_that_never_answers_costs_five_seconds() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.5", 0))
        hole.listen(1)
        async with running("127.0.0.1", dial_timeout_s=1.0) as left, running("127.0.0.2") as right:
            start_s = trio.current_time()
            with pytest.raises(StreamBrokenError):
                await left.connect(right.peer_id, [f"/ip4/127.0.0.5/tcp/{hole.getsockname()[1]}"])
            assert 0.9 < trio.current_time() - start_s < 2.5


async def test_nobody_can_answer_for_another_peer() -> None:
    async with running("127.0.0.1") as left, running("127.0.0.2") as right, running("127.0.0.3") as impostor:
        address = impostor.addresses()[0].partition("/p2p/")[0]
        with pytest.raises(StreamBrokenError):
            await left.connect(right.peer_id, [address])
        assert not left.links()


async def test_not_ourselves_and_not_nonsense() -> None:
    async with running("127.0.0.1") as host:
        with pytest.raises(StreamBrokenError, match="ourselves"):
            await host.connect(host.peer_id, host.addresses())
        with pytest.raises(StreamBrokenError, match="not a peer id"):
            await host.open_stream(PeerId("no such thing 0OIl"), ECHO, b"")
        with pytest.raises(StreamBrokenError):
            await host.open_stream(new_host().peer_id, ECHO, b"")


async def test_both_may_dial_at_once() -> None:
    async with running("127.0.0.1") as left, running("127.0.0.2") as right:
        left.serve(ECHO, echo)
        right.serve(ECHO, echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.connect, right.peer_id, right.addresses())
            nursery.start_soon(right.connect, left.peer_id, left.addresses())
        for one, other in ((left, right), (right, left)):
            stream = await one.open_stream(other.peer_id, ECHO, b"both")
            assert await exactly(stream, 4) == b"both"
            assert len(one.links()) == 1


async def test_an_inbound_place_is_free_again_after_its_connection() -> None:
    """libp2p gives it back never: the 250th connection of a daemon's life is its last."""
    async with running("127.0.0.1", max_links=4) as host:
        for turn in range(10):
            async with running(f"127.0.1.{turn + 1}", max_links=4) as peer:
                await peer.connect(host.peer_id, host.addresses())
            await until(lambda: not host.links())


@pytest.mark.spec("DISC-75")
async def test_strangers_with_many_addresses_do_not_keep_us_from_dialling() -> None:
    async with running("127.0.0.1", max_links=4, max_inbound_links=3) as host, running("127.0.0.2") as chosen:
        strangers = [new_host(f"127.0.1.{turn + 1}") for turn in range(4)]
        async with trio.open_nursery() as nursery:
            for stranger in strangers:
                await nursery.start(stranger.run)
                with contextlib.suppress(StreamBrokenError):
                    await stranger.connect(host.peer_id, host.addresses())
            await until(lambda: len(host.links()) == 3)
            await host.connect(chosen.peer_id, chosen.addresses())
            assert chosen.peer_id in {link.peer_id for link in host.links()}
            assert host.counters()["links_refused_by_address"] >= 1
            for stranger in strangers:
                await stranger.close()


async def test_links_of_one_peer_are_capped() -> None:
    async with running("127.0.0.1", max_links_per_peer=2) as host:
        seed = b"the same peer many times over...."[:32]
        clones = [new_host(f"127.0.1.{turn + 1}", seed=seed) for turn in range(4)]
        async with trio.open_nursery() as nursery:
            for clone in clones:
                await nursery.start(clone.run)
                with contextlib.suppress(StreamBrokenError):
                    await clone.connect(host.peer_id, host.addresses())
            await until(lambda: host.counters()["links_refused_by_peer"] >= 2)
            assert len(host.swarm.get_connections()) == 2
            for clone in clones:
                await clone.close()


# --- foreign peers -------------------------------------------------------------------------------------------


async def test_a_stock_peer_is_dialled_and_serves_us() -> None:
    async with running("127.0.0.1") as ours, stock() as theirs:

        async def answer(stream: object) -> None:
            data = await stream.read(5)  # type: ignore[attr-defined]
            await stream.write(b"heard " + data)  # type: ignore[attr-defined]
            await stream.close()  # type: ignore[attr-defined]

        theirs.set_stream_handler(TProtocol("/foreign/1"), answer)
        peer_id = PeerId(theirs.get_id().to_base58())
        await ours.connect(peer_id, stock_addresses(theirs))
        for _ in range(3):
            stream = await ours.open_stream(peer_id, "/foreign/1", b"hello")
            assert await exactly(stream, 11) == b"heard hello"
            assert await stream.receive() == b""
            await stream.close()
        stream = await ours.open_stream(peer_id, "/foreign/none", b"")
        with pytest.raises(StreamBrokenError, match="does not speak"):
            await stream.receive()


async def test_a_stock_peer_dials_us_and_is_served() -> None:
    async with running("127.0.0.1") as ours, stock() as theirs:
        ours.serve(ECHO, echo)
        info = PeerInfo(ID.from_base58(ours.peer_id), [Multiaddr(text) for text in ours.addresses()])
        await theirs.connect(info)
        stream = await theirs.new_stream(info.peer_id, [TProtocol(ECHO)])
        await stream.write(b"over there")
        assert await stream.read(100) == b"over there"
        await stream.reset()
        ping = await theirs.new_stream(info.peer_id, [PING])
        await ping.write(bytes(32))
        assert await ping.read(32) == bytes(32)
        await until(lambda: ECHO in theirs.get_peerstore().get_protocols(info.peer_id))


# --- the end -------------------------------------------------------------------------------------------------


@pytest.mark.timed
async def test_closing_with_20_links_and_50_streams_is_quick() -> None:
    """0.35 s on a quiet core; libp2p takes 0.1 s for each link in turn."""
    async with running("127.0.0.1", max_per_address=32) as host:
        host.serve(ECHO, echo)
        peers = [new_host("127.0.0.2") for _ in range(20)]
        async with trio.open_nursery() as nursery:
            streams: list[Stream] = []
            for peer in peers:
                await nursery.start(peer.run)
                await peer.connect(host.peer_id, host.addresses())
                streams += [await peer.open_stream(host.peer_id, ECHO, b"x") for _ in range(3)]
            for stream in streams:
                assert await exactly(stream, 1) == b"x"
            start_s = trio.current_time()
            await host.close()
            assert trio.current_time() - start_s < 2
            await until(lambda: not any(peer.links() for peer in peers), 2)
            for stream in streams:
                with pytest.raises(StreamBrokenError):
                    await stream.receive()
            for peer in peers:
                await peer.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_peer_that_dies_or_freezes_is_noticed_within_ten_seconds(how: signal.Signals) -> None:
    """Pitfall 7: libp2p never notices a frozen process."""
    child = await trio.to_thread.run_sync(start_child)
    try:
        with trio.fail_after(60):
            said = await trio.to_thread.run_sync(child.stdout.readline, abandon_on_cancel=True)
        peer_id, address = said.decode().split()
        async with running("127.0.0.1") as host:
            await host.connect(PeerId(peer_id), [address])
            stream = await host.open_stream(PeerId(peer_id), ECHO, b"x")
            assert await exactly(stream, 1) == b"x"
            child.send_signal(how)
            start_s = trio.current_time()
            with pytest.raises(StreamBrokenError):
                await stream.receive()
            await until(lambda: not host.links(), 2)
            assert trio.current_time() - start_s < 10
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Stuck(INotifee):  # type: ignore[misc]  # libp2p ships no types that mypy follows here
    """A service of libp2p's whose queue nobody reads."""

    async def connected(self, *_: object) -> None:
        await trio.sleep_forever()

    disconnected = opened_stream = closed_stream = listen = listen_close = connected


async def test_a_service_that_hears_nothing_holds_up_neither_links_nor_the_end() -> None:
    with trio.fail_after(20):
        async with running("127.0.0.1") as host, running("127.0.0.2") as other:
            host.swarm.register_notifee(Stuck())
            await host.connect(other.peer_id, other.addresses())
            assert host.links()
            await other.close()
            await until(lambda: not host.links(), 5)


@pytest.mark.timed
async def test_the_end_waits_for_no_task_of_libp2p_that_never_ends() -> None:
    with trio.fail_after(20):
        async with running("127.0.0.1") as host:
            lost = FunctionTask("added but never begun", False, None, trio.sleep_forever, ())
            host.swarm.manager._root_tasks.add(lost)
            start_s = trio.current_time()
        assert trio.current_time() - start_s < CLOSE_S + STOP_S + 2


def start_child() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.mesh_child"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


async def test_a_raw_connection_gets_multistream_and_nothing_else() -> None:
    async with running("127.0.0.1") as host:
        stream = await raw(host)
        await stream.send_all(b"\x13/multistream/1.0.0\n")
        assert (await stream.receive_some()).startswith(b"\x13/multistream/1.0.0\n")
        await stream.aclose()
