"""An answer's pieces: cut so that frames hold them, joined so that nothing changes places."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine.answer import MAX_PIECE_CHARS, _join, _split
from mcd.engine.backend import Piece
from mcd.wire.codec import encode_delta
from mcd.wire.payload import Delta, ToolCallDelta

PIECES = st.builds(
    Piece,
    st.integers(0, 2),
    st.integers(0, 9) | st.none(),
    st.text("ab", max_size=3),
    st.text("r", max_size=1),
    st.lists(st.builds(ToolCallDelta, st.integers(0, 1), arguments=st.text("c", max_size=2)), max_size=1).map(tuple),
)


def story(deltas: list[Delta], choice: int) -> tuple[list[str], tuple[int, ...]]:
    """What a reader sees of one choice, in order, each character with its kind."""
    seen: list[str] = []
    for delta in deltas:
        if delta.choice == choice:
            seen += [f"r{c}" for c in delta.reasoning] + [f"t{c}" for c in delta.text]
            seen += [f"{call.index}{c}" for call in delta.tool_calls for c in call.arguments]
    return seen, tuple(token for delta in deltas if delta.choice == choice for token in delta.tokens)


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, min_size=1, max_size=12))
def test_joining_changes_nothing_a_reader_sees(pieces: list[Piece]) -> None:
    joined = _join(pieces)
    single = [delta for piece in pieces for delta in _join([piece])]
    for choice in range(3):
        assert story(joined, choice) == story(single, choice)


def test_huge_piece_is_cut_into_frames() -> None:
    call = ToolCallDelta(0, "id", "name", "€" * 50_000)
    piece = Piece(0, 7, "世" * 20_000, "é" * 9_000, (call,))
    parts = _split(piece)
    assert [part.token for part in parts] == [7] + [None] * (len(parts) - 1)
    assert "".join(part.text for part in parts) == piece.text
    assert "".join(part.reasoning for part in parts) == piece.reasoning
    calls = [one for part in parts for one in part.tool_calls]
    assert "".join(one.arguments for one in calls) == call.arguments
    assert [(one.id, one.name) for one in calls if one.id] == [("id", "name")]
    assert max(len(encode_delta(delta)) for part in parts for delta in _join([part])) < 8 * MAX_PIECE_CHARS
