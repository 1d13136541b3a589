"""Plans: who is asked first, who is not asked, and that nobody is asked for another model."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest

from mcd.errors import ModelNotFoundError, NoProviderError, UnsupportedError
from mcd.ids import ModelDigest, PeerId
from mcd.routing.estimate import Estimates
from mcd.routing.health import Health
from mcd.routing.plan import MAX_CANDIDATES, Candidate, Known, Want, candidates, plan, preferred_digests
from mcd.routing.snapshot import Offer, OfferIndex, Snapshot
from mcd.wire.messages import ModelOffer, Record

D1, D2 = ModelDigest(b"\x01" * 32), ModelDigest(b"\x02" * 32)


def offer(
    peer: str,
    digest: bytes = D1,
    *,
    alias: str = "llama",
    tokens_per_s: int = 50,
    capabilities: tuple[str, ...] = ("chat",),
    is_suspect: bool = False,
    is_own: bool = False,
    n_ctx: int = 4096,
) -> Offer:
    model = ModelOffer(alias, digest, n_ctx, 2, capabilities, 0, 0, 1000, tokens_per_s, b"k" * 32, b"i" * 8)
    record = Record(1, "main", 1, 0, 1, peer, "", (f"/ip4/192.0.2.1/tcp/1/p2p/{peer}",), (model,))
    return Offer(PeerId(peer), record, model, is_suspect, is_own)


def snapshot(*offers: Offer) -> Snapshot:
    index = OfferIndex()
    peers = dict.fromkeys(one.peer_id for one in offers)
    for peer_id in peers:
        index.show(peer_id, tuple(one for one in offers if one.peer_id == peer_id))
    return index.freeze()


def known(*linked: str, rtt_s: float = 0.05) -> Known:
    return Known(Estimates(), Health(), {PeerId(peer): rtt_s for peer in linked})


def ask(view: Snapshot, want: Want, facts: Known, *, now: float = 0.0, seed: int = 1) -> list[str]:
    return [candidate.peer_id for candidate in plan(view, want, facts, now, Random(seed))]


WANT = Want("llama", n_prompt_tokens=100, n_output_tokens=100)


def test_the_fastest_is_asked_first() -> None:
    view = snapshot(offer("slow", tokens_per_s=10), offer("fast", tokens_per_s=100), offer("mid"))
    assert ask(view, WANT, known("slow", "fast", "mid")) == ["fast", "mid", "slow"]


def test_measurements_beat_claims() -> None:
    facts = known("liar", "honest")
    facts.estimates.answer_ended(PeerId("liar"), D1, 101, 50.0)
    view = snapshot(offer("liar", tokens_per_s=1000), offer("honest", tokens_per_s=20))
    assert ask(view, WANT, facts) == ["honest", "liar"]


def test_a_suspect_comes_last_and_our_own_engine_has_no_network() -> None:
    view = snapshot(offer("own", is_own=True), offer("far"), offer("suspect", is_suspect=True))
    assert ask(view, WANT, known("far", "suspect", rtt_s=0.4)) == ["own", "far", "suspect"]


def test_a_context_that_seems_too_short_comes_last() -> None:
    view = snapshot(offer("short", tokens_per_s=1000), offer("long", n_ctx=32_768), offer("also short"))
    want = msgspec.structs.replace(WANT, n_ctx=5000)
    assert {ask(view, want, known("short", "long", "also short"), seed=seed)[0] for seed in range(20)} == {"long"}
    ranked = plan(view, want, known("short", "long", "also short"), 0.0, Random(1))
    assert [candidate.why.partition("context of ")[2] for candidate in ranked] == ["", "4096", "4096"]


def test_near_equals_are_shuffled_and_the_rest_is_not() -> None:
    view = snapshot(offer("a"), offer("b"), offer("c"), offer("slow", tokens_per_s=20))
    facts = known("a", "b", "c", "slow")
    firsts = Counter(ask(view, WANT, facts, seed=seed)[0] for seed in range(300))
    assert set(firsts) == {"a", "b", "c"}
    assert min(firsts.values()) > 60
    assert {ask(view, WANT, facts, seed=seed)[-1] for seed in range(20)} == {"slow"}
    assert ask(view, WANT, facts, seed=7) == ask(view, WANT, facts, seed=7)


def test_a_burst_spreads_over_equal_providers() -> None:
    facts = known("a", "b", "c", "d")
    view = snapshot(offer("a"), offer("b"), offer("c"), offer("d"))
    random, chosen = Random(3), Counter()
    for _ in range(12):
        first = plan(view, WANT, facts, 0.0, random)[0]
        facts.estimates.sent(first.peer_id, first.digest)
        chosen[first.peer_id] += 1
    assert set(chosen.values()) == {3}, "one's own requests in flight count"


def test_an_unknown_model_is_never_answered_by_another() -> None:
    for name in ("lama", "llama2", "", "llama@sha256:ffffffff", "llama@sha256:zz", "llama@", "@", "x" * 500):
        with pytest.raises(ModelNotFoundError, match="mcd models") as caught:
            ask(snapshot(offer("a")), Want(name), known("a"))
        assert caught.value.param == "model"


def test_an_alias_of_several_files_prefers_the_most_offered_then_the_lowest() -> None:
    first, second, third = offer("a", D2), offer("b", D2), offer("c", D1, tokens_per_s=900)
    assert preferred_digests((first, second, third)) == (D2, D1)
    assert preferred_digests((first, third)) == (D1, D2)
    view = snapshot(first, second, third)
    assert ask(view, WANT, known("a", "b", "c"))[-1] == "c", "a faster provider of another file is asked last"


def test_a_popular_name_taken_by_many_that_never_answer_is_given_back() -> None:
    facts, view = known(), snapshot(*(offer(f"squatter{n}", D1) for n in range(6)), offer("honest", D2))
    n_asked = 0
    while (first := ask(view, WANT, facts, now=n_asked * 100.0)[0]) != "honest":
        facts.health.failed(PeerId(first), n_asked * 100.0)
        n_asked += 1
    assert n_asked <= 6, "each is found out once"
    facts.health.failed(PeerId("honest"), n_asked * 100.0)
    assert ask(view, WANT, facts, now=n_asked * 100.0 + 1)[0].startswith("squatter"), "while its breaker is open"
    for n in range(6):
        facts.health.failed(PeerId(f"squatter{n}"), n_asked * 100.0)
    assert ask(view, WANT, facts, now=n_asked * 100.0 + 50)[0] == "honest"


def test_a_digest_prefix_chooses_the_file() -> None:
    view = snapshot(offer("a", D2), offer("b", D2), offer("c", D1))
    named = Want(f"llama@sha256:{D1.hex()[:8]}")
    assert ask(view, named, known("a", "b", "c")) == ["c"]
    assert ask(view, Want(f"llama@sha256:{D2.hex()}"), known("a", "b"), seed=2) in (["a", "b"], ["b", "a"])


@pytest.mark.spec("EX-41")
def test_a_continued_answer_asks_for_the_same_file_under_any_alias() -> None:
    view = snapshot(offer("a", D1), offer("b", D2), offer("c", D1, alias="other-name"))
    want = Want("llama", digest=D1, exclude=frozenset({PeerId("a")}))
    assert ask(view, want, known("a", "b", "c")) == ["c"]
    with pytest.raises(ModelNotFoundError):
        ask(view, Want("llama", digest=ModelDigest(b"\x03" * 32)), known())


def test_who_was_tried_is_not_asked_again() -> None:
    view = snapshot(offer("a"), offer("b"))
    want = Want("llama", exclude=frozenset({PeerId("a")}))
    assert ask(view, want, known("a", "b")) == ["b"]
    with pytest.raises(NoProviderError):
        ask(view, Want("llama", exclude=frozenset({PeerId("a"), PeerId("b")})), known("a", "b"))


def test_capabilities_are_required() -> None:
    view = snapshot(offer("a"), offer("b", capabilities=("chat", "tools")))
    assert ask(view, Want("llama", capabilities=frozenset({"tools"})), known("a", "b")) == ["b"]
    with pytest.raises(UnsupportedError, match="vision"):
        ask(view, Want("llama", capabilities=frozenset({"vision"})), known("a", "b"))


@pytest.mark.spec("GW-41")
def test_who_does_not_do_it_says_what_he_does_and_who_does() -> None:
    view = snapshot(
        offer("a", capabilities=("chat", "tools")),
        *(offer(f"e{n}", bytes([n]) * 32, alias=f"embed-{n}", capabilities=("embeddings",)) for n in range(3, 10)),
    )
    with pytest.raises(UnsupportedError) as caught:
        ask(view, Want("llama@sha256:01010101", capabilities=frozenset({"embeddings"})), known("a"))
    assert caught.value.message == (
        "model llama does chat, tools; use a model that does embeddings: "
        "embed-3, embed-4, embed-5, embed-6, embed-7, ..."
    )
    assert caught.value.param == "model"
    with pytest.raises(UnsupportedError, match=r"model embed-3 does embeddings; use a model that does chat: llama$"):
        ask(view, Want("embed-3", capabilities=frozenset({"chat"})), known("e3"))
    with pytest.raises(UnsupportedError, match="no peer serves a model that does rerank now"):
        ask(view, Want("llama", capabilities=frozenset({"rerank"})), known("a"))


def test_who_has_to_wait_is_not_asked_and_the_plan_says_when_to_retry() -> None:
    facts = known("a", "b")
    view = snapshot(offer("a", tokens_per_s=500), offer("b"))
    facts.health.refused(PeerId("a"), D1, 3.0, 0.0)
    assert ask(view, WANT, facts) == ["b"]
    facts.health.failed(PeerId("b"), 0.0)
    facts.health.failed(PeerId("b"), 0.0)
    facts.health.failed(PeerId("b"), 0.0)
    with pytest.raises(NoProviderError) as caught:
        ask(view, WANT, facts)
    assert caught.value.retry_after_s == pytest.approx(2.0)
    assert ask(view, WANT, facts, now=3.0)[0] == "a"


def test_the_explanation_shows_everyone_with_the_reason() -> None:
    facts = known("a")
    facts.health.refused(PeerId("a"), D1, 3.0, 0.0)
    shown = candidates(snapshot(offer("a"), offer("b", is_suspect=True)), WANT, facts, now=1.0)
    by_peer: dict[str, Candidate] = {one.peer_id: one for one in shown}
    assert [one.peer_id for one in shown] == ["b", "a"]
    assert by_peer["a"].why == "claimed, busy for 2.0 s"
    assert by_peer["b"].why == "claimed, unlinked, suspect"
    assert by_peer["b"].name == "b"
    assert by_peer["b"].addresses == ("/ip4/192.0.2.1/tcp/1/p2p/b",)
    parts = by_peer["b"].prediction
    assert parts.total_s == pytest.approx(
        parts.rtt_s + parts.queue_s + parts.prefill_s + parts.decode_s + parts.penalty_s
    )


def test_a_plan_has_a_bound() -> None:
    view = snapshot(*(offer(f"p{number}") for number in range(MAX_CANDIDATES + 20)))
    assert len(ask(view, WANT, known())) == MAX_CANDIDATES


class Watched(bytes):
    """A digest that counts how often it was compared."""

    n_compared = 0
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        Watched.n_compared += 1
        return bytes.__eq__(self, other)


def test_as_many_files_as_providers_do_not_cost_their_square() -> None:
    """Five thousand peer ids, each with its own file under a popular name, cost a second of the loop each request."""
    n = 300
    view = snapshot(*(offer(f"peer {i}", Watched(i.to_bytes(32, "big"))) for i in range(n)))
    Watched.n_compared = 0
    assert len(candidates(view, WANT, known(), 0.0)) == n
    assert Watched.n_compared < 20 * n


class Counting(Estimates):
    """Counts predictions."""

    n_predicted = 0

    def predict(self, *what: Any) -> Any:
        self.n_predicted += 1
        return super().predict(*what)


def test_no_more_files_are_judged_than_a_plan_has_room_for() -> None:
    view = snapshot(*(offer(f"peer {i}", i.to_bytes(32, "big")) for i in range(300)))
    facts = Known(Counting(), Health(), {})
    assert len(plan(view, WANT, facts, 0.0, Random(1))) == MAX_CANDIDATES
    assert facts.estimates.n_predicted == MAX_CANDIDATES  # type: ignore[attr-defined]  # ours


def test_a_plan_is_the_head_of_all_candidates_however_many_files_there_are() -> None:
    dice, facts = Random(3), known()
    offers = [
        offer(f"peer {i}", bytes([dice.randrange(60)]) * 32, n_ctx=dice.choice([64, 4096]), tokens_per_s=1 + i)
        for i in range(400)
    ]
    for one in offers[::3]:
        facts.health.failed(one.peer_id, 0.0)
    want = Want("llama", n_prompt_tokens=100, n_output_tokens=100, n_ctx=200)
    usable = [one.peer_id for one in candidates(snapshot(*offers), want, facts, 0.1) if one.not_before <= 0.1]
    assert len(usable) > 2 * MAX_CANDIDATES
    planned = ask(snapshot(*offers), want, facts, now=0.1)
    assert set(planned) == set(usable[:MAX_CANDIDATES])


def test_a_file_that_was_answered_with_goes_before_strangers_with_lower_digests() -> None:
    """A digest and an id cost nothing: ever new ones were asked first, four a request, and every request failed."""
    facts = known("honest")
    facts.health.succeeded(PeerId("honest"))
    strangers = [offer(f"stranger {i}", bytes([0, i]) * 16) for i in range(100)]
    crowd = [offer(f"crowd {i}", bytes(32)) for i in range(100)]
    assert ask(snapshot(offer("honest", D2), *strangers, *crowd), WANT, facts)[0] == "honest"
    for _ in range(3):
        facts.health.failed(PeerId("honest"), 0.0)
    assert ask(snapshot(offer("honest", D2), *crowd), WANT, facts, now=9.0)[0].startswith("crowd")
