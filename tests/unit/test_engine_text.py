"""Token bytes to text: the same text however the bytes are cut, nothing of a stop string ever shown."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.text import TextStream


def play(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    stream = TextStream(stops)
    shown = ""
    for piece in pieces:
        shown += stream.feed(piece)
        if stream.is_stopped:
            break
    return shown + stream.finish(), stream.is_stopped


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_of_valid_text_gives_the_text(text: str, places: list[int]) -> None:
    assert play(cut(text.encode("utf-8", "ignore"), places))[0] == text.encode("utf-8", "ignore").decode()


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_of_any_bytes_gives_the_same(data: bytes, places: list[int]) -> None:
    assert play(cut(data, places))[0] == data.decode("utf-8", "replace")


@settings(deadline=None, max_examples=200)
@given(
    st.text("abé世", max_size=30), st.text("abé世", min_size=1, max_size=4), st.lists(st.integers(0, 200), max_size=9)
)
def test_stop_string_cuts_exactly_there(text: str, stop: str, places: list[int]) -> None:
    shown, stopped = play(cut(text.encode(), places), (stop,))
    assert stopped == (stop in text)
    assert shown == text.partition(stop)[0]


def test_earliest_of_several_stops_wins() -> None:
    assert play([b"one tw", b"o three"], ("three", "two")) == ("one ", True)


def test_possible_stop_is_held_back_and_released() -> None:
    stream = TextStream(("END",))
    assert stream.feed(b"xE") == "x"
    assert stream.feed(b"N") == ""
    assert stream.feed(b"o") == "ENo"


def test_known_text_of_a_piece_is_not_used_inside_a_character() -> None:
    stream = TextStream()
    first, rest = "é".encode()[:1], "é".encode()[1:]
    assert stream.feed(first) == ""
    assert stream.feed(rest + b"!") == "é!"
    assert stream.feed("?") == "?"


def test_a_broken_character_is_shown_before_the_known_text_that_follows_it() -> None:
    stream = TextStream()
    assert stream.feed(b"\xc3") == ""
    assert stream.feed("?") == "\ufffd?"
    assert stream.finish() == ""
