"""Entries and providers as wired by the daemon, over a network in memory, on virtual time."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from mcd.api.events import AnswerEvent, Answering, Waiting
from mcd.api.request import ChatMessage, ChatRequest
from mcd.api.tasks import EmbeddingsRequest
from mcd.config import Config
from mcd.entry.failover import Failover
from mcd.entry.keyring import Keyring
from mcd.entry.probe import LOAD_INTERVAL_S, LOAD_LIFETIME_S, LOAD_PAUSE_S, Probe
from mcd.entry.router import Router
from mcd.entry.session import Session
from mcd.entry.view import MeshEntry
from mcd.errors import (
    ContextLengthError,
    EnvelopeError,
    McdError,
    ModelNotFoundError,
    NoProviderError,
    PeerError,
    PeerTimeoutError,
    RefusedError,
    RemoteProtocolError,
)
from mcd.exchange.states import CANCEL_TIMEOUT_S
from mcd.ids import ModelDigest, PeerId
from mcd.log import Log
from mcd.ports import Stream
from mcd.provider.announce import Announcer
from mcd.provider.serve import Provider
from mcd.routing.directory import Directory
from mcd.routing.plan import Candidate, Want, candidates
from mcd.units import UnixMs
from mcd.wire import info
from mcd.wire.messages import EXCHANGE_PROTOCOL, INFO_PROTOCOL, EngineKeys, RefuseReason
from mcd.wire.payload import Delta, Failure, Final, Vectors
from mcd.wire.records import open_record
from mcd.wire.signing import SigningKey, peer_id
from tests.fakes.memory_mesh import MemoryNet, open_net
from tests.fakes.sealing_engine import ALIAS, DIGEST, Play, SealingEngine, word

pytestmark = pytest.mark.autojump
EPOCH_MS = 1_795_000_000_000


class VirtualClock:
    """Both clocks run on trio's."""

    def now(self) -> float:
        return trio.current_time()

    def unix_ms(self) -> UnixMs:
        return UnixMs(EPOCH_MS + int(1000 * trio.current_time()))


class Node:
    """What `mcd.daemon` builds, without HTTP, process and sockets."""

    def __init__(self, net: MemoryNet, name: str, plays: Sequence[Play] = ()) -> None:
        clock = VirtualClock()
        key = SigningKey(hashlib.sha256(name.encode()).digest())
        self.mesh = net.mesh(peer_id(key.public_key))
        self.peer_id = self.mesh.peer_id
        self.engines = [SealingEngine(key, clock, play) for play in plays]
        self.directory = directory = Directory(self.peer_id, "test")
        self.provider = Provider(self.engines, clock, self.mesh)
        config = Config(home=Path("unused"), network="test", name=name)
        self.announcer = Announcer(
            config, key, self.mesh, self.engines, clock, directory.set_own, self.provider.statuses
        )
        self.log = io.StringIO()
        self.probe = Probe(self.mesh, directory, "test", clock, Log("debug", self.log))
        self.router = Router(directory, self.mesh, clock, Random(1))
        self.session = Session(self.mesh, Keyring(self.probe, clock), clock)
        self.failover = Failover(self.router, self.session, self.probe.search, clock, Log("debug", self.log))
        self.entry = MeshEntry(
            self.failover, self.router, directory, self.mesh, clock, self.probe.n_running, self.provider.statuses
        )
        self.mesh.serve(EXCHANGE_PROTOCOL, self.provider.serve)
        self.mesh.serve(INFO_PROTOCOL, self.announcer.serve_info)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.probe.run)
            nursery.start_soon(self.session.run)
            nursery.start_soon(self.announcer.run)

    async def ask(self, model: str = ALIAS, content: str = "hi", **members: int) -> list[AnswerEvent]:
        request = ChatRequest(model=model, messages=(ChatMessage(role="user", content=content),), **members)  # type: ignore[arg-type]
        got: list[AnswerEvent] = []

        async def put(events: Sequence[AnswerEvent]) -> None:
            got.extend(events)

        await self.entry.answer(request, put)
        return got


@asynccontextmanager
async def nodes(**plays: Play) -> AsyncIterator[tuple[Node, dict[str, Node]]]:
    """An entry and one provider a keyword, all aware of one another."""
    async with open_net() as net, trio.open_nursery() as nursery:
        entry = Node(net, "entry")
        providers = {name: Node(net, name, [play]) for name, play in plays.items()}
        for node in (entry, *providers.values()):
            nursery.start_soon(node.run)
        await trio.sleep(2)
        yield entry, providers
        nursery.cancel_scope.cancel()


OVERCHARGES = ("receipt", "usage", "prompt", "amount", "cached", "all cached", "thoughts", "digest")


def text(events: Sequence[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def words(count: int) -> str:
    return "".join(word(index) for index in range(count))


async def test_a_sealed_answer_comes_back_whole_and_counted() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        events = await entry.ask()
        assert text(events) == words(5)
        final = events[-1]
        assert isinstance(final, Final)
        assert (final.usage.n_prompt_tokens, final.usage.n_output_tokens) == (7, 5)
        assert [e.peer_id for e in events if isinstance(e, Answering)] == [providers["ada"].peer_id]
        assert entry.failover.answered.n_output_tokens == 5
        await trio.sleep(1)
        assert providers["ada"].provider.served.outcomes == {"finished": 1}
        assert providers["ada"].engines[0].n_running == 0


@pytest.mark.parametrize(
    "fault",
    [
        Play(refuse=RefuseReason.BUSY),
        Play(refuse=RefuseReason.REPLAY),
        Play(die_at=0),
        Play(cheat="count"),
    ],
    ids=["busy", "replay", "died", "miscounts"],
)
async def test_the_next_provider_answers_when_one_fails(fault: Play) -> None:
    async with nodes(bad=fault, good=Play()) as (entry, _):
        for _ in range(4):
            assert text(await entry.ask()) == words(5)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (RefuseReason.PEER_LIMIT, "this peer has as many requests there as one may have"),
        (RefuseReason.BUSY, "every place there is taken"),
        (RefuseReason.LOADING, "it is still loading the model"),
    ],
)
async def test_a_refusal_is_said_in_words(reason: RefuseReason, said: str) -> None:
    """`the provider refused: peer limit` told nobody what to do less of."""
    async with nodes(ada=Play(refuse=reason)) as (entry, _):
        with pytest.raises(RefusedError, match=said):
            await entry.ask()


@pytest.mark.spec("ENV-09", "ENV-10")
async def test_a_config_that_does_not_hold_leaves_the_others_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of a later version, or an old key beside the new one, made a provider unusable."""
    async with nodes(ada=Play()) as (entry, providers):
        engine = providers["ada"].engines[0]
        keys = engine.keys()
        later_suite = keys.configs[0][:1] + b"\0\3" + keys.configs[0][3:]
        more = EngineKeys(DIGEST, keys.certificate, (b"", later_suite, *keys.configs))
        monkeypatch.setattr(engine, "keys", lambda: more)
        entry.probe.forget_keys(providers["ada"].peer_id, DIGEST, {key_id_of(entry)})
        assert text(await entry.ask()) == words(5)


@pytest.mark.spec("ENV-09")
async def test_a_provider_that_goes_back_to_an_older_seal_key_is_not_sealed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stole a key of an hour ago could have its provider's network process offer it again."""
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"]
        engine, older = ada.engines[0], (ada.engines[0].status(), ada.engines[0].keys())
        engine._keys.rotate(VirtualClock().unix_ms())
        await trio.sleep(2)
        assert text(await entry.ask()) == words(5)
        monkeypatch.setattr(engine, "status", lambda: older[0])
        monkeypatch.setattr(engine, "keys", lambda: older[1])
        await trio.sleep(2)
        assert key_id_of(entry) == older[0].key_id
        with pytest.raises(EnvelopeError):
            await entry.ask()


def key_id_of(entry: Node) -> bytes:
    [candidate] = entry.directory.snapshot(VirtualClock().unix_ms()).by_alias[ALIAS]
    return candidate.model.key_id


@pytest.mark.spec("ID-37")
async def test_a_hundred_requests_at_once_ask_for_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asked by itself, and a provider answers one address only so many."""
    async with nodes(ada=Play()) as (entry, providers):
        ada, asked = providers["ada"].peer_id, list[PeerId]()
        ask = entry.probe.ask

        async def counted(peer_id: PeerId) -> info.Answer:
            asked.append(peer_id)
            return await ask(peer_id)

        monkeypatch.setattr(entry.probe, "ask", counted)
        for _ in range(2):
            entry.probe.forget_keys(ada, DIGEST, {key_id_of(entry)})
            answers = list[EngineKeys]()

            async def one(answers: list[EngineKeys] = answers) -> None:
                keys = await entry.probe.engine_keys(ada, DIGEST, key_id_of(entry))
                answers.append(keys)

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(one)
            assert len(answers) == 100
        n_asked = len(asked)
        assert n_asked <= 3  # one a round, and one for the link
        entry.probe.forget_keys(ada, DIGEST, {b"of a request that was sealed before"})
        await entry.probe.engine_keys(ada, DIGEST, key_id_of(entry))
        assert len(asked) == n_asked


async def test_who_leaves_while_asking_for_keys_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"].peer_id
        ask = entry.probe.ask
        n_asked = 0

        async def first_hangs(peer_id: PeerId) -> info.Answer:
            nonlocal n_asked
            n_asked += 1
            if n_asked == 1:
                await trio.sleep_forever()
            return await ask(peer_id)

        monkeypatch.setattr(entry.probe, "ask", first_hangs)
        key_id = key_id_of(entry)
        entry.probe.forget_keys(ada, DIGEST, {key_id})

        async def comes_later() -> None:
            await trio.sleep(0.5)
            assert (await entry.probe.engine_keys(ada, DIGEST, key_id)).configs

        async with trio.open_nursery() as nursery:
            nursery.start_soon(comes_later)
            with trio.move_on_after(1):
                await entry.probe.engine_keys(ada, DIGEST, key_id)
        assert n_asked > 1


async def test_a_peer_that_does_not_answer_fails_all_who_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(ada=Play()) as (entry, providers):
        ada, failed = providers["ada"].peer_id, list[McdError]()
        key_id = key_id_of(entry)

        async def silence(peer_id: PeerId) -> info.Answer:
            await trio.sleep(5)
            raise PeerTimeoutError("no answer")

        async def one() -> None:
            try:
                await entry.probe.engine_keys(ada, DIGEST, key_id)
            except PeerError as problem:
                failed.append(problem)

        monkeypatch.setattr(entry.probe, "ask", silence)
        entry.probe.forget_keys(ada, DIGEST, {key_id})
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(failed) == 10
        assert trio.current_time() - began_at == pytest.approx(5)


@pytest.mark.spec("ENV-47")
@pytest.mark.parametrize("cheat", ["choice", "reasons"])
async def test_an_answer_to_what_nobody_asked_is_its_providers_failure(cheat: str) -> None:
    """The gateway noticed, too late for another provider and without blame for this one."""
    async with nodes(bad=Play(cheat=cheat)) as (entry, providers):
        with pytest.raises(RemoteProtocolError):
            await entry.ask()
        assert entry.router.health.ok_fraction(providers["bad"].peer_id) == 0.0
    async with nodes(bad=Play(cheat=cheat), good=Play()) as (entry, _):
        for _ in range(4):
            assert text(await entry.ask()) == words(5)


@pytest.mark.spec("ENV-49")
async def test_every_provider_is_told_when_the_user_asked() -> None:
    async with nodes(ada=Play(start_s=3.0, die_at=2), bob=Play(start_s=3.0, die_at=4)) as (entry, providers):
        before = EPOCH_MS + int(1000 * trio.current_time())
        with contextlib.suppress(McdError):
            await entry.ask()
        told = [ms for node in providers.values() for ms in node.engines[0].asked_ms]
        assert len(told) >= 2
        assert set(told) == {before}


@pytest.mark.spec("EX-42")
@pytest.mark.parametrize("at", range(5))
async def test_an_answer_goes_on_at_the_exact_token(at: int) -> None:
    async with nodes(ada=Play(die_at=at), bob=Play(die_at=at)) as (entry, providers):
        engines = [node.engines[0] for node in providers.values()]

        async def spare_the_other() -> None:
            n_died = 0
            while not n_died:
                n_died = sum(node.provider.served.outcomes["engine"] for node in providers.values())
                await trio.sleep(0.001)
            for engine in engines:
                engine.play.die_at = None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spare_the_other)
            events = await entry.ask()
        assert sorted(engine.n_tokens_made for engine in engines) == sorted([at, 5 - at])
        assert text(events) == words(5)
        final = events[-1]
        assert isinstance(final, Final)
        assert final.usage.n_output_tokens == 5


async def test_a_single_provider_that_stumbled_gets_a_second_chance() -> None:
    async with nodes(ada=Play(key_is_unknown_once=True)) as (entry, _):
        assert text(await entry.ask()) == words(5)


async def test_who_leaves_stops_the_engine_within_a_token() -> None:
    async with nodes(ada=Play(n_tokens=1000)) as (entry, providers):
        engine = providers["ada"].engines[0]
        with trio.move_on_after(1.0):
            await entry.ask()
        n_made = engine.n_tokens_made
        await trio.sleep(0.1)
        assert engine.n_running == 0
        assert engine.n_tokens_made <= n_made + 2
        assert providers["ada"].provider.served.outcomes["cancelled"] == 1


@pytest.mark.spec("EX-12", "EX-27", "ENV-38")
async def test_what_a_leaving_user_got_is_accounted_for_behind_his_back() -> None:
    async with nodes(ada=Play(n_tokens=1000)) as (entry, providers):
        ada, answered = providers["ada"], entry.failover.answered
        left_at = trio.current_time() + 1.0
        with trio.move_on_at(left_at):
            await entry.ask()
        assert trio.current_time() == left_at
        assert answered.n_cancelled == 0
        await trio.sleep(0.1)
        assert answered.n_cancelled == 1
        assert answered.n_output_tokens == ada.engines[0].n_tokens_made == ada.provider.served.n_output_tokens > 30
        assert answered.n_prompt_tokens == 7
        assert ada.provider.served.outcomes == {"cancelled": 1}
        assert entry.session.n_seen_off == 0


@pytest.mark.spec("ENV-38")
async def test_a_prompt_without_any_answer_is_not_owed() -> None:
    async with nodes(ada=Play(token_s=3.0)) as (entry, _):
        with trio.move_on_after(1.0):
            await entry.ask()
        await trio.sleep(0.1)
        answered = entry.failover.answered
        assert (answered.n_cancelled, answered.n_prompt_tokens, answered.n_output_tokens) == (1, 0, 0)


@pytest.mark.spec("ENV-38")
@pytest.mark.parametrize(("token_s", "cheat", "counted"), [(0.1, "", True), (3.0, "", True), (3.0, "prompt", False)])
async def test_the_vectors_that_came_are_owed_and_no_others(token_s: float, cheat: str, counted: bool) -> None:
    got: list[AnswerEvent] = []

    async def put(events: Sequence[AnswerEvent]) -> None:
        got.extend(events)

    async with nodes(ada=Play(cheat=cheat, token_s=token_s)) as (entry, _):
        with trio.move_on_after(1.0):
            await entry.entry.answer(EmbeddingsRequest(model=ALIAS, inputs=("a",) * 100), put)
        await trio.sleep(0.1)
        n_vectors = sum(len(event.vectors) for event in got if isinstance(event, Vectors))
        assert (n_vectors > 5) == (token_s < 1)
        answered = entry.failover.answered
        assert (answered.n_cancelled, answered.n_prompt_tokens) == (int(counted), n_vectors)


@pytest.mark.spec("ENV-32")
@pytest.mark.parametrize("cheat", OVERCHARGES)
async def test_an_end_that_counts_more_than_came_is_not_accounted_for(cheat: str) -> None:
    async with nodes(ada=Play(n_tokens=1000, cheat=cheat)) as (entry, _):
        with trio.move_on_after(1.0):
            await entry.ask()
        await trio.sleep(0.1)
        assert entry.failover.answered.n_output_tokens == 0
        assert entry.session.n_seen_off == 0


@pytest.mark.spec("EX-12", "EX-27")
async def test_neither_side_waits_longer_than_five_seconds_for_a_cancelled_end() -> None:
    async with nodes(ada=Play(n_tokens=1000, cancel_s=60.0)) as (entry, providers):
        with trio.move_on_after(1.0):
            await entry.ask()
        await trio.sleep(CANCEL_TIMEOUT_S - 0.5)
        assert entry.session.n_seen_off == 1
        await trio.sleep(1.0)
        assert entry.session.n_seen_off == 0
        assert entry.failover.answered.n_cancelled == 0
        assert providers["ada"].engines[0].n_running == 0


@pytest.mark.spec("EX-12")
async def test_only_so_many_ends_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcd.entry.session.MAX_SEEN_OFF", 2)
    async with nodes(ada=Play(n_tokens=1000, n_slots=8)) as (entry, providers):
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(entry.ask)
        await trio.sleep(0.1)
        assert entry.failover.answered.n_cancelled == 2
        assert providers["ada"].engines[0].n_running == 0


@pytest.mark.spec("EX-16")
async def test_a_provider_does_not_cancel_for_us() -> None:
    async with nodes(bad=Play(cheat="cancelled", n_tokens=3), good=Play()) as (entry, _):
        for _ in range(4):
            assert text(await entry.ask()) == words(5)


@pytest.mark.spec("ENV-32")
@pytest.mark.parametrize("cheat", OVERCHARGES)
async def test_a_receipt_for_more_than_came_is_refused(cheat: str) -> None:
    async with nodes(ada=Play(cheat=cheat)) as (entry, _):
        with pytest.raises(PeerError):
            await entry.ask()


TOO_LONG = Failure("context_length_exceeded", "too long", "messages")


@pytest.mark.spec("EX-43")
@pytest.mark.parametrize(("names", "n_asked"), [("a", 1), ("ab", 2), ("abcd", 2)])
async def test_a_fault_of_the_request_is_told_once_two_say_so(names: str, n_asked: int) -> None:
    async with nodes(**{name: Play(failure=TOO_LONG) for name in names}) as (entry, providers):
        with pytest.raises(ContextLengthError) as caught:
            await entry.ask()
        assert (caught.value.param, caught.value.message) == ("messages", "too long")
        await trio.sleep(1)
        assert sum(node.provider.served.outcomes.total() for node in providers.values()) == n_asked
        assert all(card.ok_fraction is None for card in entry.entry.peers()), "nobody is blamed"


@pytest.mark.spec("EX-43", "EX-44")
async def test_a_liar_cannot_end_a_request_that_another_serves() -> None:
    async with nodes(liar=Play(failure=TOO_LONG), honest=Play()) as (entry, providers):
        for _ in range(20):
            assert text(await entry.ask()) == words(5)
        n_lies = providers["liar"].provider.served.outcomes["finished"]
        assert 1 <= n_lies < 5, "asked less and less"
        cards = {card.name: card.ok_fraction for card in entry.entry.peers()}
        assert cards == {"liar": 0.0, "honest": 1.0}


@pytest.mark.spec("EX-45")
@pytest.mark.parametrize("n_ctx", [1024, 4096])
async def test_who_refuses_as_too_large_what_fits_by_its_own_record_has_failed(n_ctx: int) -> None:
    """It lost no standing where its record said that it holds less than another, and cost a round trip every time."""
    liar = Play(refuse=RefuseReason.TOO_LARGE, n_ctx=n_ctx)
    async with nodes(liar=liar, honest=Play()) as (entry, providers):
        for _ in range(20):
            assert text(await entry.ask()) == words(5)
        assert 1 <= providers["liar"].provider.served.outcomes["refused_too_large"] < 5, "asked less and less"
        assert {card.name: card.ok_fraction for card in entry.entry.peers()} == {"liar": 0.0, "honest": 1.0}
    async with nodes(liar=liar) as (entry, _):
        with pytest.raises(RemoteProtocolError, match="own record"):
            await entry.ask()


@pytest.mark.spec("EX-44")
async def test_who_said_that_it_holds_less_is_not_blamed() -> None:
    async with nodes(small=Play(failure=TOO_LONG, n_ctx=2048), large=Play()) as (entry, providers):
        for _ in range(10):
            assert text(await entry.ask()) == words(5)
        assert providers["small"].provider.served.outcomes["finished"] >= 1
        assert {card.name: card.ok_fraction for card in entry.entry.peers()} == {"small": None, "large": 1.0}


@pytest.mark.spec("EX-43")
async def test_a_fault_is_believed_where_the_others_only_refuse() -> None:
    async with nodes(ada=Play(failure=TOO_LONG), bob=Play(refuse=RefuseReason.BUSY)) as (entry, _):
        for _ in range(4):
            with pytest.raises((ContextLengthError, RefusedError)):
                await entry.ask()
        with pytest.raises(ContextLengthError):
            await entry.ask()


@pytest.mark.spec("EX-43")
async def test_no_fault_is_found_in_the_middle_of_an_answer() -> None:
    late = Play(n_tokens=3, cheat="fault")
    async with nodes(ada=late, bob=late, cid=Play()) as (entry, _):
        for _ in range(4):
            assert text(await entry.ask()) == words(5)


@pytest.mark.spec("EX-43")
@pytest.mark.parametrize("names", [("dies", "liar", "good"), ("dies", "liar")])
async def test_a_fault_found_while_continuing_is_the_providers(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    plays = {"dies": Play(die_at=2), "liar": Play(failure=TOO_LONG), "good": Play()}
    async with nodes(**{name: plays[name] for name in names}) as (entry, providers):
        order = [providers[name].peer_id for name in names]

        def in_order(want: Want) -> Candidate:
            snapshot = entry.directory.snapshot(VirtualClock().unix_ms())
            found = candidates(snapshot, want, entry.router.known(), trio.current_time())
            if not found:
                raise NoProviderError("nobody is left")
            return min(found, key=lambda candidate: order.index(candidate.peer_id))

        monkeypatch.setattr(entry.router, "next", in_order)
        if "good" in names:
            assert text(await entry.ask()) == words(5)
        else:
            with pytest.raises(PeerError):  # not the user's fault
                await entry.ask()
        assert providers["liar"].provider.served.outcomes["finished"]


@pytest.mark.spec("EX-41")
async def test_an_answer_goes_on_with_the_same_file_only() -> None:
    other = ModelDigest(b"o" * 32)
    async with nodes(ada=Play(die_at=2), bob=Play(die_at=2, digest=other)) as (entry, providers):
        with pytest.raises(PeerError):
            await entry.ask()
        assert [] in [node.engines[0].asked_ms for node in providers.values()], "one was never asked"


@pytest.mark.spec("EX-43")
async def test_our_own_engine_is_believed_at_once() -> None:
    async with open_net() as net, trio.open_nursery() as nursery:
        node, other = Node(net, "both", [Play(failure=TOO_LONG)]), Node(net, "other", [Play()])
        for each in (node, other):
            nursery.start_soon(each.run)
        await trio.sleep(2)
        n_told = 0
        for _ in range(12):
            try:
                await node.ask()
            except ContextLengthError:
                n_told += 1
        assert n_told
        await trio.sleep(1)
        assert other.provider.served.outcomes.total() == 12 - n_told
        nursery.cancel_scope.cancel()


async def test_unknown_model_and_nobody_free() -> None:
    async with nodes(ada=Play(refuse=RefuseReason.BUSY)) as (entry, _):
        with pytest.raises(ModelNotFoundError):
            await entry.ask(model="other")
        with pytest.raises((RefusedError, NoProviderError)) as caught:
            await entry.ask()
        assert caught.value.http_status == 503


@pytest.mark.spec("GW-42")
async def test_a_model_is_found_by_every_name_that_a_request_may_give_it() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        digest = providers["ada"].engines[0].status().digest.hex()
        for name in (ALIAS, f"{ALIAS}@sha256:{digest}", f"{ALIAS}@sha256:{digest[:8]}"):
            assert entry.entry.model(name) == entry.entry.models()[0]
            assert text(await entry.ask(name)) == words(5)
        for name in (f"{ALIAS}@sha256:{digest[:7]}", f"{ALIAS}@sha256:{'0' * 64}", "other"):
            with pytest.raises(ModelNotFoundError):
                entry.entry.model(name)
            with pytest.raises(ModelNotFoundError):
                await entry.ask(name)


@pytest.mark.spec("DISC-56")
async def test_a_provider_whose_record_never_came_is_found_through_the_dht() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        await entry.mesh.connect(providers["ada"].peer_id, ())
        entry.directory.mark_dead(providers["ada"].peer_id)  # as if no record of it had come
        assert entry.entry.models() == []
        began = trio.current_time()
        assert text(await entry.ask()) == words(5)
        assert trio.current_time() - began < 3
        with pytest.raises(ModelNotFoundError):
            await entry.ask(model="other")
        began = trio.current_time()
        with pytest.raises(ModelNotFoundError):
            await entry.ask(model="other")
        assert trio.current_time() == began, "a name just searched for in vain is not searched for again"


async def test_cards_say_who_has_a_model_loaded_and_when_it_will_be() -> None:
    async with nodes(slow=Play(load_s=30.0), quick=Play(load_s=12.0)) as (entry, providers):
        (card,) = entry.entry.models()
        assert (card.n_providers, card.n_loaded, card.load_s) == (2, 0, 12.0)
        providers["slow"].engines[0].state = "ready"
        await trio.sleep(5)
        (card,) = entry.entry.models()
        assert (card.n_providers, card.n_loaded, card.load_s) == (2, 1, 0.0)


async def test_what_is_no_longer_served_is_withdrawn_from_the_dht() -> None:
    async with nodes(ada=Play()) as (entry, providers):
        ada = providers["ada"]
        assert await entry.mesh.find_providers(DIGEST) == [ada.peer_id]
        ada.engines[0].state = "failed"
        await trio.sleep(2)
        assert await entry.mesh.find_providers(DIGEST) == []


async def test_several_choices_are_not_resumed() -> None:
    async with nodes(ada=Play(die_at=2), bob=Play(die_at=2)) as (entry, _):
        with pytest.raises(McdError):
            await entry.ask(n=2)
        assert entry.failover.answered.n_failed == 1


async def test_a_peer_that_dies_or_says_goodbye_is_not_asked() -> None:
    async with nodes(ada=Play(), bob=Play()) as (entry, providers):
        await entry.ask()
        assert {card.name for card in entry.entry.peers()} == {"ada", "bob"}
        await providers["ada"].announcer.withdraw()
        await trio.sleep(0.1)
        assert {card.name for card in entry.entry.peers()} == {"bob"}
        assert entry.entry.models()[0].n_providers == 1


@pytest.mark.spec("ID-35")
async def test_the_load_of_a_peer_is_what_it_said_a_short_while_ago() -> None:
    async with nodes(ada=Play(n_tokens=10_000, token_s=1.0)) as (entry, providers):

        def shown() -> int | None:
            return entry.entry.peers()[0].n_running

        await entry.mesh.connect(providers["ada"].peer_id, ())
        await trio.sleep(1)
        assert shown() == 0
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(entry.ask)
            await trio.sleep(LOAD_INTERVAL_S + LOAD_PAUSE_S + 1)
            assert shown() == 3
            providers["ada"].mesh.serve(INFO_PROTOCOL, silent)
            await trio.sleep(LOAD_LIFETIME_S - LOAD_INTERVAL_S)
            assert shown() == 3
            await trio.sleep(LOAD_INTERVAL_S + LOAD_PAUSE_S + 1)
            assert shown() is None
            nursery.cancel_scope.cancel()


async def silent(stream: Stream) -> None:
    await trio.sleep_forever()


async def test_route_explains_every_part_of_the_prediction() -> None:
    async with nodes(ada=Play(), bob=Play()) as (entry, _):
        terms = entry.entry.route(ALIAS, 100, 50)
        assert [term.rank for term in terms] == [1, 2]
        for term in terms:
            parts = term.rtt_s + term.queue_s + term.load_s + term.prefill_s + term.decode_s + term.penalty_s
            assert term.total_s == pytest.approx(parts)
            assert term.decode_s == pytest.approx(1.0, rel=0.5)


@pytest.mark.spec("EX-15")
async def test_a_warm_provider_is_preferred_and_the_plan_says_why() -> None:
    async with nodes(cold=Play(load_s=30.0), warm=Play()) as (entry, providers):
        first, second = entry.entry.route(ALIAS, 100, 50)
        assert (first.name, second.name) == ("warm", "cold")
        assert (first.load_s, second.load_s) == (0.0, 30.0)
        assert "cold model" in second.why
        assert second.total_s > first.total_s + 29
        for _ in range(5):
            assert text(await entry.ask()) == words(5)
        assert providers["cold"].engines[0].n_woken == 0


@pytest.mark.spec("EX-32")
async def test_a_cold_model_is_waited_for_and_then_warm() -> None:
    async with nodes(cold=Play(load_s=30.0)) as (entry, providers):
        began = trio.current_time()
        events = await entry.ask()
        assert text(events) == words(5)
        assert 30 <= trio.current_time() - began < 32
        waits = [event.queue_s for event in events if isinstance(event, Waiting)]
        assert max(waits) == pytest.approx(30.0, abs=0.1)
        assert providers["cold"].engines[0].n_woken == 1
        await trio.sleep(2)
        (term,) = entry.entry.route(ALIAS, 100, 50)
        assert term.load_s == 0.0
        assert term.prefill_s < 3.0  # the loading was not taken for a slow prefill


@pytest.mark.spec("EX-54")
async def test_a_queue_that_was_announced_and_not_met_makes_nobody_faster() -> None:
    """It was taken from the time to the first token, which left a prefill of no time at all."""
    async with nodes(ada=Play(n_tokens=2, token_s=0.5, n_slots=1)) as (entry, providers):
        await entry.ask()
        expected_s = entry.entry.route(ALIAS, 1, 1)[0].prefill_s
        for _ in range(4):
            await trio.sleep(1)
            providers["ada"].provider._desks[0].admission.observe(20.0)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(entry.ask)
        assert entry.entry.route(ALIAS, 1, 1)[0].prefill_s > expected_s / 2


@pytest.mark.spec("EX-32")
async def test_a_model_that_loads_too_slowly_is_refused_with_the_time_and_woken() -> None:
    async with nodes(cold=Play(load_s=200.0)) as (entry, providers):
        with pytest.raises(RefusedError) as refused:
            await entry.ask()
        assert refused.value.reason == RefuseReason.LOADING
        assert refused.value.retry_after_s == pytest.approx(200.0, abs=1)
        assert providers["cold"].engines[0].n_woken >= 1


async def test_our_own_engine_competes_like_any_other() -> None:
    async with open_net() as net, trio.open_nursery() as nursery:
        node = Node(net, "both", [Play()])
        nursery.start_soon(node.run)
        await trio.sleep(1)
        assert node.entry.models()[0].is_local
        assert node.entry.route(ALIAS, 1, 1)[0].peer_id == node.peer_id
        nursery.cancel_scope.cancel()


async def test_logs_hold_no_text() -> None:
    async with nodes(ada=Play(die_at=1), bob=Play()) as (entry, providers):
        await entry.ask()
        logs = entry.log.getvalue() + "".join(node.log.getvalue() for node in providers.values())
        assert "hi" not in [part for line in logs.splitlines() for part in line.split('"')]
        assert word(0).strip() not in logs


@pytest.mark.spec("GW-23")
async def test_a_model_that_this_peer_is_loading_is_not_yet_there_and_no_unknown_one() -> None:
    """Whoever asked a peer that had just been started got a 404, which clients do not repeat."""
    async with open_net() as net, trio.open_nursery() as nursery:
        ada = Node(net, "ada", [Play()])
        ada.engines[0].state = "restarting"  # as a model that was never loaded here: not announced
        nursery.start_soon(ada.run)
        await trio.sleep(2)
        with pytest.raises(NoProviderError, match=f"loading {ALIAS}") as caught:
            await ada.ask()
        assert caught.value.retry_after_s is not None
        with pytest.raises(NoProviderError, match=f"loading {ALIAS}"):
            ada.entry.model(ALIAS)
        with pytest.raises(ModelNotFoundError):
            await ada.ask("nobody")
        ada.engines[0].state = "failed"
        with pytest.raises(ModelNotFoundError):
            await ada.ask()
        nursery.cancel_scope.cancel()


@pytest.mark.spec("REC-07")
async def test_a_record_of_a_clock_that_was_ahead_is_replaced_once_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that booted an hour ahead stayed unknown for that hour after its clock was set."""
    async with nodes(ada=Play()) as (_, providers):
        announcer, right_ms = providers["ada"].announcer, VirtualClock().unix_ms()
        monkeypatch.setattr(VirtualClock, "unix_ms", lambda _: UnixMs(right_ms + 3_600_000))
        announcer._renew()
        monkeypatch.undo()
        assert open_record(announcer.signed_record(), now_ms=right_ms, network="test")
