"""Peers that lie, stall, flood and leave: what they cost the other side, on virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from mcd.api.events import AnswerEvent
from mcd.api.request import ChatMessage, ChatRequest
from mcd.conversation import receive_one
from mcd.entry.probe import INFO_TIMEOUT_S
from mcd.entry.router import STALL_S
from mcd.errors import ContextLengthError, McdError, PeerTimeoutError, RefusedError, StreamBrokenError
from mcd.exchange.states import ACCEPT_TIMEOUT_S, CANCEL_TIMEOUT_S, IDLE_TIMEOUT_S, LINGER_TIMEOUT_S, REQUEST_TIMEOUT_S
from mcd.ids import ModelDigest
from mcd.ports import EngineStatus, Stream
from mcd.provider import serve
from mcd.provider.announce import INFO_BURST, INFO_PER_S
from mcd.provider.serve import SEND_STALL_S
from mcd.provider.uploads import FREE_UPLOAD_BYTES, MAX_LARGE_UPLOADS_PER_ADDRESS, MAX_UPLOADS_PER_ADDRESS
from mcd.wire.codec import decode_exchange, decode_info, encode_exchange, encode_info
from mcd.wire.envelope import Terms, seal_request
from mcd.wire.framing import FrameReader, frame
from mcd.wire.info import MAX_INFO_FRAME_BYTES, Answer, ask
from mcd.wire.keyconfig import choose_config, verify_key_config
from mcd.wire.messages import (
    EXCHANGE_PROTOCOL,
    INFO_PROTOCOL,
    MAX_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    Abort,
    AbortCode,
    Accepted,
    Cancel,
    Chunk,
    ExchangeMessage,
    Finished,
    InfoReply,
    InfoRequest,
    Paused,
    Refused,
    RefuseReason,
    Request,
    Started,
    Waiting,
)
from mcd.wire.payload import Failure, Final
from mcd.wire.records import open_record
from mcd.wire.signing import SigningKey, public_key_of
from tests.fakes import memory_mesh
from tests.fakes.sealing_engine import ALIAS, DIGEST, Play, SealingEngine
from tests.unit.test_entry_and_provider import EPOCH_MS, Node, VirtualClock, nodes, text, words

pytestmark = pytest.mark.autojump

Handler = Callable[[Stream], Awaitable[None]]


def said(*messages: ExchangeMessage) -> bytes:
    """Frames of messages, as they travel."""
    return b"".join(frame(encode_exchange(message)) for message in messages)


def speaks(*parts: bytes, stays: bool = True) -> Handler:
    """A provider that says these bytes whatever is asked, then stays silent or leaves."""

    async def handle(stream: Stream) -> None:
        for part in parts:
            await stream.send(part)
        if stays:
            await trio.sleep_forever()

    return handle


@asynccontextmanager
async def beside_a_liar(handler: Handler, **honest: Play) -> AsyncIterator[tuple[Node, Node]]:
    """An entry, and a provider whose exchange handler is replaced; more honest ones by keyword."""
    async with nodes(liar=Play(), **honest) as (entry, providers):
        providers["liar"].mesh.serve(EXCHANGE_PROTOCOL, handler)
        yield entry, providers["liar"]


STARTED = Started(b"\x09" + bytes(31), 7)
LIES = {
    "silent": (speaks(), ACCEPT_TIMEOUT_S),
    "accepts and stalls": (speaks(said(Accepted(0, 0))), IDLE_TIMEOUT_S),
    "starts and stalls": (speaks(said(Accepted(0, 0), STARTED)), IDLE_TIMEOUT_S),
    "starts and leaves": (speaks(said(Accepted(0, 0), STARTED), stays=False), 0),
    "chunk before started": (speaks(said(Accepted(0, 0), Chunk(b"x", 1))), 0),
    "started before accepted": (speaks(said(STARTED)), 0),
    "low order key": (speaks(said(Accepted(0, 0), Started(bytes(32), 7))), 0),
    "chunk of noise": (speaks(said(Accepted(0, 0), STARTED, Chunk(b"x" * 99, 1))), 0),
    "end of noise": (speaks(said(Accepted(0, 0), STARTED, Finished(b"x" * 99, b"y" * 99))), 0),
    "waiting flood": (speaks(said(Accepted(0, 0), *[Waiting(0, 0)] * 40)), 0),
    "huge frame": (speaks((2**31 - 1).to_bytes(4, "big") + bytes(100)), 0),
    "frame over the limit": (speaks((MAX_FRAME_BYTES + 1).to_bytes(4, "big")), 0),
    "half a frame": (speaks(said(Accepted(0, 0))[:3], stays=False), 0),
    "garbage": (speaks(bytes(range(1, 256)) * 40), 0),
    "leaves": (speaks(stays=False), 0),
    "aborts": (speaks(said(Abort(AbortCode.INTERNAL)), stays=False), 0),
    "asks the entry": (speaks(said(Request(bytes(136), b"x", 0))), 0),
}


@pytest.mark.spec("ENV-25")
@pytest.mark.parametrize(("handler", "limit_s"), LIES.values(), ids=LIES)
async def test_a_lie_costs_bounded_time_and_another_provider_answers(handler: Handler, limit_s: float) -> None:
    async with beside_a_liar(handler) as (entry, _):
        began_s = trio.current_time()
        with pytest.raises(McdError):
            await entry.ask()
        assert trio.current_time() - began_s <= 2 * limit_s + 3, "asked twice, with a pause between"
    async with beside_a_liar(handler, honest=Play()) as (entry, _):
        for _ in range(3):
            assert text(await entry.ask()) == words(5)


FAULTS = {
    "low order key": (AbortCode.ENVELOPE, Started(bytes(32), 7)),
    "chunk of noise": (AbortCode.ENVELOPE, STARTED, Chunk(b"x" * 99, 1)),
    "end of noise": (AbortCode.ENVELOPE, STARTED, Finished(b"x" * 99, b"y" * 99)),
    "a price where nothing is paid": (AbortCode.PROTOCOL, STARTED, Paused(1)),
}


@pytest.mark.spec("ENV-40")
@pytest.mark.parametrize(("code", "messages"), [(code, rest) for code, *rest in FAULTS.values()], ids=FAULTS)
async def test_an_answer_at_fault_is_broken_off_with_its_code(code: AbortCode, messages: list[ExchangeMessage]) -> None:
    """The entry said Cancel, as if its user had left."""
    heard: list[ExchangeMessage] = []

    async def handle(stream: Stream) -> None:
        await stream.send(said(Accepted(0, 0), *messages))
        reader = FrameReader(MAX_REQUEST_FRAME_BYTES)
        with contextlib.suppress(StreamBrokenError):
            while data := await stream.receive():
                reader.feed(data)
                while body := reader.next_frame():
                    heard.append(decode_exchange(body))

    async with beside_a_liar(handle) as (entry, _):
        with pytest.raises(McdError):
            await entry.ask()
        await trio.sleep(1)
    assert heard[-1] == Abort(code)


async def test_a_provider_that_takes_no_request_in_costs_the_time_of_its_upload() -> None:
    """A request larger than the stream's window fills it; the wait for room had no end."""
    async with beside_a_liar(speaks()) as (entry, _):
        began_s = trio.current_time()
        with pytest.raises(PeerTimeoutError):
            await entry.ask(content="x" * 1_000_000)
        upload_s = 1_200_000 / 131_072
        assert trio.current_time() - began_s <= 2 * (ACCEPT_TIMEOUT_S + upload_s) + 3


async def test_a_provider_that_only_says_it_lives_is_held_against_it_when_the_user_gives_up() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send(said(Accepted(0, 0)))
        while True:
            await stream.send(said(Waiting(0, 0)))
            await trio.sleep(4)

    async with beside_a_liar(handler=handle) as (entry, liar):
        with trio.move_on_after(STALL_S / 2):
            await entry.ask()
        assert entry.router.health.ok_fraction(liar.peer_id) is None, "an impatient user is no verdict"
        with trio.move_on_after(STALL_S + 5):
            await entry.ask()
        assert entry.router.health.ok_fraction(liar.peer_id) == 0.0


async def test_a_long_prompt_that_a_provider_makes_up_does_not_make_it_fast() -> None:
    learned: list[float] = []
    for cheat in ("", "started"):
        async with nodes(ada=Play(start_s=2.0, cheat=cheat)) as (entry, providers):
            await entry.ask()
            known = entry.router.estimates.learned(providers["ada"].peer_id, DIGEST)
            assert known is not None
            learned.append(known.correction)
    assert learned[0] == pytest.approx(learned[1])
    assert learned[0] > 1


async def test_a_slow_reader_is_not_held_against_the_provider() -> None:
    async with nodes(ada=Play(n_tokens=20)) as (entry, providers):
        request = ChatRequest(model=ALIAS, messages=(ChatMessage(role="user", content="hi"),))

        async def read(events: Sequence[AnswerEvent]) -> None:
            await trio.sleep(STALL_S * 2)
            if text(events):
                scope.cancel()
                await trio.lowlevel.checkpoint()

        with trio.CancelScope() as scope:
            await entry.entry.answer(request, read)
        assert scope.cancelled_caught
        assert entry.router.health.ok_fraction(providers["ada"].peer_id) is None


async def test_a_slow_reader_gets_the_whole_answer_from_its_one_provider() -> None:
    """It came back after the idle time-out, or after the provider had reset the finished stream."""
    async with nodes(ada=Play(n_tokens=10)) as (entry, providers):
        request = ChatRequest(model=ALIAS, messages=(ChatMessage(role="user", content="hi"),))
        answer = ""

        async def read(events: Sequence[AnswerEvent]) -> None:
            nonlocal answer
            await trio.sleep(20)
            answer += text(events)

        await entry.entry.answer(request, read)
        assert answer == words(10)
        assert providers["ada"].provider.served.outcomes == {"finished": 1}


@pytest.mark.spec("EX-09")
async def test_a_refusal_for_an_unknown_reason_is_a_wait_and_no_failure() -> None:
    async with beside_a_liar(speaks(said(Refused(99, 3000)))) as (entry, liar):
        with pytest.raises(RefusedError):
            await entry.ask()
        standing = entry.router.health.standing(liar.peer_id, DIGEST, trio.current_time())
        assert (standing.why, standing.fail_fraction) == ("busy", 0.0)


@pytest.mark.spec("EX-43")
async def test_a_request_too_large_for_every_provider_is_the_users_fault_and_no_failure_of_theirs() -> None:
    """It was a 503 with a time to try again, so clients sent the same request three times."""
    async with beside_a_liar(speaks(said(Refused(RefuseReason.TOO_LARGE, 0)))) as (entry, liar):
        with pytest.raises(ContextLengthError, match="far larger than fits the 4096 tokens"):
            await entry.ask(max_tokens=16 * 4096 + 1)
        assert entry.router.health.standing(liar.peer_id, DIGEST, trio.current_time()).fail_fraction == 0.0


@pytest.mark.spec("EX-43")
async def test_a_request_too_large_for_one_provider_is_served_by_another() -> None:
    async with nodes(big=Play(), small=Play(n_ctx=1024)) as (entry, providers):
        for _ in range(4):
            assert text(await entry.ask(max_tokens=16 * 1024 + 1)) == words(5)
        assert set(providers["small"].provider.served.outcomes) == {"refused_too_large"}
        assert {card.name: card.ok_fraction for card in entry.entry.peers()} == {"small": None, "big": 1.0}


async def test_our_own_engine_is_right_about_its_context_and_not_about_a_longer_one() -> None:
    too_long = Failure("context_length_exceeded", "the context of this model holds 4096", "messages")
    async with nodes(like=Play(), large=Play(n_ctx=8192)) as (_, providers):
        own = providers["like"]
        own.engines[0].play.failure = too_long
        assert text(await own.ask()) == words(5)
        providers["large"].engines[0].play.failure = too_long
        with pytest.raises(ContextLengthError):
            await own.ask()


async def test_many_peers_that_only_refuse_do_not_hide_the_one_that_answers() -> None:
    """Each request tries four; without a growing wait five quick refusers would be tried first for ever."""
    busy = {f"sybil{index}": Play(refuse=RefuseReason.BUSY) for index in range(8)}
    async with nodes(honest=Play(), **busy) as (entry, providers):
        for name, node in providers.items():
            if name != "honest":
                node.mesh.serve(EXCHANGE_PROTOCOL, speaks(said(Refused(RefuseReason.BUSY, 0))))
        n_answered = 0
        for _ in range(12):
            try:
                n_answered += text(await entry.ask()) == words(5)
            except McdError:
                await trio.sleep(0.5)  # as a client would
        assert n_answered >= 8


@pytest.mark.spec("EX-10")
async def test_a_provider_that_leaves_behind_the_last_token_has_given_the_whole_answer() -> None:
    """Going on behind the limit was a protocol error of our own, and the user's answer ended with it."""
    async with nodes(ada=Play(die_at=3)) as (entry, _):
        events = await entry.ask(max_tokens=3)
        assert text(events) == words(3)
        final = events[-1]
        assert isinstance(final, Final)
        assert (final.finish_reasons, final.usage.n_prompt_tokens, final.usage.n_output_tokens) == (("length",), 7, 3)
        assert entry.failover.answered.n_failed == 0


async def test_tokens_nobody_can_go_on_with_are_not_the_users_fault() -> None:
    """A provider that delivers impossible tokens and breaks off makes the next one call the request invalid."""
    async with nodes(ada=Play(die_at=2), bob=Play(die_at=2)) as (entry, providers):

        async def turn_down() -> None:
            while not any(node.engines[0].n_tokens_made == 2 for node in providers.values()):  # noqa: ASYNC110 - no event
                await trio.sleep(0.001)
            for node in providers.values():
                node.engines[0].play.failure = Failure("invalid_request", "no such token", "resume")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn_down)
            with pytest.raises(McdError) as caught:
                await entry.ask()
        assert caught.value.http_status == 502


async def test_a_peer_that_does_not_say_who_it_is_is_asked_after_all_others() -> None:
    async with nodes(mute=Play(), good=Play()) as (entry, providers):
        mute = providers["mute"]
        mute.mesh.serve(INFO_PROTOCOL, speaks())
        await entry.mesh.connect(mute.peer_id, ())
        await trio.sleep(INFO_TIMEOUT_S + 0.1)
        assert {card.name: card.state for card in entry.entry.peers()} == {"mute": "suspect", "good": "alive"}
        assert entry.entry.route(ALIAS, 10, 10)[0].name == "good"


# --- entries against a provider ------------------------------------------------------------------------------


async def sealed_request(entry: Node, provider: Node) -> Request:
    """A request as the entry would send it."""
    keys = (await entry.probe.ask(provider.peer_id)).engines[0]
    now_ms = EPOCH_MS + int(1000 * trio.current_time())
    peer_key = public_key_of(provider.peer_id)
    config = choose_config(verify_key_config(data, keys.certificate, peer_key, now_ms) for data in keys.configs)
    terms = Terms(request_id=b"r" * 16, model_digest=DIGEST, issued_ms=now_ms, ttl_ms=120_000, flags=1)
    body = b'{"request":{"model":"play","messages":[{"role":"user","content":"hi"}]}}'
    header, sealed, _ = seal_request(body, config, terms)
    return Request(header, sealed, 0)


async def open_to(entry: Node, provider: Node, first: bytes) -> Stream:
    return await entry.mesh.open_stream(provider.peer_id, EXCHANGE_PROTOCOL, first)


async def heard(stream: Stream) -> list[ExchangeMessage]:
    """Everything the provider says until it ends the stream."""
    reader, messages = FrameReader(MAX_FRAME_BYTES), []
    try:
        while data := await stream.receive():
            reader.feed(data)
            while (body := reader.next_frame()) is not None:
                messages.append(decode_exchange(body))
    except McdError:
        pass
    return messages


@pytest.mark.spec("EX-29")
async def test_requests_that_never_become_whole_hold_little_and_hold_up_nobody() -> None:
    async with nodes(ada=Play(), mallory=Play()) as (entry, providers):
        ada, mallory = providers["ada"], providers["mallory"]
        mallory.mesh.serve(EXCHANGE_PROTOCOL, speaks())
        entry.router.health.failed(mallory.peer_id, trio.current_time())
        part = (9_000_000).to_bytes(4, "big") + bytes(2_000_000)
        n_sent = 0

        async def send_all_but_the_end() -> None:
            nonlocal n_sent
            stream = await open_to(mallory, ada, b"")
            with contextlib.suppress(StreamBrokenError):  # in the end by the request timer
                for at in range(0, len(part), 10_000):
                    await stream.send(part[at : at + 10_000])
                    n_sent += 10_000

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(send_all_but_the_end)
            await trio.sleep(1)
            window = 262_144
            assert n_sent <= 50 * (FREE_UPLOAD_BYTES + 65_536 + window) + MAX_LARGE_UPLOADS_PER_ADDRESS * len(part)
            assert ada.provider._uploads.large.n_taken == MAX_LARGE_UPLOADS_PER_ADDRESS
            assert text(await entry.ask()) == words(5)
            assert text(await entry.ask(content="x" * 200_000)) == words(5)
            await trio.sleep(REQUEST_TIMEOUT_S)
            assert ada.provider._uploads.large.n_taken <= MAX_LARGE_UPLOADS_PER_ADDRESS
            nursery.cancel_scope.cancel()
        await trio.sleep(2 * REQUEST_TIMEOUT_S)
        assert ada.provider._uploads.large.n_taken == 0


@pytest.mark.spec("EX-29", "EX-39")
async def test_many_names_behind_one_address_hold_no_more_than_one() -> None:
    """Peer ids are free: three took all places for large requests, fifteen a gigabyte with small ones."""
    names = [f"m{index}" for index in range(8)]
    async with nodes(ada=Play(), **{name: Play() for name in names}) as (entry, providers):
        ada = providers["ada"]

        async def send_half(name: str, n_bytes: int) -> None:
            stream = await open_to(providers[name], ada, (9_000_000).to_bytes(4, "big"))
            with contextlib.suppress(StreamBrokenError):
                await stream.send(bytes(n_bytes))

        for name in names:
            entry.mesh._net.public_addresses[providers[name].peer_id] = "9.9.9.9"
            entry.router.health.failed(providers[name].peer_id, trio.current_time())
        async with trio.open_nursery() as nursery:
            for name in names:
                for n_bytes in [2_000_000, *[100] * 30]:
                    nursery.start_soon(send_half, name, n_bytes)
            await trio.sleep(1)
            uploads = ada.provider._uploads
            assert uploads.read.n_taken == MAX_UPLOADS_PER_ADDRESS
            assert uploads.large.n_taken <= MAX_LARGE_UPLOADS_PER_ADDRESS
            assert text(await entry.ask(content="x" * 200_000)) == words(5)
            nursery.cancel_scope.cancel()
        await trio.sleep(9 * REQUEST_TIMEOUT_S)
        assert uploads.read.n_taken == uploads.large.n_taken == 0


@pytest.mark.spec("EX-28")
async def test_an_entry_that_reads_nothing_holds_a_slot_for_a_bounded_time() -> None:
    async with nodes(ada=Play(n_tokens=100_000, token_s=0.001)) as (entry, providers):
        ada = providers["ada"]
        await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1)
        assert ada.engines[0].n_running == 1
        await trio.sleep(SEND_STALL_S + 30)
        assert ada.engines[0].n_running == 0
        assert ada.provider.served.outcomes == {"stalled": 1}


async def test_an_entry_that_leaves_anywhere_ends_its_exchange_alone() -> None:
    """A stream that broke while a frame was on its way came out wrapped in a group and ended the daemon."""
    async with nodes(ada=Play(n_tokens=400, token_s=0.0)) as (entry, providers):
        ada = providers["ada"]
        for after_s in (0.0, 0.0001, 0.001, 0.01, 0.1, 0.2):
            stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
            await trio.sleep(after_s)
            await stream.reset()
        await trio.sleep(LINGER_TIMEOUT_S + 1)
        assert ada.engines[0].n_running == 0
        assert ada.provider.served.outcomes.total() >= 4, "who left before the request arrived is not counted"
        assert text(await entry.ask()) == words(400)


async def test_a_stream_that_breaks_under_a_send_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve._Watch, "run", _blind)
    async with nodes(ada=Play(n_tokens=100_000, token_s=0.0)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(0.5)
        await stream.reset()
        await trio.sleep(1)
        assert ada.engines[0].n_running == 0
        assert ada.provider.served.outcomes == {"broken": 1}


async def _blind(*_: object) -> None:
    await trio.sleep_forever()


async def test_nonsense_in_the_middle_of_an_answer_is_a_protocol_error() -> None:
    async with nodes(ada=Play(n_tokens=1000)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(0.2)
        await stream.send(said(Accepted(0, 0)))
        await heard(stream)
        assert ada.provider.served.outcomes == {"protocol": 1}
        assert ada.engines[0].n_running == 0


@pytest.mark.spec("EX-27")
async def test_a_cancel_before_the_engine_began_closes_the_stream() -> None:
    async with nodes(ada=Play(start_s=1.0)) as (entry, providers):
        ada = providers["ada"]
        request = await sealed_request(entry, ada)
        stream = await open_to(entry, ada, said(request, Cancel()))
        messages = await heard(stream)
        assert not [message for message in messages if isinstance(message, Abort)]
        await trio.sleep(LINGER_TIMEOUT_S + 1)
        assert ada.provider.served.outcomes == {"cancelled": 1}


@pytest.mark.spec("EX-27")
@pytest.mark.parametrize("closes", [False, True])
async def test_a_cancel_of_a_running_answer_brings_its_end(closes: bool) -> None:
    async with nodes(ada=Play(n_tokens=1000)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1.0)
        await stream.send(said(Cancel()))
        if closes:
            await stream.close()
        began_s = trio.current_time()
        messages = await heard(stream)
        assert trio.current_time() - began_s <= LINGER_TIMEOUT_S + 0.1
        assert isinstance(messages[-1], Finished)
        assert sum(message.n_tokens for message in messages if isinstance(message, Chunk)) > 30
        assert ada.engines[0].n_running == 0
        assert ada.provider.served.outcomes == {"cancelled": 1}


async def test_the_last_frame_waits_for_a_slow_reader_longer_than_the_entry_may_linger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with nodes(ada=Play(n_tokens=100)) as (entry, providers):
        ada = providers["ada"]
        messages = await heard(await open_to(entry, ada, said(await sealed_request(entry, ada))))
        monkeypatch.setattr(memory_mesh, "WINDOW_BYTES", len(said(*messages)) - 10)
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(LINGER_TIMEOUT_S * 3)
        assert isinstance((await heard(stream))[-1], Finished)
        assert ada.provider.served.outcomes == {"finished": 2}


@pytest.mark.spec("EX-27", "EX-50")
@pytest.mark.parametrize("closes", [False, True])
async def test_an_end_that_the_engine_does_not_seal_is_waited_for_five_seconds(closes: bool) -> None:
    async with nodes(ada=Play(n_tokens=1000, cancel_s=60.0)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1.0)
        await stream.send(said(Cancel()))
        if closes:
            await stream.close()
        messages = await heard(stream)
        assert messages[-1] == Abort(AbortCode.TIMEOUT)
        await trio.sleep(0.1)
        assert ada.engines[0].n_running == 0


async def test_who_cancels_and_reads_nothing_holds_a_place_for_five_seconds() -> None:
    async with nodes(ada=Play(n_tokens=100_000, token_s=0.0)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1.0)
        assert ada.engines[0].n_running == 1
        await stream.send(said(Cancel()))
        await trio.sleep(CANCEL_TIMEOUT_S + 1.0)
        assert ada.engines[0].n_running == 0


async def test_who_vanishes_gets_nothing_and_frees_its_place_at_once() -> None:
    async with nodes(ada=Play(n_tokens=1000)) as (entry, providers):
        ada = providers["ada"]
        stream = await open_to(entry, ada, said(await sealed_request(entry, ada)))
        await trio.sleep(1.0)
        await stream.reset()
        await trio.sleep(0.1)
        assert ada.engines[0].n_running == 0
        assert ada.provider.served.n_output_tokens == 0


@pytest.mark.spec("EX-26")
@pytest.mark.parametrize("address", ["", "203.0.113.7"])
async def test_one_entry_or_address_leaves_places_for_another(address: str) -> None:
    async with nodes(ada=Play(start_s=60.0, n_slots=2), mallory=Play(), eve=Play()) as (entry, providers):
        ada, mallory, eve = (providers[name] for name in ("ada", "mallory", "eve"))
        refused = ada.provider.served.outcomes
        ada.mesh._net.public_addresses |= dict.fromkeys([mallory.peer_id, eve.peer_id], address)

        async def ask(asker: Node, n_times: int = 1) -> None:
            for _ in range(n_times):  # short ones, for of long ones the line is full in ten seconds' worth
                short = msgspec.structs.replace(await sealed_request(asker, ada), max_output_tokens=1)
                await open_to(asker, ada, said(short))
            await trio.sleep(0.1)

        await ask(mallory, 33)
        assert refused == {"refused_peer_limit": 8}, "of two slots and 32 places in line it has 25"
        await ask(eve)
        assert refused["refused_peer_limit"] == (9 if address else 8)
        await ask(entry)
        assert refused.total() == (9 if address else 8)


@pytest.mark.spec("EX-46")
@pytest.mark.parametrize("address", ["", "203.0.113.7"])
async def test_the_engine_hears_whose_requests_belong_together_and_how_many_slots_these_may_hold(address: str) -> None:
    async with nodes(ada=Play(n_tokens=10_000), mallory=Play(), eve=Play()) as (_, providers):
        ada, mallory, eve = (providers[name] for name in ("ada", "mallory", "eve"))
        ada.mesh._net.public_addresses |= dict.fromkeys([mallory.peer_id, eve.peer_id], address)
        for asker in (mallory, mallory, eve):
            await open_to(asker, ada, said(await sealed_request(asker, ada)))
        await trio.sleep(1)
        computing = ada.engines[0].computing
        assert [request.max_slots for request in computing] == [3, 3, 3]
        assert len({request.asker for request in computing}) == (1 if address else 2)


async def test_an_engine_that_says_too_much_ends_its_exchange_alone() -> None:
    async with nodes(ada=Play(n_tokens=50)) as (entry, providers):
        ada = providers["ada"]
        request = await sealed_request(entry, ada)
        limited = Request(request.header, request.sealed, 10)
        messages = await heard(await open_to(entry, ada, said(limited)))
        assert sum(message.n_tokens for message in messages if isinstance(message, Chunk)) <= 10
        assert ada.provider.served.outcomes == {"internal": 1}


@pytest.mark.spec("ID-36")
@pytest.mark.parametrize("address", ["", "203.0.113.7"])
async def test_who_asks_for_nothing_but_keys_is_answered_so_often_and_others_all_the_same(address: str) -> None:
    async with nodes(ada=Play(), mallory=Play(), eve=Play()) as (entry, providers):
        ada, mallory, eve = (providers[name] for name in ("ada", "mallory", "eve"))
        ada.mesh._net.public_addresses |= dict.fromkeys([mallory.peer_id, eve.peer_id], address)

        async def n_answered(asker: Node, n_asked: int) -> int:
            answers: list[Answer] = []

            async def ask() -> None:
                with contextlib.suppress(StreamBrokenError):
                    answers.append(await asker.probe.ask(ada.peer_id))

            async with trio.open_nursery() as nursery:
                for _ in range(n_asked):
                    nursery.start_soon(ask)
            return len(answers)

        await trio.sleep(INFO_BURST / INFO_PER_S + 1.0)  # what was asked when the links came up is forgotten
        assert await n_answered(mallory, 200) == INFO_BURST
        assert await n_answered(eve, 1) == (0 if address else 1)
        assert await n_answered(entry, 1) == 1
        await trio.sleep(2.0)
        assert await n_answered(mallory, 200) == 2 * INFO_PER_S


@pytest.mark.spec("ID-36")
async def test_a_question_too_many_is_reset() -> None:
    """A stream that only ended would look like a peer that has nothing to say."""
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"].peer_id

        async def ask_once() -> None:
            with contextlib.suppress(StreamBrokenError):
                await entry.probe.ask(ada)

        async with trio.open_nursery() as nursery:
            for _ in range(INFO_BURST):
                nursery.start_soon(ask_once)
        one_more = await entry.mesh.open_stream(ada, INFO_PROTOCOL, frame(encode_info(ask(bytes(16)))))
        with pytest.raises(StreamBrokenError, match="reset"):
            await one_more.receive()


@pytest.mark.spec("ID-30")
async def test_an_info_stream_brings_one_reply_and_ends() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"]
        stream = await entry.mesh.open_stream(ada.peer_id, INFO_PROTOCOL, frame(encode_info(ask(bytes(range(16))))))
        reply = decode_info(await receive_one(stream, MAX_INFO_FRAME_BYTES))
        assert isinstance(reply, InfoReply)
        assert (reply.nonce, reply.record) == (bytes(range(16)), ada.announcer.signed_record())
        assert reply.engines == (ada.engines[0].keys(),)
        assert await stream.receive() == b""


@pytest.mark.spec("ID-31")
async def test_no_two_questions_have_the_same_nonce() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        nonces: list[bytes] = []

        async def note(stream: Stream) -> None:
            request = decode_info(await receive_one(stream, MAX_FRAME_BYTES))
            assert isinstance(request, InfoRequest)
            nonces.append(request.nonce)
            await stream.reset()

        providers["ada"].mesh.serve(INFO_PROTOCOL, note)
        for _ in range(3):
            with pytest.raises(StreamBrokenError):
                await entry.probe.ask(providers["ada"].peer_id)
        assert len(set(nonces)) == len(nonces) >= 3


# --- ourselves -----------------------------------------------------------------------------------------------


class LongNamed(SealingEngine):
    """One of many models with long names, so that a record cannot hold them all."""

    def __init__(self, index: int, node: Node) -> None:
        super().__init__(SigningKey(bytes(31) + bytes((index,))), VirtualClock(), Play())
        self._index = index

    def status(self) -> EngineStatus:
        return msgspec.structs.replace(
            super().status(),
            alias=f"some-organisation/a-model-with-a-rather-long-name-instruct-of-the-second-revision:{self._index:02d}",
            digest=ModelDigest(bytes(31) + bytes((self._index,))),
            capabilities=("chat", "tools", "json-schema", "reasoning", "logprobs"),
        )


async def test_more_models_than_a_record_holds_are_left_out_and_said() -> None:
    """The record could not be signed, and the daemon ended with that."""
    async with nodes(ada=Play()) as (entry, providers):
        announcer = providers["ada"].announcer
        announcer._engines = tuple(LongNamed(index, providers["ada"]) for index in range(20))
        await trio.sleep(2)
        n_models = len(entry.entry.models())
        assert 8 <= n_models < 20
        assert announcer.warnings == (f"{20 - n_models} models are not announced: a record holds 4096 bytes",)
        seq = open_record(announcer.signed_record(), now_ms=VirtualClock().unix_ms(), network="test").record.seq
        await trio.sleep(1.5)
        again = open_record(announcer.signed_record(), now_ms=VirtualClock().unix_ms(), network="test").record.seq
        assert again - seq < 5000, "an unchanged record is not numbered anew at each look"


async def test_keys_that_came_with_the_link_are_not_asked_for_again() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        n_asked = 0
        serve_info = providers["ada"].announcer.serve_info

        async def counted(stream: Stream) -> None:
            nonlocal n_asked
            n_asked += 1
            await serve_info(stream)

        await entry.mesh.connect(providers["ada"].peer_id, ())
        await trio.sleep(1)
        providers["ada"].mesh.serve(INFO_PROTOCOL, counted)
        for _ in range(3):
            await entry.ask()
        assert n_asked == 0
