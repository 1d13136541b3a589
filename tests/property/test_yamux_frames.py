"""The frame parser: any split gives the same frames, no bytes give anything but frames or one error."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.errors import RemoteProtocolError
from mcd.mesh import yamux_frame as wire

flags = st.integers(0, 15)
ids = st.integers(0, 2**32 - 1)
data_frames = st.builds(
    lambda flag, stream_id, body: wire.Frame(wire.DATA, flag, stream_id, len(body), body),
    flags,
    ids,
    st.binary(max_size=300),
)
other_frames = st.builds(
    wire.Frame,
    st.sampled_from((wire.WINDOW, wire.PING, wire.GO_AWAY)),
    flags,
    ids,
    st.integers(0, 2**32 - 1),
    st.just(b""),
)
frames = st.lists(data_frames | other_frames, max_size=20)


def encoded(some: list[wire.Frame]) -> bytes:
    return b"".join(wire.encode(f.kind, f.flags, f.stream_id, f.value) + f.body for f in some)


@settings(deadline=None, max_examples=200)
@given(frames, st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_the_split_does_not_matter(sent: list[wire.Frame], sizes: list[int]) -> None:
    raw, parser, got = encoded(sent), wire.FrameParser(), []
    at = turn = 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        got += parser.feed(raw[at : at + size])
        at, turn = at + size, turn + 1
    bodies: dict[int, bytes] = {}
    for frame in got:
        bodies[frame.stream_id] = bodies.get(frame.stream_id, b"") + frame.body
    expected: dict[int, bytes] = {}
    for frame in sent:
        expected[frame.stream_id] = expected.get(frame.stream_id, b"") + frame.body
    assert bodies == expected
    assert [f for f in got if f.kind != wire.DATA] == [f for f in sent if f.kind != wire.DATA]
    assert _flags_per_stream(got) == _flags_per_stream(sent)


def _flags_per_stream(some: list[wire.Frame]) -> dict[int, tuple[int, int, int, int]]:
    """How often each flag was seen on each stream's data frames; a split may not lose or repeat one."""
    seen: dict[int, tuple[int, int, int, int]] = {}
    for frame in some:
        if frame.kind == wire.DATA:
            counts = seen.get(frame.stream_id, (0, 0, 0, 0))
            bits = (wire.SYN, wire.ACK, wire.FIN, wire.RST)
            seen[frame.stream_id] = tuple(n + bool(frame.flags & bit) for n, bit in zip(counts, bits, strict=True))  # type: ignore[assignment]
    return seen


@settings(deadline=None, max_examples=200)
@given(frames)
def test_fed_at_once_it_gives_back_exactly_what_was_encoded(sent: list[wire.Frame]) -> None:
    assert wire.FrameParser().feed(encoded(sent)) == sent


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_gives_frames_or_one_error_and_is_not_kept(pieces: list[bytes]) -> None:
    parser = wire.FrameParser()
    for piece in pieces:
        try:
            got = parser.feed(piece)
        except RemoteProtocolError:
            return
        assert len(parser._buffer) < wire.HEADER_BYTES, "at most a header waits for its rest"
        assert all(frame.kind <= wire.GO_AWAY for frame in got)
        assert sum(len(frame.body) for frame in got) <= len(piece)
