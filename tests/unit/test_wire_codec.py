"""The codec against hostile bytes: one error, fixed words, little memory."""

from __future__ import annotations

import time
import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.wire import codec
from mcd.wire.messages import MAX_BODY_BYTES, MAX_REQUEST_FRAME_BYTES, Abort, Accepted, Cancel
from mcd.wire.payload import Body, Delta, Failure, Final, TokenLogprob, ToolCallDelta, TopLogprob, Usage

CANARY = "zebra-harbour-9931"
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "exchange": codec.decode_exchange,
    "info": codec.decode_info,
    "record": codec.decode_record,
    "delta": codec.decode_delta,
    "final": codec.decode_final,
    "failure": codec.decode_failure,
    "body": codec.decode_body,
}
BOMBS = {
    "nothing": b"",
    "nested arrays": b"\x91" * 1_000_000,
    "nested maps": b"\x81\xa1a" * 1_000_000,
    "4 G elements": b"\xdd\xff\xff\xff\xff",
    "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
    "4 G pairs": b"\xdf\xff\xff\xff\xff",
    "a million empty maps": b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
    "nested JSON": b"[" * 1_000_000,
    "nested JSON in the request": b'{"request":' + b"[" * 1_000_000,
    "a million digits": b'{"request":{},"resume":[' + b"9" * 1_000_000 + b"]}",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
    "lone surrogate": b'{"request":{},"kind":"\\ud800"}',
}


@pytest.mark.spec("WIRE-17")
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_bombs_cost_nothing(decoder: str, bomb: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        DECODERS[decoder](BOMBS[bomb])
    spent_s = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert spent_s < 2.0


@pytest.mark.spec("WIRE-17")
def test_ignored_elements_are_not_kept() -> None:
    data = b"\xdd\x00\x0f\x42\x43\x02\x01\x05" + b"\x80" * 1_000_000
    tracemalloc.start()
    assert codec.decode_exchange(data) == Accepted(1, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


@pytest.mark.spec("WIRE-18")
@pytest.mark.parametrize("decoder", DECODERS)
def test_errors_never_quote_the_peer(decoder: str) -> None:
    inputs = [
        msgspec.msgpack.encode([3, CANARY, 1]),
        msgspec.msgpack.encode([CANARY]),
        msgspec.msgpack.encode({CANARY: CANARY}),
        msgspec.msgpack.encode([1, CANARY, CANARY]),
        msgspec.json.encode({"kind": 1, CANARY: CANARY}),
        msgspec.json.encode({"request": {}, "resume": [CANARY]}),
        f'{{"request":"{CANARY}'.encode(),
    ]
    for data in inputs:
        with pytest.raises(RemoteProtocolError) as caught:
            DECODERS[decoder](data)
        error = caught.value
        told = "".join(traceback.format_exception(error, chain=True)) + repr(error) + error.message
        assert CANARY not in told.replace(repr(data), "")
        assert error.__context__ is None
        assert error.__cause__ is None


def test_encoding_errors_never_quote_us() -> None:
    for encode, message in (
        (codec.encode_failure, Failure(CANARY * 100, CANARY)),
        (codec.encode_delta, Delta(999, CANARY, ())),
        (codec.encode_body, Body(request=msgspec.Raw(b"{}"), cache_salt=CANARY * 10)),
        (codec.encode_delta, Delta(0, CANARY + "\ud800", ())),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            encode(message)  # type: ignore[operator]
        assert CANARY not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None


@pytest.mark.spec("WIRE-20", "WIRE-21")
def test_a_message_of_another_protocol_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_info(codec.encode_exchange(Cancel()))
    with pytest.raises(LocalProtocolError):
        codec.encode_info(Cancel())  # type: ignore[arg-type]


@pytest.mark.spec("WIRE-10")
@pytest.mark.parametrize("decoder", DECODERS)
def test_whatever_follows_the_message_is_refused(decoder: str) -> None:
    good: dict[str, bytes] = {
        "exchange": codec.encode_exchange(Abort(1)),
        "info": msgspec.msgpack.encode([32, 1, bytes(16)]),
        "record": msgspec.msgpack.encode([1, "main", 1, 1, 1, "", "", [], []]),
        "delta": codec.encode_delta(Delta(0, "", ())),
        "final": codec.encode_final(Final(("stop",), Usage(1, 1), bytes(32))),
        "failure": codec.encode_failure(Failure("code", "message")),
        "body": codec.encode_body(Body(request=msgspec.Raw(b"{}"))),
    }
    DECODERS[decoder](good[decoder])
    for tail in (b"\x00", b"\xc0", b"x", good[decoder]):
        with pytest.raises(RemoteProtocolError):
            DECODERS[decoder](good[decoder] + tail)


def test_memoryviews_are_read_like_bytes() -> None:
    data = memoryview(b"xx" + codec.encode_exchange(Accepted(3, 4)))[2:]
    assert codec.decode_exchange(data) == Accepted(3, 4)


def test_plaintext_survives_and_stays_out_of_reprs() -> None:
    call = ToolCallDelta(0, "id", "name", CANARY)
    logprob = TokenLogprob(b"\xff", -0.5, (TopLogprob(b"a", -1.0),))
    delta = Delta(0, CANARY + "\u00fc\U0001f980", (1, 2**32 - 1), CANARY, (call,), (logprob,))
    assert codec.decode_delta(codec.encode_delta(delta)) == delta
    failure = Failure("context_length_exceeded", CANARY)
    assert codec.decode_failure(codec.encode_failure(failure)) == failure
    assert CANARY not in repr(delta) + repr(call) + repr(failure) + str(delta)


def test_a_body_keeps_its_request_verbatim() -> None:
    request = b'{"model": "m",  "messages":[{"role":"user","content":"\xc3\xa9"}]}'
    body = codec.decode_body(codec.encode_body(Body(request=msgspec.Raw(request), resume=(1, 2), cache_salt="s")))
    assert bytes(body.request) == request
    assert (body.resume, body.cache_salt, body.kind, body.asked_ms) == ((1, 2), "s", "chat", 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"request":{"a":"\xff"}}',
        b'{"request":{},"resume":[-1]}',
        b'{"request":{},"resume":[1.5]}',
        b'{"request":{},"resume":[4294967296]}',
        b'{"request":{},"cache_salt":"' + b"a" * 65 + b'"}',
        b'{"request":nope}',
        b'\xef\xbb\xbf{"request":{}}',
        b'{"request":{},"asked_ms":253402300800000}',
        b'{"request":{},"asked_ms":-1}',
        b'{"request":{},"asked_ms":1.5}',
    ],
)
def test_bad_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=codec.BODY_INVALID):
        codec.decode_body(data)


def test_a_body_over_the_limit_is_refused_unread() -> None:
    data = b'{"request":{"a":"' + b"a" * MAX_BODY_BYTES + b'"}}'
    with pytest.raises(RemoteProtocolError):
        codec.decode_body(data)
    with pytest.raises(LocalProtocolError):
        codec.encode_body(Body(request=msgspec.Raw(data)))


@pytest.mark.spec("WIRE-17")
def test_the_largest_frame_of_nesting_is_refused_quickly() -> None:
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        codec.decode_exchange(b"\x93\x0b\x07" + b"\x91" * (MAX_REQUEST_FRAME_BYTES - 3))
    assert time.process_time() - began < 2.0
