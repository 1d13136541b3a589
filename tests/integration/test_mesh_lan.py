"""Finding one another by DNS-SD over loopback multicast, and what a hostile or absent local network does."""

from __future__ import annotations

import io
import socket
from collections.abc import Sequence

import pytest
import trio
from zeroconf import ServiceInfo

from mcd.ids import PeerId
from mcd.log import Log
from mcd.mesh import lan as lan_module
from mcd.mesh.counters import Counters
from mcd.mesh.lan import SERVICE, Lan, Presence, read_service, txt_of
from mcd.mesh.supervise import supervise
from mcd.wire.messages import MAX_ADDRESSES
from mcd.wire.signing import SigningKey, peer_id
from tests.integration.mesh_peers import seed_of, until

ANN, BOB, EVE = (peer_id(SigningKey(seed_of(name)).public_key) for name in ("ann", "bob", "eve"))
LOOPBACK = ("127.0.0.1",)


def presence(peer: PeerId, network: str, port: int = 4101) -> Presence:
    return Presence(peer, network, port, LOOPBACK)


@pytest.mark.timed
@pytest.mark.spec("DISC-60", "DISC-61")
async def test_peers_of_one_network_find_each_other_and_the_loop_goes_on() -> None:
    seen: dict[str, dict[PeerId, Sequence[str]]] = {"ann": {}, "bob": {}, "eve": {}}
    network = "lan-test-" + str(trio.current_time()).replace(".", "-")[-12:]
    gap_s = 0.0

    async def watch() -> None:
        nonlocal gap_s
        while True:
            before_s = trio.current_time()
            await trio.sleep(0.01)
            gap_s = max(gap_s, trio.current_time() - before_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for name, me in (
            ("ann", presence(ANN, network)),
            ("bob", presence(BOB, network, 4102)),
            ("eve", presence(EVE, "lan-other", 4103)),
        ):
            nursery.start_soon(Lan(me, seen[name].__setitem__, interfaces=LOOPBACK).run)
        await until(lambda: BOB in seen["ann"] and ANN in seen["bob"], 20)
        ended_s = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - ended_s < 1
    assert list(seen["ann"][BOB]) == [f"/ip4/127.0.0.1/tcp/4102/p2p/{BOB}"]
    assert seen["ann"].keys() == {BOB}
    assert seen["eve"] == {}
    assert gap_s < 1, "the start of zeroconf takes two seconds; they must not be the loop's"


@pytest.mark.spec("DISC-60")
async def test_a_machine_without_multicast_costs_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(lan_module, "Zeroconf", refuse)
    out, counters = io.StringIO(), Counters()
    service = Lan(presence(ANN, "n"), lambda *_: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: supervise("lan", service.run, log=Log(out=out), counters=counters))
        await until(lambda: counters["restarted_lan"] >= 2)
        nursery.cancel_scope.cancel()
    assert '"reason":"OSError"' in out.getvalue()


def service_of(*, port: int | None = 4101, ips: Sequence[str] = LOOPBACK, **txt: str | bytes | None) -> ServiceInfo:
    fields = {**txt_of(presence(ANN, "n")), **txt}
    return ServiceInfo(
        SERVICE,
        f"x.{SERVICE}",
        addresses=[socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) for ip in ips],
        port=port,
        properties={key: value for key, value in fields.items() if value is not None},
    )


@pytest.mark.spec("DISC-62")
def test_a_service_of_our_network_gives_dialable_addresses() -> None:
    found = read_service(service_of(ips=("192.168.1.9", "fd00::1")), "n")
    assert found == (ANN, (f"/ip4/192.168.1.9/tcp/4101/p2p/{ANN}", f"/ip6/fd00::1/tcp/4101/p2p/{ANN}"))


@pytest.mark.spec("DISC-62")
@pytest.mark.parametrize(
    "service",
    [
        service_of(net="other"),
        service_of(net=None),
        service_of(id=None),
        service_of(id="x" * 52),
        service_of(id=ANN[:-1]),
        service_of(id=ANN + "\n"),
        service_of(id=b"\xff" * 52),
        service_of(id="../../etc"),
        service_of(port=0),
        service_of(port=None),
        service_of(ips=()),
    ],
)
def test_other_services_are_ignored(service: ServiceInfo) -> None:
    assert read_service(service, "n") is None


@pytest.mark.spec("DISC-62")
def test_no_more_than_eight_addresses_are_taken() -> None:
    found = read_service(service_of(ips=[f"10.0.0.{n}" for n in range(1, 30)]), "n")
    assert found is not None
    assert len(found[1]) == MAX_ADDRESSES
