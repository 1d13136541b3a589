"""Whatever an attacker does with the frames, the entry gets a true prefix of the answer or one error, then nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcd.errors import EnvelopeError
from mcd.wire.envelope import open_request
from mcd.wire.frames import MAX_RESPONSE_BYTES, FinalFrame, Opener, Sealer
from mcd.wire.header import decode_header
from mcd.wire.keyconfig import parse_key_config, verify_certificate
from mcd.wire.padding import (
    FRAME_OVERHEAD_BYTES,
    MAX_FRAME_PLAIN_BYTES,
    MIN_RESPONSE_BYTES,
    bucket,
    last_frame,
    padme,
)
from tests.unit.envelope_kit import KEYS, PEER, find_key, pair, sealed

SETTINGS = settings(deadline=None, max_examples=60, stateful_step_count=25)


class Channel(RuleBasedStateMachine):
    """A sealer, an opener and an attacker who owns everything between."""

    sealer: Sealer
    opener: Opener

    @initialize(suite=st.sampled_from([1, 2]))
    def begin(self, suite: int) -> None:
        self.sealer, self.opener = pair(suite)
        self.foreign, _ = pair(suite)
        self.sent: list[bytes] = []
        self.plain: list[bytes] = []
        self.n_opened = 0
        self.is_dead = False
        self.is_sealed_up = False

    @precondition(lambda self: not self.is_sealed_up)
    @rule(data=st.binary(max_size=200), pad=st.sampled_from([1, 64, 256]))
    def seal(self, data: bytes, pad: int) -> None:
        self.sent.append(self.sealer.seal_data(data, pad))
        self.plain.append(data)

    @precondition(lambda self: not self.is_sealed_up)
    @rule(data=st.binary(max_size=200), is_error=st.booleans())
    def end(self, data: bytes, is_error: bool) -> None:
        seal = self.sealer.seal_error if is_error else self.sealer.seal_final
        self.sent.append(seal(data))
        self.plain.append(data)
        self.is_sealed_up = True

    def is_next(self, frame: bytes) -> bool:
        expected = self.n_opened < len(self.sent) and frame == self.sent[self.n_opened]
        return expected and not self.is_dead and not self.opener.is_finished

    def deliver(self, frame: bytes) -> None:
        should_open = self.is_next(frame)
        try:
            opened = self.opener.open_frame(frame)
        except EnvelopeError:
            assert not should_open
            self.is_dead = True
            return
        assert should_open
        assert opened.plaintext == self.plain[self.n_opened]
        self.n_opened += 1

    @precondition(lambda self: self.n_opened < len(self.sent))
    @rule()
    def pass_on(self) -> None:
        self.deliver(self.sent[self.n_opened])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def pass_on_any(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(self.sent)))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        frame = bytearray(data.draw(st.sampled_from(self.sent)))
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
        self.deliver(bytes(frame))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        frame = data.draw(st.sampled_from(self.sent))
        self.deliver(frame[: data.draw(st.integers(0, len(frame) - 1))])

    @rule(frame=st.binary(max_size=100))
    def invent(self, frame: bytes) -> None:
        self.deliver(frame)

    @rule(data=st.binary(max_size=60))
    def splice(self, data: bytes) -> None:
        self.deliver(self.foreign.seal_data(data))

    @rule()
    def close(self) -> None:
        if self.opener.is_finished:
            assert self.is_sealed_up
            assert self.n_opened == len(self.sent)

    @invariant()
    def finished_means_all(self) -> None:
        if self.opener.is_finished:
            assert self.n_opened == len(self.sent)
            assert not self.is_dead


TestChannel = Channel.TestCase
TestChannel.settings = SETTINGS


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400))
def test_no_bytes_make_a_parser_fail_otherwise(data: bytes) -> None:
    header, request, _ = sealed(suite=1)
    for parse in (
        decode_header,
        parse_key_config,
        lambda made: verify_certificate(made, PEER.public_key),
        lambda made: open_request(header, made, find_key),
        lambda made: open_request(made, request, lambda _: KEYS[1]),
        pair(1)[1].open_frame,
    ):
        try:
            parse(data)
        except EnvelopeError:
            continue
        assert parse is decode_header or parse is parse_key_config  # only these judge form alone


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=300), max_size=12), st.binary(max_size=100))
def test_any_answer_arrives_whole_and_padded(parts: list[bytes], final: bytes) -> None:
    sealer, opener = pair(1)
    frames = [sealer.seal_data(part) for part in parts]
    opened = [opener.open_frame(frame).plaintext for frame in frames]
    assert b"".join(opened) == b"".join(parts)
    end = sealer.seal_final(final)
    assert opener.open_frame(end) == FinalFrame(final)
    assert opener.output_digest() == sealer.output_digest()
    total = sum(len(frame) for frame in [*frames, end])
    assert total == bucket(total)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, MAX_RESPONSE_BYTES // 2), st.integers(0, MAX_FRAME_PLAIN_BYTES - 4))
def test_padding_only_grows_and_ends_in_a_bucket(sent_bytes: int, data_bytes: int) -> None:
    assert sent_bytes <= padme(sent_bytes) <= sent_bytes * 1.125 + 1
    last_bytes = last_frame(sent_bytes, data_bytes)
    assert 4 + data_bytes <= last_bytes <= MAX_FRAME_PLAIN_BYTES
    total = sent_bytes + last_bytes + FRAME_OVERHEAD_BYTES
    assert total == bucket(total) or last_bytes == MAX_FRAME_PLAIN_BYTES
    assert total <= max(MIN_RESPONSE_BYTES, 1.25 * (sent_bytes + data_bytes + 280))
