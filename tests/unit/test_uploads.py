"""Places for large requests: who holds one must use it, and who waits has one in turn. On virtual time."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
import trio
import trio.testing

from mcd.errors import StreamBrokenError
from mcd.exchange.states import ACCEPT_TIMEOUT_S, MIN_UPLOAD_BYTES_PER_S
from mcd.ports import Stream
from mcd.provider.uploads import FREE_UPLOAD_BYTES, MAX_LARGE_UPLOADS, UPLOAD_SLACK_S, Places
from mcd.wire.messages import Abort, AbortCode, Refused, RefuseReason
from tests.fakes.sealing_engine import Play
from tests.unit.test_entry_and_provider import Node, nodes, text, words
from tests.unit.test_hostile_peers import heard, open_to, said, sealed_request

pytestmark = pytest.mark.autojump

LARGE = (9_000_000).to_bytes(4, "big")


@pytest.mark.spec("EX-58")
async def test_a_place_goes_to_who_holds_fewest_and_had_one_longest_ago() -> None:
    """It went to whoever woke up first, so who had a hundred streams waiting had nearly all of them."""
    places, order = Places(3, 2), list[str]()

    async def take(address: str) -> None:
        await places.take(address)
        order.append(address)

    async with trio.open_nursery() as nursery:
        for address in "aaaabbcd":
            nursery.start_soon(take, address)
            await trio.testing.wait_all_tasks_blocked()
        for address in "abbc":
            places.give_back(address)
            await trio.testing.wait_all_tasks_blocked()
        assert "".join(order) == "aab" + "cbda"
        for address in "aada":
            places.give_back(address)
    assert is_empty(places)


async def test_who_gives_up_waiting_leaves_nothing_and_keeps_no_place() -> None:
    places = Places(1, 1)
    await places.take("a")
    with trio.move_on_after(1):
        await places.take("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(places.take, "c")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        places.give_back("a")  # before it has heard that nobody wants it any more
    assert is_empty(places)


def is_empty(places: Places) -> bool:
    return not (places.n_taken or places._round or places._waiting or places._of)


async def hold_again_and_again(mallory: Node, ada: Node) -> None:
    """Send just enough for a place, then nothing; come back at once."""
    while True:
        stream = await open_to(mallory, ada, LARGE)
        with contextlib.suppress(StreamBrokenError):
            await stream.send(bytes(2 * FREE_UPLOAD_BYTES))
            await heard(stream)
        await stream.reset()


@pytest.mark.spec("EX-57")
async def test_addresses_that_hold_all_places_and_send_nothing_do_not_keep_others_out() -> None:
    """Three held all six for ninety seconds, and took them again before anybody else had one."""
    names = [f"m{index}" for index in range(3)]
    async with nodes(ada=Play(), **{name: Play() for name in names}) as (entry, providers):
        ada = providers["ada"]
        async with trio.open_nursery() as nursery:
            for name in names:
                mallory = providers[name]
                entry.mesh._net.public_addresses[mallory.peer_id] = f"9.9.9.{name[1]}"
                for _ in range(20):
                    nursery.start_soon(hold_again_and_again, mallory, ada)
            await trio.sleep(1)
            assert ada.provider._uploads.large.n_taken == MAX_LARGE_UPLOADS
            for _ in range(5):
                for name in names:
                    entry.router.health.failed(providers[name].peer_id, trio.current_time())
                began_s = trio.current_time()
                assert text(await entry.ask(content="x" * 200_000)) == words(5)
                assert trio.current_time() - began_s < ACCEPT_TIMEOUT_S
            nursery.cancel_scope.cancel()
        assert ada.provider.served.outcomes["finished"] == 5, "nobody else answered"


@pytest.mark.spec("EX-57")
async def test_a_request_on_a_poor_line_is_read_to_its_end_and_a_slower_one_is_not() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"]
        large = msgspec.structs.replace(await sealed_request(entry, ada), sealed=bytes(3_000_000))
        assert len(large.sealed) / MIN_UPLOAD_BYTES_PER_S > UPLOAD_SLACK_S
        data, step = said(large), 16_384

        async def send(stream: Stream, rate: float) -> None:
            with contextlib.suppress(StreamBrokenError):
                for at in range(step, len(data), step):
                    await trio.sleep(step / rate)
                    await stream.send(data[at : at + step])

        last = []
        for rate in (MIN_UPLOAD_BYTES_PER_S, MIN_UPLOAD_BYTES_PER_S / 2):
            stream = await open_to(entry, ada, data[:step])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, stream, rate)
                last.append((await heard(stream))[-1])
                nursery.cancel_scope.cancel()
        assert last == [Refused(RefuseReason.TOO_LARGE, 0), Abort(AbortCode.TIMEOUT)]
        assert ada.provider.served.outcomes["stalled"] == 1
