"""A pattern's machine fits what Python's own expressions fit, and never has more states than we write down."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mcd.engine.gbnf.automaton import Machine, TooLargeError
from mcd.engine.gbnf.notation import JSON
from mcd.engine.gbnf.pattern import _Reader, compile_pattern
from mcd.engine.gbnf.rules import Rules
from mcd.errors import UnsupportedError

PIECES = ("a", "b", "[ab]", "[^a]", ".", r"\d", "(?:ab|a)", "(a|)", "(a*b?)")
REPEATS = ("", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "{0}")
TERMS = st.tuples(st.sampled_from(PIECES), st.sampled_from(REPEATS)).map("".join)
ROWS = st.lists(TERMS, max_size=4).map("".join)
GROUPS = st.tuples(ROWS, st.sampled_from(REPEATS)).map(lambda pair: f"({pair[0]}){pair[1]}")
PATTERNS = st.lists(ROWS | GROUPS, min_size=1, max_size=3).map("".join)


def fits(machine: Machine, text: str) -> bool:
    state = machine.states[0]
    for char in text:
        after = [
            number
            for number, classes in state.steps.items()
            if any(low <= ord(char) <= high for index in classes for low, high in machine.classes[index])
        ]
        if not after:
            return False
        assert len(after) == 1, "one state at a time"
        state = machine.states[after[0]]
    return state.may_end


@settings(deadline=None, max_examples=200)
@given(PATTERNS, st.booleans(), st.booleans(), st.lists(st.text("ab0", max_size=7), max_size=12))
def test_a_machine_fits_what_its_expression_fits(pattern: str, begins: bool, ends: bool, texts: list[str]) -> None:
    pattern = f"{'^' * begins}{pattern}{'$' * ends}"
    try:
        machine = Machine(_Reader(pattern, JSON).whole(), Rules("tools"))
    except TooLargeError:  # "(a[ab]{4}){1,3}" anywhere in a text has to remember where each of its beginnings is
        reject()
    for text in texts:
        assert fits(machine, text) == bool(re.search(pattern, text)), (pattern, text)


@pytest.mark.parametrize("pattern", [r"^(\w+\s?)+$", "^([a-z]+)+$", "^" + "[a-z]?" * 40 + "$", "(a|aa)+b"])
def test_a_pattern_that_can_be_read_in_many_ways_becomes_one_way(pattern: str) -> None:
    """llama.cpp's own reading of the third took longer than we waited, for one token."""
    rules = Rules("tools")
    compile_pattern(rules, pattern, JSON)
    assert rules.text("").count("\npattern") <= 42


@pytest.mark.parametrize("pattern", ["^[ab]*a[ab]{12}$", "^" + "a?" * 400 + "$", "^(((){999}){999}){999}$"])
def test_a_machine_too_large_is_the_requests_fault(pattern: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_pattern(Rules("tools"), pattern, JSON)
    assert caught.value.param == "tools"
