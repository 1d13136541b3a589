"""Frames: any cut, any size, nothing reserved on a peer's word."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from mcd.errors import LimitError, LocalProtocolError, RemoteProtocolError
from mcd.wire.codec import encode_exchange, encode_info, encode_record
from mcd.wire.framing import FRAME_EMPTY, FRAME_TOO_LARGE, FrameReader, frame
from mcd.wire.info import MAX_INFO_FRAME_BYTES
from mcd.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_KEY_CONFIG_BYTES,
    MAX_KEY_CONFIGS,
    MAX_MODELS,
    MAX_RECEIPT_BYTES,
    MAX_RECORD_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    MAX_SEALED_BYTES,
    MAX_SEALED_FRAME_BYTES,
    EngineKeys,
    EngineLoad,
    Finished,
    InfoReply,
    Record,
    Request,
)


@pytest.mark.spec("WIRE-01")
def test_frame_is_length_then_body() -> None:
    assert frame(b"\x91\x0a") == b"\0\0\0\x02\x91\x0a"


@pytest.mark.spec("WIRE-02")
def test_empty_and_oversized_frames_are_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        frame(b"")
    with pytest.raises(LimitError):
        frame(bytes(MAX_REQUEST_FRAME_BYTES + 1))
    assert len(frame(bytes(MAX_REQUEST_FRAME_BYTES))) == MAX_REQUEST_FRAME_BYTES + 4


@pytest.mark.spec("WIRE-02")
def test_the_largest_messages_fit_their_limits() -> None:
    request = Request(bytes(136), bytes(MAX_SEALED_BYTES), 0, 0, bytes(512), bytes(512))
    finished = Finished(bytes(MAX_SEALED_FRAME_BYTES), bytes(MAX_RECEIPT_BYTES))
    configs = (bytes(MAX_KEY_CONFIG_BYTES),) * MAX_KEY_CONFIGS
    reply = InfoReply(bytes(16), bytes(MAX_RECORD_BYTES), (EngineKeys(bytes(32), bytes(256), configs),) * MAX_MODELS)
    reply = msgspec.structs.replace(reply, loads=(EngineLoad(bytes(32), 65_535, 65_535),) * MAX_MODELS)
    assert len(encode_exchange(request)) <= MAX_REQUEST_FRAME_BYTES
    assert len(encode_exchange(finished)) <= MAX_FRAME_BYTES
    assert len(encode_info(reply)) <= MAX_INFO_FRAME_BYTES


@pytest.mark.spec("WIRE-03")
def test_a_length_of_zero_is_an_error() -> None:
    reader = FrameReader(10)
    reader.feed(b"\0\0\0\0\0\0\0\x01a")
    with pytest.raises(RemoteProtocolError, match=FRAME_EMPTY):
        reader.next_frame()


@pytest.mark.spec("WIRE-04")
def test_the_length_is_judged_before_its_body_comes() -> None:
    reader = FrameReader(10)
    reader.feed(b"\0\0\0")
    assert reader.next_frame() is None
    reader.feed(b"\x0b")
    with pytest.raises(RemoteProtocolError, match=FRAME_TOO_LARGE):
        reader.next_frame()


@pytest.mark.spec("WIRE-04")
def test_nothing_is_reserved_for_an_announced_body() -> None:
    reader = FrameReader(2**32)
    tracemalloc.start()
    reader.feed(b"\xff\xff\xff\xff")
    assert reader.next_frame() is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


@pytest.mark.spec("WIRE-06")
def test_nothing_is_read_after_an_error() -> None:
    reader = FrameReader(10)
    reader.feed(b"\0\0\0\x0b")
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()
    reader.max_bytes = 1000
    reader.feed(bytes(7) + frame(b"good"))
    with pytest.raises(RemoteProtocolError, match=FRAME_TOO_LARGE):
        reader.next_frame()
    assert reader.n_buffered == 0


def test_the_limit_may_change_between_frames() -> None:
    reader = FrameReader(5)
    reader.feed(frame(b"12345") + frame(b"1234567890"))
    assert reader.next_frame() == b"12345"
    assert reader.n_buffered == 14
    reader.max_bytes = 10
    assert reader.next_frame() == b"1234567890"
    assert reader.next_frame() is None
    assert reader.n_buffered == 0


def test_many_small_frames_in_one_piece_cost_linear_time() -> None:
    """1 MB of one-byte frames; with quadratic copying this would move 100 GB."""
    reader = FrameReader(10)
    reader.feed(frame(b"a") * 200_000)
    n_frames = 0
    while reader.next_frame() is not None:
        n_frames += 1
    assert n_frames == 200_000


def test_a_large_frame_in_small_pieces_costs_linear_time() -> None:
    reader = FrameReader(MAX_REQUEST_FRAME_BYTES)
    data = frame(bytes(4_000_000))
    found = None
    for at in range(0, len(data), 500):
        reader.feed(data[at : at + 500])
        found = reader.next_frame()
    assert found == bytes(4_000_000)


@pytest.mark.spec("WIRE-08")
def test_bounds_hold_for_what_we_send() -> None:
    for wrong in (Finished(b"", b""), Finished(bytes(MAX_SEALED_FRAME_BYTES + 1), b""), Finished("text", b"")):  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError):
            encode_exchange(wrong)
    with pytest.raises(LocalProtocolError):
        encode_info(InfoReply(bytes(15), b"", ()))
    record = Record(1, "main", 2**70, 1, 1, "", "", (), ())
    with pytest.raises(LocalProtocolError):
        encode_record(record)
    with pytest.raises(LocalProtocolError):
        encode_record(Record(1, "main", 1, 1, 1, "", "", (), (), coordinate=(float("nan"),)))
