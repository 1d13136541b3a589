"""Twenty real peers on loopback that know one address learn all records; bad ones reach nobody's directory."""

from __future__ import annotations

import time

import psutil
import pytest
import trio

from mcd.wire.messages import MAX_RECORD_BYTES
from mcd.wire.signing import SigningKey
from tests.integration.mesh_peers import (
    Peer,
    SystemClock,
    message,
    own_topic,
    rpc,
    running,
    running_host,
    seed_of,
    until,
)

N_PEERS = 20
SEEN_TIMEOUT_S = 60
"""From the start of the last peer until everyone knows everyone; 5 s on a quiet core, more when others use it."""


async def start_twenty(nursery: trio.Nursery) -> list[Peer]:
    hub = Peer("peer 0", network="twenty", seeks_links=True)
    await nursery.start(hub.mesh.run)
    known = hub.mesh.addresses()
    leaves = [Peer(f"peer {n}", network="twenty", bootstrap=known, seeks_links=True) for n in range(1, N_PEERS)]
    peers = [hub, *leaves]
    for peer in leaves:
        await nursery.start(peer.mesh.run)
    for peer in peers:
        await peer.announce()
    return peers


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.spec("DISC-01", "DISC-15", "DISC-25")
async def test_twenty_peers_see_one_another_and_no_bad_record() -> None:
    cpu_s, rss = time.process_time(), psutil.Process().memory_info().rss
    async with trio.open_nursery() as nursery:
        peers = await start_twenty(nursery)
        hub = peers[0]
        await until(lambda: all(len(peer.directory) == N_PEERS for peer in peers), SEEN_TIMEOUT_S)
        assert time.process_time() - cpu_s < 60
        assert psutil.Process().memory_info().rss - rss < 200 * 1024 * 1024
        await inject_bad_records(hub)
        await until(lambda: hub.count("record_oversized") == 1)
        carl = Peer("carl", network="twenty").peer_id
        await until(lambda: all(carl in peer.directory for peer in peers), SEEN_TIMEOUT_S)
        assert {peer.directory[carl].record.seq for peer in peers} == {5}
        assert hub.drops == {"signature": 1, "expired": 1, "old": 1}
        for peer in peers[1:]:
            assert not peer.drops.keys() - {"old"}
            assert peer.count("record_reject") == 0
        victim = peers[-1]
        ended_s = trio.current_time()
        nursery.cancel_scope.cancel()
    assert victim.ups
    assert trio.current_time() - ended_s < 5, "twenty meshes in one process; one alone takes a tenth of a second"


async def inject_bad_records(hub: Peer) -> None:
    """A good record of a twenty-first peer, then a forged, an expired, a replayed and an oversized one, to the hub."""
    carl, mallory, now_ms = Peer("carl", network="twenty"), SigningKey(seed_of("mallory")), SystemClock().unix_ms()
    forged = bytearray(carl.signed(seq=6))
    forged[40] ^= 1
    records = [
        carl.signed(seq=5),
        bytes(forged),
        carl.signed(seq=7, issued_ms=now_ms - 90_000, expires_ms=now_ms - 1),
        carl.signed(seq=4),
        bytes(MAX_RECORD_BYTES + 1),
    ]
    frames = [rpc(message(mallory, own_topic(carl), record, n)) for n, record in enumerate(records)]
    async with running_host("injector") as injector:
        await injector.connect(hub.peer_id, hub.mesh.addresses())
        await injector.open_stream(hub.peer_id, "/meshsub/1.1.0", b"".join(frames))
        await until(lambda: hub.count("record_oversized") == 1)


async def test_peers_that_go_are_missed_by_those_who_were_linked() -> None:
    hub, leaf = Peer("hub", network="leave"), Peer("leaf", network="leave")
    async with running(hub):
        async with running(leaf):
            await leaf.mesh.connect(hub.peer_id, hub.mesh.addresses())
            await until(lambda: leaf.peer_id in hub.ups)
        await until(lambda: leaf.peer_id in hub.downs, 5)
