"""The engine's key holder: rotation, refusals, replays, and when frames leave."""

from __future__ import annotations

import os
from itertools import pairwise

import msgspec
import pytest

from mcd.engine.answer import Answer, Turn
from mcd.engine.backend import Piece
from mcd.engine.messages import Chunk, Failed, FailureCode, ToDaemon
from mcd.engine.seal import (
    CONFIG_LIFETIME_MS,
    DESTROY_AFTER_MS,
    MAX_AGE_MS,
    MAX_DELTA_BYTES,
    REPLAY_MEMORY_MS,
    ROTATION_MS,
    FlushPolicy,
    ReplayCache,
    SealKeys,
)
from mcd.errors import EnvelopeError, RefusedError
from mcd.wire.codec import encode_body, encode_delta
from mcd.wire.envelope import Terms, seal_request
from mcd.wire.frames import Opener
from mcd.wire.header import SUITE_X25519, SUITE_XWING
from mcd.wire.keyconfig import KeyConfig, certify, choose_config, verify_key_config
from mcd.wire.messages import MAX_CLOCK_SKEW_MS, MAX_TOKENS_PER_CHUNK, RefuseReason
from mcd.wire.padding import MAX_FRAME_PLAIN_BYTES
from mcd.wire.payload import Body, Delta, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from mcd.wire.signing import SigningKey, check_receipt
from tests.unit.envelope_kit import MODEL, NOW_MS, PEER

BODY = Body(request=msgspec.Raw(b'{"model":"modelcloud-nano"}'), resume=(1, 2), cache_salt="s")


def started(now_ms: int = NOW_MS) -> SealKeys:
    keys = SealKeys(PEER.public_key, MODEL)
    keys.install_certificate(certify(keys.engine_public_key, now_ms, PEER))
    keys.rotate(now_ms)
    return keys


def config_of(keys: SealKeys, now_ms: int = NOW_MS, suite: int = SUITE_XWING) -> KeyConfig:
    verified = [verify_key_config(c, keys.certificate, PEER.public_key, now_ms) for c in keys.configs()]
    return next(config for config in verified if config.suite == suite)


def request(
    config: KeyConfig, issued_ms: int = NOW_MS, ttl_ms: int = 60_000, model: bytes = MODEL, body: bytes | None = None
) -> tuple[bytes, bytes, Opener]:
    plain = encode_body(BODY) if body is None else body
    return seal_request(plain, config, Terms(os.urandom(16), model, issued_ms, ttl_ms))


def refusal(keys: SealKeys, header: bytes, sealed: bytes, now_ms: int) -> int:
    with pytest.raises(RefusedError) as caught:
        keys.open(header, sealed, now_ms)
    return caught.value.reason


# --- opening ---


@pytest.mark.spec("ENV-16", "ENV-20")
@pytest.mark.parametrize("suite", [SUITE_X25519, SUITE_XWING])
def test_open_gives_the_body(suite: int) -> None:
    keys = started()
    header, sealed, opener = request(config_of(keys, suite=suite))
    opened = keys.open(header, sealed, NOW_MS + 5)
    assert opened.body == BODY
    assert opened.header.model_digest == MODEL
    opener.start(opened.sealer.response_key)
    assert opener.open_frame(opened.sealer.seal_data(b"hi")).plaintext == b"hi"
    assert "nano" not in repr(opened)


@pytest.mark.spec("ENV-17")
def test_clock_window_and_time_to_live() -> None:
    keys = started()
    config = config_of(keys)
    for issued_ms, ttl_ms, now_ms in (
        (NOW_MS - MAX_AGE_MS, 600_000, NOW_MS),
        (NOW_MS + MAX_AGE_MS, 1, NOW_MS),
        (NOW_MS, 1000, NOW_MS + 999),
    ):
        header, sealed, _ = request(config, issued_ms, ttl_ms)
        assert keys.open(header, sealed, now_ms)
    for issued_ms, ttl_ms, now_ms in (
        (NOW_MS - MAX_AGE_MS - 1, 600_000, NOW_MS),
        (NOW_MS + MAX_AGE_MS + 1, 600_000, NOW_MS),
        (NOW_MS, 1000, NOW_MS + 1000),
    ):
        header, sealed, _ = request(config, issued_ms, ttl_ms)
        assert refusal(keys, header, sealed, now_ms) == RefuseReason.EXPIRED


@pytest.mark.spec("ENV-17")
def test_another_model_or_provider_is_refused() -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys), model=b"x" * 32)
    with pytest.raises(EnvelopeError):
        keys.open(header, sealed, NOW_MS)
    elsewhere = SealKeys(SigningKey(b"o" * 32).public_key, MODEL)
    header, sealed, _ = request(config_of(keys))
    with pytest.raises(EnvelopeError):
        elsewhere.open(header, sealed, NOW_MS)


@pytest.mark.spec("ENV-17")
def test_unknown_key_is_said_so_that_the_entry_fetches_again() -> None:
    header, sealed, _ = request(config_of(started()))
    assert refusal(started(), header, sealed, NOW_MS) == RefuseReason.KEY_UNKNOWN


@pytest.mark.spec("ENV-16", "ENV-20")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"not json",
        b'{"kind":"chat"}',
        b'{"request":{},"resume":[-1]}',
        b"\xff",
        b'{"request":{"model":"\xff"}}',
    ],
)
def test_a_body_that_is_not_one_is_an_envelope_that_did_not_open(body: bytes) -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys), body=body)
    with pytest.raises(EnvelopeError) as caught:
        keys.open(header, sealed, NOW_MS)
    assert caught.value.message == "the envelope did not open"


# --- replay ---


@pytest.mark.spec("ENV-18")
def test_a_request_opens_once() -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys))
    keys.open(header, sealed, NOW_MS)
    for later_ms in (0, 1, 59_999):
        assert refusal(keys, header, sealed, NOW_MS + later_ms) == RefuseReason.REPLAY


@pytest.mark.spec("ENV-18")
def test_replay_memory_outlasts_the_longest_acceptance() -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys), issued_ms=NOW_MS + MAX_AGE_MS, ttl_ms=600_000)
    keys.open(header, sealed, NOW_MS)
    last_ms = NOW_MS + 2 * MAX_AGE_MS
    assert refusal(keys, header, sealed, last_ms) == RefuseReason.REPLAY
    assert refusal(keys, header, sealed, last_ms + 1) == RefuseReason.EXPIRED


@pytest.mark.spec("ENV-18")
def test_the_last_acceptable_millisecond_is_still_remembered() -> None:
    cache = ReplayCache()
    cache.add(b"a", NOW_MS)
    with pytest.raises(RefusedError):
        cache.check(b"a", NOW_MS + REPLAY_MEMORY_MS)
    cache.check(b"a", NOW_MS + REPLAY_MEMORY_MS + 1)


@pytest.mark.spec("ENV-18")
def test_noise_does_not_enter_the_memory_and_does_not_block_the_real_request() -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys))
    with pytest.raises(EnvelopeError):
        keys.open(header, sealed[:-1] + bytes([sealed[-1] ^ 1]), NOW_MS)
    assert keys.open(header, sealed, NOW_MS)


@pytest.mark.spec("ENV-19")
def test_a_full_memory_refuses_instead_of_forgetting() -> None:
    cache = ReplayCache(max_entries=2)
    for name in (b"a", b"b"):
        cache.check(name, NOW_MS)
        cache.add(name, NOW_MS)
    with pytest.raises(RefusedError) as caught:
        cache.check(b"c", NOW_MS + REPLAY_MEMORY_MS)
    assert caught.value.reason == RefuseReason.BUSY
    with pytest.raises(RefusedError) as caught:
        cache.check(b"a", NOW_MS + REPLAY_MEMORY_MS)
    assert caught.value.reason == RefuseReason.REPLAY
    cache.check(b"c", NOW_MS + REPLAY_MEMORY_MS + 1)


# --- keys ---


@pytest.mark.spec("ENV-08")
def test_only_our_own_certificate_is_installed() -> None:
    keys = SealKeys(PEER.public_key, MODEL)
    for wrong in (
        certify(b"x" * 32, NOW_MS, PEER),
        certify(keys.engine_public_key, NOW_MS, SigningKey(b"o" * 32)),
        b"",
    ):
        with pytest.raises(EnvelopeError):
            keys.install_certificate(wrong)
    assert keys.certificate == b""


@pytest.mark.spec("ENV-10", "ENV-11")
def test_rotation_publishes_both_suites_and_raises_the_epoch() -> None:
    keys = started()
    assert len(keys.configs()) == 2
    first = config_of(keys)
    assert (first.suite, first.epoch, first.key_id) == (SUITE_XWING, 1, keys.key_id)
    assert not keys.rotate_if_due(NOW_MS + ROTATION_MS - 1)
    assert keys.rotate_if_due(NOW_MS + ROTATION_MS)
    second = config_of(keys, NOW_MS + ROTATION_MS)
    assert second.epoch == 2
    assert second.public_key != first.public_key
    assert choose_config([first, second]) == second


@pytest.mark.spec("ENV-11")
def test_old_key_opens_for_a_while_and_is_then_destroyed() -> None:
    keys = started()
    first = config_of(keys)
    keys.rotate_if_due(NOW_MS + ROTATION_MS)
    gone_ms = NOW_MS + CONFIG_LIFETIME_MS + DESTROY_AFTER_MS
    header, sealed, _ = request(first, issued_ms=gone_ms - 1)
    assert keys.open(header, sealed, gone_ms - 1)
    assert len(keys._keys) == 4
    assert not keys.rotate_if_due(gone_ms)
    assert len(keys._keys) == 2
    header, sealed, _ = request(first, issued_ms=gone_ms)
    assert refusal(keys, header, sealed, gone_ms) == RefuseReason.KEY_UNKNOWN


@pytest.mark.spec("ENV-11")
def test_an_overdue_key_is_destroyed_by_the_next_request_at_the_latest() -> None:
    keys = started()
    gone_ms = NOW_MS + CONFIG_LIFETIME_MS + DESTROY_AFTER_MS
    header, sealed, _ = request(config_of(keys), issued_ms=gone_ms)
    assert refusal(keys, header, sealed, gone_ms) == RefuseReason.KEY_UNKNOWN  # though nobody rotated meanwhile
    assert not keys._keys


@pytest.mark.spec("ENV-09", "ENV-11")
def test_keys_of_a_clock_that_was_ahead_are_replaced_once_it_is_right() -> None:
    """Nobody could seal to a provider whose machine had booted an hour ahead, until that hour was over."""
    keys = started(NOW_MS + ROTATION_MS)
    first = config_of(keys, NOW_MS + ROTATION_MS)
    assert keys.rotate_if_due(NOW_MS)
    assert config_of(keys, NOW_MS).epoch == 2
    assert not keys.rotate_if_due(NOW_MS)
    gone_ms = NOW_MS + CONFIG_LIFETIME_MS + DESTROY_AFTER_MS
    header, sealed, _ = request(first, issued_ms=gone_ms)
    assert refusal(keys, header, sealed, gone_ms) == RefuseReason.KEY_UNKNOWN


@pytest.mark.spec("ENV-09")
def test_an_entry_refuses_a_rolled_back_epoch() -> None:
    keys = started()
    old = keys.configs()[0]
    keys.rotate(NOW_MS + 1)
    assert verify_key_config(keys.configs()[0], keys.certificate, PEER.public_key, NOW_MS + 1, min_epoch=2)
    with pytest.raises(EnvelopeError):
        verify_key_config(old, keys.certificate, PEER.public_key, NOW_MS + 1, min_epoch=2)


@pytest.mark.spec("ENV-11")
def test_our_configs_obey_the_rules_for_configs() -> None:
    keys = started()
    for at_ms in (NOW_MS - MAX_CLOCK_SKEW_MS, NOW_MS, NOW_MS + CONFIG_LIFETIME_MS - 1):
        config_of(keys, at_ms)
    assert ROTATION_MS < CONFIG_LIFETIME_MS


@pytest.mark.spec("ENV-05")
def test_each_process_has_an_identity_of_its_own() -> None:
    first, second = SealKeys(PEER.public_key, MODEL), SealKeys(PEER.public_key, MODEL)
    assert first.engine_public_key != second.engine_public_key


# --- receipt ---


@pytest.mark.spec("ENV-30", "ENV-31", "ENV-32")
def test_receipt_names_this_request_and_its_output() -> None:
    keys = started()
    header, sealed, opener = request(config_of(keys))
    sealer = keys.open(header, sealed, NOW_MS).sealer
    opener.start(sealer.response_key)
    opener.open_frame(sealer.seal_data(b"text"))
    receipt = check_receipt(keys.sign_receipt(sealer, Usage(7, 3, 2), amount=9), keys.engine_public_key)
    assert receipt.transcript_hash == opener.transcript_hash
    assert receipt.output_digest == opener.output_digest()
    assert (receipt.n_prompt_tokens, receipt.n_output_tokens, receipt.n_cached_tokens, receipt.amount) == (7, 3, 2, 9)
    sealer.seal_data(b"more, withheld from the entry")
    withheld = check_receipt(keys.sign_receipt(sealer, Usage(7, 3, 2)), keys.engine_public_key)
    assert withheld.output_digest != opener.output_digest()


# --- the flush policy ---


def delta(text: str = "", choice: int = 0, **other: object) -> Delta:
    return msgspec.structs.replace(Delta(choice, text, (1,) if text else ()), **other)


@pytest.mark.spec("ENV-23")
def test_first_token_at_once_then_every_100_ms() -> None:
    policy = FlushPolicy()
    assert policy.add(delta("a"), 10.0) == [delta("a")]
    assert policy.due_at is None
    assert policy.add(delta("b"), 10.02) == []
    assert policy.add(delta("c"), 10.05) == []
    assert policy.due_at == pytest.approx(10.1)
    assert policy.flush(10.09) == []
    assert policy.flush(10.1) == [delta("bc", tokens=(1, 1))]
    assert policy.flush(10.2) == []
    assert policy.add(delta("d"), 10.5) == [delta("d")]


@pytest.mark.spec("ENV-23")
def test_at_most_one_flush_per_interval_whatever_the_token_rate() -> None:
    policy = FlushPolicy()
    flushes = [at for at in range(1000) if policy.add(delta("t"), at / 1000)]
    assert len(flushes) <= 11
    assert all(after - before >= 99 for before, after in pairwise(flushes))


@pytest.mark.spec("ENV-23")
def test_finish_gives_what_is_left_once() -> None:
    policy = FlushPolicy()
    policy.add(delta("a"), 0.0)
    policy.add(delta("b"), 0.01)
    assert policy.finish() == [delta("b")]
    assert policy.finish() == []


@pytest.mark.spec("ENV-33")
def test_joining_loses_and_reorders_nothing() -> None:
    policy = FlushPolicy()
    policy.add(delta("first"), 0.0)
    for piece in (
        delta(reasoning="think"),
        delta("say"),
        delta(reasoning="think again"),  # may not slip before "say"
        delta(tool_calls=(ToolCallDelta(0, "id", "name", "{"),)),
        delta(tool_calls=(ToolCallDelta(0, arguments="}"),)),
        delta(tool_calls=(ToolCallDelta(1, "id2", "name2"),)),
        delta("after the call"),
        delta(tool_calls=(ToolCallDelta(0, "id3", "name3"),), choice=2),
        delta(reasoning="late", choice=2),  # may not slip before the call
        delta("other choice", choice=1),
        delta("!", choice=0),
    ):
        assert policy.add(piece, 0.01) == []
    assert policy.finish() == [
        delta("say", reasoning="think"),
        delta(
            reasoning="think again",
            tool_calls=(ToolCallDelta(0, "id", "name", "{}"), ToolCallDelta(1, "id2", "name2")),
        ),
        delta("after the call!", tokens=(1, 1)),
        delta(tool_calls=(ToolCallDelta(0, "id3", "name3"),), choice=2),
        delta(reasoning="late", choice=2),
        delta("other choice", choice=1),
    ]


@pytest.mark.spec("ENV-27")
def test_a_burst_is_cut_into_frames_that_fit() -> None:
    policy = FlushPolicy()
    policy.add(delta("first"), 0.0)
    top = tuple(TopLogprob(b"\xff" * 16, -1.5) for _ in range(20))
    piece = delta("\U0001f600" * 8, logprobs=(TokenLogprob(b"\xff" * 16, -0.5, top),))
    for _ in range(400):
        policy.add(piece, 0.01)
    left = policy.finish()
    assert sum(len(one.tokens) for one in left) == 400
    assert all(len(encode_delta(one)) <= MAX_DELTA_BYTES < MAX_FRAME_PLAIN_BYTES - 4 for one in left)


@pytest.mark.spec("ENV-27")
def test_a_frame_never_accounts_for_more_tokens_than_a_chunk_may() -> None:
    policy = FlushPolicy()
    policy.add(delta("first"), 0.0)
    for _ in range(3):
        policy.add(delta(tokens=tuple(range(2000))), 0.01)
    assert [len(one.tokens) for one in policy.finish()] == [4000, 2000]
    assert MAX_TOKENS_PER_CHUNK == 4096


@pytest.mark.parametrize(
    "piece",
    [Piece(0, 1, "a", logprob=TokenLogprob(b"a", float("nan"))), Piece(0, 1, "\ud800")],
    ids=["no number", "half a character"],
)
def test_what_cannot_be_said_breaks_off_its_own_answer(piece: Piece) -> None:
    """A damaged file computes what is no number. Were it an error of the worker, it would end everybody's answers."""
    keys = started()
    header, sealed, _ = request(config_of(keys))
    posted: list[ToDaemon] = []
    answer = Answer(7, keys.open(header, sealed, NOW_MS), keys, Turn(lambda message, _: posted.append(message)))
    answer.piece(Piece(0, 1, "all is well"))
    answer.piece(piece)
    answer.finished(("stop",), Usage(3, 2))
    assert [type(message) for message in posted] == [Chunk, Failed]
    assert posted[-1] == Failed(7, FailureCode.INTERNAL)


@pytest.mark.spec("ENV-23")
def test_pieces_that_follow_the_first_leave_together_when_they_are_due() -> None:
    keys = started()
    header, sealed, _ = request(config_of(keys))
    posted: list[ToDaemon] = []
    turn = Turn(lambda message, _: posted.append(message))
    answer = Answer(7, keys.open(header, sealed, NOW_MS), keys, turn)
    turn.now = 10.0
    answer.piece(Piece(0, 1, "at once"))
    assert [(message.n_tokens, answer.due_at) for message in posted if isinstance(message, Chunk)] == [(1, None)]
    turn.now = 10.02
    answer.piece(Piece(0, 2, " a"))
    answer.piece(Piece(0, 3, " b"))
    assert answer.due_at == pytest.approx(10.1)
    assert turn.scheduled == [answer]
    turn.now = answer.due_at
    answer.flush()
    assert [message.n_tokens for message in posted if isinstance(message, Chunk)] == [1, 2]
    assert answer.due_at is None
