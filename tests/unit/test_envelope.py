"""MCS/1 between its two ends: what opens, what must not, and what sizes tell."""

from __future__ import annotations

import os
import random
import struct
from itertools import pairwise

import msgspec
import pyhpke
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mcd.errors import EnvelopeError, LimitError
from mcd.wire import envelope
from mcd.wire.envelope import REQUEST_LABEL, SealKey, Terms, open_request, seal_request
from mcd.wire.frames import (
    _END_RESERVE_BYTES,
    FRAME_DATA,
    FRAME_ERROR,
    FRAME_FINAL,
    MAX_FRAMES,
    MAX_RESPONSE_BYTES,
    DataFrame,
    FinalFrame,
    Opener,
)
from mcd.wire.header import Header, decode_header, encode_header
from mcd.wire.keyconfig import KeyConfig, choose_config, key_id, sign_key_config, verify_key_config
from mcd.wire.messages import MAX_BODY_BYTES, MAX_SEALED_FRAME_BYTES
from mcd.wire.padding import (
    FRAME_OVERHEAD_BYTES,
    MAX_FRAME_PLAIN_BYTES,
    MIN_RESPONSE_BYTES,
    bucket,
    last_frame,
    padme,
)
from mcd.wire.signing import SigningKey
from tests.unit.envelope_kit import CERTIFICATE, CONFIGS, ENGINE, KEYS, MODEL, NOW_MS, PEER, find_key, pair, sealed

SUITES = pytest.mark.parametrize("suite", [1, 2])


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


# --- the request ---


@SUITES
@pytest.mark.spec("ENV-12", "ENV-16")
@pytest.mark.parametrize("size", [2, 187, 188, 189, 5000, 300_000])
def test_request_round_trip(suite: int, size: int) -> None:
    body = random.randbytes(size)
    header, request, _ = sealed(body, suite)
    opened, _ = open_request(header, request, find_key)
    assert opened == body


@SUITES
@pytest.mark.spec("ENV-16", "ENV-02")
def test_every_header_byte_is_bound(suite: int) -> None:
    header, request, _ = sealed(suite=suite)
    for at in range(len(header)):
        with pytest.raises(EnvelopeError):
            open_request(flipped(header, at), request, lambda _: KEYS[suite])


@SUITES
@pytest.mark.spec("ENV-16")
def test_every_sealed_byte_is_bound(suite: int) -> None:
    header, request, _ = sealed(suite=suite)
    for at in range(len(request)):
        with pytest.raises(EnvelopeError):
            open_request(header, flipped(request, at, 0x80), find_key)


@pytest.mark.spec("ENV-16")
def test_another_key_does_not_open() -> None:
    header, request, _ = sealed(suite=2)
    with pytest.raises(EnvelopeError):
        open_request(header, request, lambda _: SealKey.generate(2))
    with pytest.raises(EnvelopeError):
        open_request(header, request, lambda _: None)
    with pytest.raises(EnvelopeError):
        open_request(header, request, lambda _: KEYS[1])


@pytest.mark.spec("ENV-16")
def test_low_order_encapsulation_is_refused() -> None:
    header, request, _ = sealed(suite=1)
    with pytest.raises(EnvelopeError):
        open_request(header, bytes(32) + request[32:], find_key)


@pytest.mark.spec("ENV-12")
def test_unusable_seal_key_is_refused_before_anything_is_sealed() -> None:
    terms = Terms(bytes(16), MODEL, NOW_MS, 1000)
    for suite, public in ((1, bytes(32)), (2, b"\xff" * 1216), (2, CONFIGS[2].public_key[:1184] + bytes(32))):
        forged = type(CONFIGS[suite])(suite, PEER.public_key, PEER.public_key, 0, 1, 1, public)
        with pytest.raises(EnvelopeError):
            seal_request(b"{}", forged, terms)


@pytest.mark.spec("ENV-13")
def test_body_over_the_limit_is_not_sealed() -> None:
    with pytest.raises(LimitError):
        sealed(bytes(MAX_BODY_BYTES + 1))


@pytest.mark.spec("ENV-13")
def test_sealed_request_over_the_limit_is_not_opened() -> None:
    header, request, _ = sealed()
    with pytest.raises(EnvelopeError):
        open_request(header, request + bytes(MAX_BODY_BYTES + 1024 * 1024), find_key)


def by_hand(plain: bytes, suite: int, named: int) -> tuple[bytes, bytes]:
    """What a hostile entry may make: any plaintext, sealed to one suite's key under a header of another's."""
    header = encode_header(
        Header(named, bytes(16), PEER.public_key, CONFIGS[suite].key_id, MODEL, bytes(32), NOW_MS, 60_000)
    )
    hpke = envelope._HPKE[suite]
    return header, hpke.encrypt(plain, envelope._public_key(CONFIGS[suite]), info=REQUEST_LABEL + header)


def request_plain(n_body: int, body: bytes) -> bytes:
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return struct.pack(">32s32sI", bytes(32), key, n_body) + body


@pytest.mark.spec("ENV-16")
def test_what_is_inside_a_valid_seal_is_judged_too() -> None:
    assert open_request(*by_hand(request_plain(2, b"{}\0\0"), 2, 2), find_key)[0] == b"{}"
    for plain in (
        request_plain(2, b"{}\0\1"),  # padding that says something
        request_plain(5, b"{}"),  # shorter than it claims
        request_plain(MAX_BODY_BYTES + 1, bytes(MAX_BODY_BYTES + 1)),
    ):
        with pytest.raises(EnvelopeError):
            open_request(*by_hand(plain, 2, 2), find_key)
    for suite in (1, 2):
        with pytest.raises(EnvelopeError):
            open_request(*by_hand(request_plain(2, b"{}"), suite, 3 - suite), find_key)


@pytest.mark.spec("ENV-12")
def test_two_sealings_of_one_body_share_nothing() -> None:
    _, first, one = sealed(suite=1)
    _, second, two = sealed(suite=1)
    assert first[:32] != second[:32]
    assert one.transcript_hash != two.transcript_hash


def test_pyhpke_opens_what_we_seal() -> None:
    header, request, _ = sealed(b'{"hello":"world"}', suite=1)
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.CHACHA20_POLY1305
    )
    key = KEYS[1].key
    assert isinstance(key, X25519PrivateKey)
    private = suite.kem.deserialize_private_key(key.private_bytes_raw())
    plain = suite.create_recipient_context(request[:32], private, info=REQUEST_LABEL + header).open(request[32:])
    n_body = struct.unpack(">I", plain[64:68])[0]
    assert plain[68 : 68 + n_body] == b'{"hello":"world"}'


def test_we_open_what_pyhpke_seals() -> None:
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.CHACHA20_POLY1305
    )
    header, _, _ = sealed(suite=1)
    entry_key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    plain = (b"k" * 32 + entry_key + struct.pack(">I", 2) + b"{}").ljust(256, b"\0")
    public = suite.kem.deserialize_public_key(KEYS[1].public_key)
    enc, context = suite.create_sender_context(public, info=REQUEST_LABEL + header)
    body, _ = open_request(header, enc + context.seal(plain), find_key)
    assert body == b"{}"


# --- padding ---


@pytest.mark.spec("ENV-14")
@pytest.mark.parametrize(
    ("size", "padded"), [(256, 256), (257, 272), (272, 272), (273, 288), (1000, 1024), (1025, 1088), (100_000, 100_352)]
)
def test_padme(size: int, padded: int) -> None:
    assert padme(size) == padded


@pytest.mark.spec("ENV-14")
def test_padme_never_shrinks_and_costs_at_most_12_per_cent() -> None:
    for size in [*range(256, 5000), 10**6 + 1, MAX_BODY_BYTES + 68]:
        assert size <= padme(size) <= size * 1.12
        assert padme(padme(size)) == padme(size)


@SUITES
@pytest.mark.spec("ENV-14")
def test_short_questions_have_one_size(suite: int) -> None:
    assert len({len(sealed(b"q" * size, suite)[1]) for size in range(2, 189)}) == 1


@pytest.mark.spec("ENV-24")
def test_frames_of_near_lengths_have_one_size() -> None:
    sealer, _ = pair()
    assert {len(sealer.seal_data(b"t" * size)) for size in range(61)} == {85}
    assert {len(sealer.seal_data(b"t" * size)) for size in range(61, 125)} == {149}


@pytest.mark.spec("ENV-24", "ENV-26")
def test_answers_of_near_lengths_look_the_same() -> None:
    """Same number of flushes, lengths 7 % apart: every frame size and the total are equal."""

    def sizes(words: list[int], final: bytes) -> list[int]:
        sealer, _ = pair()
        frames = [sealer.seal_data(b"w" * n) for n in words]
        return [len(frame) for frame in [*frames, sealer.seal_final(final)]]

    assert sizes([5, 40, 44, 41, 38], b"stop, 40 tokens") == sizes([4, 47, 51, 39, 39], b"length, 1000000 tokens")


@pytest.mark.spec("ENV-26")
def test_buckets_grow_by_a_quarter_or_what_a_frame_fills() -> None:
    assert [bucket(n) for n in (0, 1024, 1025, 1281, 2001, 100_000)] == [1024, 1024, 1280, 1600, 2500, 110_965]
    for low, high in pairwise(sorted({bucket(n) for n in range(0, 1_000_000, 100)})):
        assert high - low == min(low // 4, 49_152)


@pytest.mark.spec("ENV-26")
@pytest.mark.parametrize(
    ("sent_bytes", "data_bytes", "last_bytes"),
    [
        (0, 80, 1003),
        (85, 80, 918),
        (747, 80, 256),
        (748, 80, 511),
        (85, 260, 918),
        (300_000, 80, 15_010),
    ],
)
def test_last_frame_examples(sent_bytes: int, data_bytes: int, last_bytes: int) -> None:
    assert last_frame(sent_bytes, data_bytes) == last_bytes


@pytest.mark.spec("ENV-26")
def test_totals_fall_into_few_buckets() -> None:
    """Overhead of the frames counted; else it would tell their number to who counts bytes."""
    totals = set()
    for n_frames in range(1, 120):
        for n_units in range(n_frames, 4 * n_frames):
            sent_bytes = n_frames * FRAME_OVERHEAD_BYTES + 64 * n_units
            totals.add(sent_bytes + last_frame(sent_bytes, 80) + FRAME_OVERHEAD_BYTES)
    assert totals <= {bucket(n) for n in totals}
    assert len(totals) == 17  # of 21,420 pairs


@pytest.mark.spec("ENV-26")
def test_an_error_looks_like_the_shortest_answer() -> None:
    assert len(pair()[0].seal_error(b"too long")) == MIN_RESPONSE_BYTES


# --- the response ---


@SUITES
@pytest.mark.spec("ENV-21", "ENV-25")
def test_response_round_trip(suite: int) -> None:
    sealer, opener = pair(suite)
    assert opener.open_frame(sealer.seal_data(b"one")) == DataFrame(b"one")
    assert opener.open_frame(sealer.seal_data(b"")) == DataFrame(b"")
    assert not opener.is_finished
    assert opener.open_frame(sealer.seal_final(b"end")) == FinalFrame(b"end")
    assert opener.is_finished
    assert opener.output_digest() == sealer.output_digest()


@pytest.mark.spec("ENV-31")
def test_output_digest_depends_on_this_exchange_alone() -> None:
    digests = set()
    for _ in range(3):
        sealer, _ = pair()
        sealer.seal_data(b"yes")
        digests.add(sealer.output_digest())
    assert len(digests) == 3  # salted: who sees receipts cannot confirm a guess


@SUITES
@pytest.mark.spec("ENV-22")
def test_every_byte_of_a_frame_is_bound(suite: int) -> None:
    terms = Terms(os.urandom(16), MODEL, NOW_MS, 60_000)
    header, request, opener = seal_request(b"{}", CONFIGS[suite], terms, lambda size: b"s" * size)
    _, sealer = open_request(header, request, find_key)
    for frame in (sealer.seal_data(b"text"), sealer.seal_final(b"end")):
        for at in range(len(frame)):
            for mask in (1, 0x80):
                fresh = Opener(opener.transcript_hash, b"s" * 32, X25519PrivateKey.from_private_bytes(b"s" * 32))
                fresh.start(sealer.response_key)
                with pytest.raises(EnvelopeError):
                    fresh.open_frame(flipped(frame, at, mask))


@pytest.mark.spec("ENV-22", "ENV-41")
def test_frames_shorter_than_their_head_are_refused_alike() -> None:
    for size in range(25):
        sealer, opener = pair()
        frame = sealer.seal_data(b"text")
        with pytest.raises(EnvelopeError) as caught:
            opener.open_frame(frame[:size])
        assert str(caught.value) == "the envelope did not open"
        with pytest.raises(EnvelopeError):
            opener.open_frame(frame)


@pytest.mark.spec("ENV-22")
def test_oversized_frame_is_refused() -> None:
    sealer, opener = pair()
    frame = sealer.seal_data(b"x" * (MAX_FRAME_PLAIN_BYTES - 4))
    assert len(frame) == MAX_SEALED_FRAME_BYTES
    assert len(opener.open_frame(frame).plaintext) == MAX_FRAME_PLAIN_BYTES - 4
    with pytest.raises(LimitError):
        sealer.seal_data(b"x" * (MAX_FRAME_PLAIN_BYTES - 3))
    with pytest.raises(EnvelopeError):
        opener.open_frame(frame + b"\0")


@pytest.mark.spec("ENV-22")
def test_nothing_may_follow_the_last_frame() -> None:
    for end in (FRAME_FINAL, FRAME_ERROR):
        sealer, opener = pair()
        opener.open_frame(sealer._seal(end, b"end", 64))
        sealer._is_finished = False
        more = sealer.seal_data(b"more")  # under the next number, as a faulty engine would
        assert opener.is_finished
        with pytest.raises(EnvelopeError):
            opener.open_frame(more)


@pytest.mark.spec("ENV-21", "ENV-22")
@pytest.mark.parametrize(
    ("claimed_bytes", "plain"),
    [
        (80, b"\0\0\0\1" + b"x" + b"\0" * 58 + b"!"),  # padding that says something
        (81, b"\0\0\0\1" + b"x" + b"\0" * 59),  # the length in the head is not the frame's
        (80, b"\0\0\0\x3d" + b"x" * 60),  # more data than there is
    ],
)
def test_a_frame_of_the_right_key_and_the_wrong_form_is_refused(claimed_bytes: int, plain: bytes) -> None:
    sealer, opener = pair()
    head = struct.pack(">BI", FRAME_DATA, claimed_bytes)
    frame = head + sealer._aead.encrypt(sealer._next_nonce(85), plain, head)
    assert len(frame) == 85
    with pytest.raises(EnvelopeError):
        opener.open_frame(frame)


@pytest.mark.spec("ENV-27")
def test_number_of_frames_is_limited_at_both_ends() -> None:
    sealer, opener = pair()
    sealer._n_frames = MAX_FRAMES - 1
    with pytest.raises(LimitError):
        sealer.seal_data(b"x")
    assert sealer.seal_final(b"the last place is the end's")
    sealer, opener = pair()
    for n_before, is_opened in ((MAX_FRAMES - 1, True), (MAX_FRAMES, False)):
        opener._frames._n_frames = sealer._n_frames = n_before
        head = struct.pack(">BI", FRAME_DATA, 80)
        frame = head + sealer._aead.encrypt(sealer._next_nonce(85), bytes(64), head)
        if is_opened:
            assert opener.open_frame(frame)
        else:
            with pytest.raises(EnvelopeError):
                opener.open_frame(frame)


@pytest.mark.spec("ENV-27")
def test_size_of_an_answer_is_limited_at_both_ends() -> None:
    sealer, opener = pair()
    sealer._n_bytes = MAX_RESPONSE_BYTES - _END_RESERVE_BYTES - 84
    with pytest.raises(LimitError):
        sealer.seal_data(b"x")
    final = sealer.seal_final(b"fits all the same")
    opener._frames._n_bytes = MAX_RESPONSE_BYTES - len(final) + 1
    with pytest.raises(EnvelopeError):
        opener.open_frame(final)


@pytest.mark.spec("ENV-21")
def test_nothing_is_sealed_after_the_end() -> None:
    for end in ("seal_final", "seal_error"):
        sealer, _ = pair()
        getattr(sealer, end)(b"end")
        for again in (sealer.seal_data, sealer.seal_final, sealer.seal_error):
            with pytest.raises(LimitError):
                again(b"more")


@pytest.mark.spec("ENV-41")
def test_opener_before_start_and_second_start() -> None:
    header, request, opener = sealed(suite=1)
    _, sealer = open_request(header, request, find_key)
    with pytest.raises(EnvelopeError):
        opener.output_digest()
    with pytest.raises(EnvelopeError):
        opener.open_frame(sealer.seal_data(b"x"))
    with pytest.raises(EnvelopeError):
        opener.start(sealer.response_key)
    _, opener = pair()
    with pytest.raises(EnvelopeError):
        opener.start(sealer.response_key)


@pytest.mark.spec("ENV-21")
def test_response_needs_both_secrets() -> None:
    """Forward secrecy: who opens the recorded request later (k and E) still lacks y or e."""
    header, request, opener = sealed(suite=1)
    _, sealer = open_request(header, request, find_key)
    frame = sealer.seal_data(b"the answer")
    _, thief = open_request(header, request, find_key)  # the stolen seal key, another y
    assert thief.response_key != sealer.response_key
    opener.start(thief.response_key)
    with pytest.raises(EnvelopeError):
        opener.open_frame(frame)


# --- choosing a key ---


@pytest.mark.spec("ENV-10")
def test_highest_suite_wins_and_classic_alone_is_refused() -> None:
    assert choose_config([CONFIGS[1], CONFIGS[2]]).suite == 2
    assert choose_config([CONFIGS[1]], min_suite=1).suite == 1
    newer = msgspec.structs.replace(CONFIGS[1], epoch=CONFIGS[2].epoch + 1)
    assert choose_config([newer, CONFIGS[2]], min_suite=1).suite == 2
    for stripped in ([CONFIGS[1]], []):
        with pytest.raises(EnvelopeError):
            choose_config(stripped)


@pytest.mark.spec("ENV-06")
def test_key_id_names_suite_and_key() -> None:
    assert key_id(1, b"x" * 32) != key_id(2, b"x" * 32)
    assert KEYS[2].key_id == CONFIGS[2].key_id == key_id(2, KEYS[2].public_key)


# --- nothing leaks ---


@pytest.mark.spec("ENV-40")
def test_reprs_show_nothing() -> None:
    header, request, opener = sealed(b"the canary text", suite=1)
    _, sealer = open_request(header, request, find_key)
    opener.start(sealer.response_key)
    frame = opener.open_frame(sealer.seal_data(b"the canary text"))
    for thing in (frame, opener, sealer, KEYS[1], KEYS[2], SigningKey(b"s" * 32)):
        assert "canary" not in repr(thing)
        assert "\\x" not in repr(thing)


def test_header_encodes_what_it_decodes() -> None:
    header = Header(2, bytes(16), PEER.public_key, b"k" * 8, MODEL, bytes(32), NOW_MS, 1000, 0)
    assert decode_header(encode_header(header)) == header


@pytest.mark.spec("ENV-09")
def test_a_config_that_names_another_engine_is_refused() -> None:
    for engine_key, opens in ((ENGINE.public_key, True), (SigningKey(b"o" * 32).public_key, False)):
        made = KeyConfig(2, PEER.public_key, engine_key, NOW_MS, NOW_MS + 1000, 1, CONFIGS[2].public_key)
        signed = sign_key_config(made, ENGINE)
        if opens:
            assert verify_key_config(signed, CERTIFICATE, PEER.public_key, NOW_MS)
        else:
            with pytest.raises(EnvelopeError):
                verify_key_config(signed, CERTIFICATE, PEER.public_key, NOW_MS)
