"""The mesh as a whole: it starts whatever fails, ends at once, and notices who is gone. Real sockets and processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mcd.errors import ConfigError
from mcd.ids import PeerId
from tests.integration.mesh_peers import Peer, link_to, running, until

ROOT = Path(__file__).resolve().parents[2]
DEAD = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEZk94J7NNts1xCuFxzjPCTDs8vckvnG987v9kxaQX4Vb"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def process(
    name: str, network: str, *, port: int = 0, bootstrap: str = ""
) -> AsyncIterator[tuple[trio.Process, str]]:
    """One peer in a process of its own, and its address; killed at the end whatever state it is in."""
    command = [sys.executable, "-m", "tests.integration.mesh_peers", name, network, f"/ip4/127.0.0.1/tcp/{port}"]
    child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ})
    assert child.stdout is not None
    try:
        with trio.fail_after(30):
            line = b""
            while not line.endswith(b"\n"):
                data = await child.stdout.receive_some(4096)
                assert data, "the peer's process ended before it listened"
                line += data
        yield child, line.decode().strip()
    finally:
        with trio.CancelScope(shield=True):
            if child.poll() is None:
                child.kill()
            await child.wait()
            await child.stdout.aclose()


@pytest.mark.timed
@pytest.mark.spec("DISC-01", "DISC-70")
async def test_a_dead_bootstrap_address_delays_nothing_and_is_tried_again() -> None:
    peer = Peer("lonely", network="n1", bootstrap=(DEAD,))
    started_s = trio.current_time()
    async with running(peer):
        assert trio.current_time() - started_s < 2
        assert peer.mesh.links() == []
        await peer.announce()
        assert await peer.mesh.find_providers(b"\1" * 32) == []
        await until(lambda: peer.count("dial_failed") >= 2)
        ended_s = trio.current_time()
    assert trio.current_time() - ended_s < 1


@pytest.mark.spec("DISC-70")
async def test_a_bootstrap_peer_that_comes_later_is_found() -> None:
    port = free_port()
    late = Peer("late", network="n2", listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    late_at = f"/ip4/127.0.0.1/tcp/{port}/p2p/{late.peer_id}"
    early = Peer("early", network="n2", bootstrap=(late_at,))
    async with running(early):
        await until(lambda: early.count("dial_failed") >= 1)
        assert early.mesh.unreached() == [late_at]
        assert early.events.getvalue().count('"bootstrap_unreached"') == 1
        async with running(late):
            await until(link_to(early, late.peer_id))
            assert early.mesh.unreached() == []


@pytest.mark.timed
@pytest.mark.spec("DISC-73")
async def test_a_clean_exit_is_seen_at_once_and_takes_less_than_a_second() -> None:
    ann, bob = Peer("ann", network="n3"), Peer("bob", network="n3")
    async with running(ann):
        async with running(bob):
            await bob.mesh.connect(ann.peer_id, ann.mesh.addresses())
            await until(link_to(ann, bob.peer_id))
            ended_s = trio.current_time()
        assert trio.current_time() - ended_s < 1
        assert await until(lambda: bob.peer_id in ann.downs) < 1


@pytest.mark.spec("DISC-73", "DISC-70")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_peer_that_is_killed_or_freezes_is_given_up_within_ten_seconds(how: signal.Signals) -> None:
    ann = Peer("ann", network="n4")
    async with running(ann), process("victim", "n4") as (child, address):
        victim = PeerId(address.rpartition("/p2p/")[2])
        await ann.mesh.connect(victim, [address])
        await until(link_to(ann, victim))
        os.kill(child.pid, how)
        assert await until(lambda: victim in ann.downs) < 10
        assert ann.mesh.links() == []


@pytest.mark.spec("DISC-70")
async def test_a_lost_bootstrap_peer_is_linked_again_when_it_is_back() -> None:
    port = free_port()
    async with process("phoenix", "n5", port=port) as (child, address):
        ann = Peer("ann", network="n5", bootstrap=(address,))
        phoenix = PeerId(address.rpartition("/p2p/")[2])
        async with running(ann):
            await until(link_to(ann, phoenix))
            child.kill()
            await until(lambda: phoenix in ann.downs)
            await child.wait()
            async with process("phoenix", "n5", port=port):
                await until(link_to(ann, phoenix), 20)
    assert ann.ups == [phoenix, phoenix]


async def test_a_suggested_peer_is_dialled_and_its_records_are_asked_for() -> None:
    ann, bob = Peer("ann", network="n6"), Peer("bob", network="n6")
    async with running(ann, bob):
        await bob.announce()
        ann.mesh.suggest(bob.peer_id, bob.mesh.addresses())
        await until(lambda: bob.peer_id in ann.directory)


def test_a_bootstrap_address_without_a_peer_id_is_refused() -> None:
    with pytest.raises(ConfigError, match="/p2p/"):
        Peer("ann", network="n7", bootstrap=("/ip4/127.0.0.1/tcp/4101",))


@pytest.mark.spec("DISC-02")
async def test_an_address_that_leads_to_another_peer_makes_no_link() -> None:
    ann, bob, eve = (Peer(name, network="n8") for name in ("ann", "bob", "eve"))
    async with running(ann, bob):
        stolen = [address.replace(bob.peer_id, eve.peer_id) for address in bob.mesh.addresses()]
        ann.mesh.suggest(eve.peer_id, stolen)
        await until(lambda: ann.count("dial_failed") >= 1)
        assert ann.mesh.links() == []


@pytest.mark.spec("DISC-76")
@pytest.mark.parametrize(
    ("ours", "dialled"),
    [("/ip4/192.0.2.1/tcp/1", ["/ip4/192.0.2.9/tcp/1"]), ("/ip4/127.0.0.1/tcp/1", ["/ip4/127.0.0.1/tcp/22"])],
)
def test_local_addresses_of_a_record_count_only_on_a_machine_of_our_own(
    monkeypatch: pytest.MonkeyPatch, ours: str, dialled: list[str]
) -> None:
    mesh = Peer("ann", network="n1").mesh
    told: list[str] = []
    monkeypatch.setattr(mesh._host, "addresses", lambda: [f"{ours}/p2p/{mesh.peer_id}"])
    monkeypatch.setattr(mesh._dialer, "suggest", lambda peer, addresses: told.extend(addresses))
    mesh.suggest(PeerId("bob"), ["/ip4/127.0.0.1/tcp/22", "/ip4/192.0.2.9/tcp/1"])
    assert set(dialled) <= set(told)
    assert ("/ip4/127.0.0.1/tcp/22" in told) == ours.startswith("/ip4/127.")
