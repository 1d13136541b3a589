"""Turns: who gets a slot that comes free, whatever comes, goes and waits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcd.ids import PeerId
from mcd.mesh.limits import public_network_of
from mcd.provider.turns import MIN_SLOTS_TO_SPARE, Turn, Turns

OWN = PeerId("own")


class Line:
    """Turns of peers by name; ``"b@1.2.3.4"`` is peer b behind an address."""

    def __init__(self, n_slots: int) -> None:
        self.turns = Turns(OWN)
        self.turns.n_slots = n_slots
        self.called: list[str] = []
        self._held: dict[str, list[Turn]] = {}

    def come(self, *names: str) -> list[Turn]:
        return [self._come(name) for name in names]

    def _come(self, name: str) -> Turn:
        peer, _, address = name.partition("@")
        turn = Turn(PeerId(peer), address, 1000, lambda: self.called.append(name))
        self.turns.join(turn)
        self.turns.deal(0.0)
        self._held.setdefault(name, []).append(turn)
        return turn

    def end(self, name: str) -> str:
        """One running request of ``name`` ends; who gets the slot."""
        n_called = len(self.called)
        turn = next(turn for turn in self._held[name] if turn.has_slot)
        self._held[name].remove(turn)
        self.turns.leave(turn)
        self.turns.deal(0.0)
        return "".join(self.called[n_called:])


@pytest.mark.spec("EX-33")
def test_who_holds_fewest_slots_goes_first_then_who_came_first() -> None:
    line = Line(3)
    line.come("a", "a", "a", "a", "a", "c", "b")
    assert line.called == ["a", "a", "a"]
    assert [line.end("a"), line.end("a"), line.end("a")] == ["c", "b", "a"]
    assert line.end("c") == "a"


@pytest.mark.spec("EX-33")
def test_on_one_slot_everybody_has_a_turn_before_anybody_has_two() -> None:
    line = Line(1)
    line.come(*"aaabbc")
    assert [line.end(name) for name in "abcab"] == [*"bcaba"]


@pytest.mark.spec("EX-33")
def test_newcomers_do_not_go_before_who_has_been_served() -> None:
    line = Line(1)
    line.come(*"aba")
    assert line.end("a") == "b"
    line.come("c", "d")
    assert [line.end(name) for name in "bac"] == [*"acd"]


@pytest.mark.spec("EX-33")
def test_many_ids_behind_one_address_have_one_share() -> None:
    line = Line(3)
    line.come("s1@203.0.113.7", "s2@203.0.113.7", "s3@203.0.113.7", "s4@203.0.113.7", "b", "b")
    assert line.end("s1@203.0.113.7") == "b"
    line = Line(3)
    line.come("s1", "s2", "s3", "s4", "b", "b")
    assert line.end("s1") == "s4", "without an address each peer stands alone"


@pytest.mark.spec("EX-33")
def test_behind_one_address_turns_go_by_entry() -> None:
    line = Line(2)
    line.come("a@1.2.3.4", "a@1.2.3.4", "a@1.2.3.4", "b@1.2.3.4")
    assert line.end("a@1.2.3.4") == "b@1.2.3.4"


@pytest.mark.spec("EX-34")
def test_alone_an_entry_uses_all_it_may() -> None:
    line = Line(3)
    line.come(*"aaaaa")
    assert (line.turns.n_running, line.turns.n_waiting) == (3, 2)
    assert not line.turns.may_begin(line.turns.line()[0]), "who is told so would be told to begin now"
    assert line.end("a") == "a"


@pytest.mark.spec("EX-35")
@pytest.mark.parametrize(("n_slots", "n_most"), [(1, 1), (3, 3), (MIN_SLOTS_TO_SPARE, MIN_SLOTS_TO_SPARE - 1), (8, 7)])
def test_one_slot_is_spared_where_there_are_enough(n_slots: int, n_most: int) -> None:
    line = Line(n_slots)
    line.come(*"a" * 10)
    assert line.turns.n_running == n_most
    line.come("b")
    assert ("b" in line.called) == (n_most < n_slots)


@pytest.mark.spec("EX-35")
def test_the_operators_own_entry_is_spared_nothing() -> None:
    line = Line(4)
    line.come(*["own"] * 6)
    assert line.turns.n_running == 4
    line.come("b", "c")
    assert [line.end("own"), line.end("own"), line.end("own")] == ["b", "c", "own"]


def test_who_leaves_the_line_or_its_slot_is_gone() -> None:
    line = Line(1)
    running, waiting, last = line.come("a", "b", "c")
    line.turns.leave(waiting)
    line.turns.leave(waiting)
    assert (waiting in line.turns, last in line.turns) == (False, True)
    line.turns.leave(running)
    line.turns.deal(5.0)
    assert line.called == ["a", "c"]
    assert line.turns.held_s(7.0) == 2.0


def test_what_runs_while_a_model_loads_has_no_age() -> None:
    turns = Turns(OWN)
    turns.join(Turn(PeerId("a"), "", 0, lambda: None))
    turns.deal(None)
    assert turns.held_s(100.0) == 0.0


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("2a00:1450:4001:81b::200e", "2a00:1450:4001:81b::/64"),
        ("127.0.0.1", ""),
        ("192.168.1.7", ""),
        ("100.64.3.2", ""),
        ("fe80::1%eth0", ""),
        ("", ""),
        ("relay.example", ""),
    ],
)
def test_only_addresses_of_the_internet_count(ip: str, address: str) -> None:
    assert public_network_of(ip) == address


class Engine(RuleBasedStateMachine):
    """Requests of few entries behind fewer addresses come, end and give up, in any order, while slots come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(OWN)
        self.turns.n_slots = self.n_slots = 4
        self.running: list[Turn] = []
        self.waiting: list[Turn] = []
        self.due: dict[str, int] = {}
        """Of each address that waits and has no slot: how many may be given one before it."""

    def watch(self) -> None:
        held, here = {turn.address for turn in self.running}, {turn.address for turn in (*self.running, *self.waiting)}
        slotless = {turn.address for turn in self.waiting} - held
        self.due = {address: self.due.get(address, len(here) - 1) for address in slotless}

    @rule(peer=st.sampled_from(["own", "a", "b", "c", "d"]), address=st.sampled_from(["", "", "1.1.1.1", "2.2.2.2"]))
    def come(self, peer: str, address: str) -> None:
        turn = Turn(PeerId(peer), "" if peer == "own" else address, 1, lambda: self.begin(turn))
        self.waiting.append(turn)
        stood_at = self.turns.line(turn).index(turn)
        self.turns.join(turn)
        assert self.turns.line().index(turn) == stood_at, "as it was told"
        self.watch()
        self.turns.deal(0.0)
        self.watch()

    def begin(self, turn: Turn) -> None:
        self.waiting.remove(turn)
        self.running.append(turn)
        self.due.pop(turn.address, None)
        for address in self.due:
            self.due[address] -= 1
            assert self.due[address] >= 0, "nobody without a slot starves: it has one before anybody has two more"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.running))
        self.running.remove(turn)
        self.turns.leave(turn)
        self.watch()
        self.turns.deal(0.0)
        self.watch()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(turn)
        self.turns.leave(turn)
        self.watch()

    @rule(n_slots=st.integers(1, 6))
    def load_again(self, n_slots: int) -> None:
        self.turns.n_slots = self.n_slots = n_slots
        self.turns.deal(0.0)
        self.watch()

    @invariant()
    def never_too_many(self) -> None:
        assert self.turns.n_running == len(self.running)
        assert self.turns.n_waiting == len(self.waiting)

    @invariant()
    def nobody_waits_for_a_free_slot(self) -> None:
        if len(self.running) < self.n_slots:
            held = Counter(turn.address for turn in self.running)
            assert all(
                held[turn.address] >= self.n_slots - 1 and self.n_slots >= MIN_SLOTS_TO_SPARE for turn in self.waiting
            )


TestEngine = pytest.mark.spec("EX-33", "EX-34")(Engine.TestCase)
TestEngine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
