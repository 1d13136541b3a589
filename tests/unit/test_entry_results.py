"""What an entry checks of a task's results."""

from __future__ import annotations

import struct

import pytest

from mcd.api.tasks import DetokenizeRequest, EmbeddingsRequest, RerankRequest, TaskRequest, TokenizeRequest
from mcd.engine.parts import MAX_PART_BYTES, MAX_PARTS, PartPolicy, split_text, split_tokens
from mcd.entry.results import Results
from mcd.errors import InvalidRequestError, RemoteProtocolError
from mcd.wire.codec import decode_part, encode_part
from mcd.wire.frames import MAX_RESPONSE_BYTES
from mcd.wire.messages import MAX_TOKENS_PER_CHUNK
from mcd.wire.padding import MAX_FRAME_PLAIN_BYTES, bucket
from mcd.wire.payload import (
    MAX_TEXT_CHARS_PER_FRAME,
    MAX_VECTOR_BYTES,
    Final,
    Part,
    Scores,
    Text,
    Tokens,
    Usage,
    Vectors,
)

THREE = EmbeddingsRequest(model="m", inputs=("a", "b", "c"))
PAIR = RerankRequest(model="m", query="q", documents=("a", "b"))


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def take(request: TaskRequest, *parts: Part) -> None:
    results = Results(request)
    for part in parts:
        assert results.take(encode_part(part)) == part
    results.check_complete(Final(("stop",), Usage(0, 0), b""))


def test_honest_results_pass() -> None:
    take(THREE, Vectors((vector(1, 0),)), Vectors((vector(0, 1), vector(0, 0))))
    take(PAIR, Scores((0.0,)), Scores((1.0,)))
    take(TokenizeRequest(model="m", text="a"), Tokens((1,)), Tokens(()))
    take(DetokenizeRequest(model="m", tokens=()))


@pytest.mark.spec("ENV-37")
@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (THREE, [Vectors((vector(1),) * 2)]),
        (THREE, [Vectors((vector(1),) * 4)]),
        (THREE, [Vectors((vector(1), vector(1), vector(1, 0)))]),
        (EmbeddingsRequest(model="m", inputs=("a",), dimensions=1), [Vectors((vector(1, 0),))]),
        (PAIR, [Scores((0.1,))]),
        (PAIR, [Scores((0.1,) * 3)]),
        (PAIR, [Scores((0.1, 1.1))]),
        (PAIR, [Scores((0.1, -0.1))]),
        (PAIR, [Vectors((vector(1), vector(1)))]),
        (THREE, []),
    ],
    ids=["few", "many", "ragged", "wide", "few scores", "many scores", "above 1", "below 0", "other kind", "none"],
)
def test_others_do_not(request_: TaskRequest, parts: list[Part]) -> None:
    with pytest.raises(RemoteProtocolError):
        take(request_, *parts)


@pytest.mark.spec("ENV-36", "ENV-37")
@pytest.mark.parametrize(
    ("request_", "part", "reason", "n_prompt_tokens"),
    [
        (TokenizeRequest(model="m", text="a"), Tokens((1,)), "stop", 1),
        (DetokenizeRequest(model="m", tokens=(1,)), Text("a"), "stop", 1),
        (PAIR, Scores((0.1, 0.2)), "length", 3),
    ],
)
def test_nor_do_counts_of_what_is_not_computed(
    request_: TaskRequest, part: Part, reason: str, n_prompt_tokens: int
) -> None:
    results = Results(request_)
    results.take(encode_part(part))
    with pytest.raises(RemoteProtocolError):
        results.check_complete(Final((reason,), Usage(n_prompt_tokens, 0), b""))


@pytest.mark.spec("ENV-23")
def test_results_leave_at_once_then_every_tenth_of_a_second_joined() -> None:
    policy = PartPolicy()
    policy.put(Scores((0.1,)))
    assert policy.flush(5.0) == [Scores((0.1,))]
    for score in (0.2, 0.3, 0.4):
        policy.put(Scores((score,)))
        assert policy.flush(5.05) == []
    assert policy.due_at == pytest.approx(5.1)
    assert policy.flush(5.1) == [Scores((0.2, 0.3, 0.4))]
    assert policy.finish() == []


@pytest.mark.parametrize("size_bytes", [4, 384 * 4, 4096 * 4, MAX_VECTOR_BYTES])
def test_joined_vectors_fit_frames(size_bytes: int) -> None:
    policy = PartPolicy()
    for _ in range(100):
        policy.put(Vectors((b"\0" * size_bytes,)))
    parts = policy.finish()
    assert sum(len(part.vectors) for part in parts if isinstance(part, Vectors)) == 100
    sizes = [len(encode_part(part)) for part in parts]
    assert max(sizes) <= MAX_FRAME_PLAIN_BYTES - 64
    assert len(parts) <= 1 + 100 * (size_bytes + 5) // (MAX_PART_BYTES - size_bytes)


def test_long_texts_and_token_lists_are_cut_into_frames() -> None:
    ids = list(range(2**32 - 10_000, 2**32))
    parts = split_tokens(ids, "content")
    assert [token for part in parts if isinstance(part, Tokens) for token in part.tokens] == ids
    texts = split_text("世" * 20_000 + "\U0001f600" * 9000)
    assert "".join(part.text for part in texts if isinstance(part, Text)) == "世" * 20_000 + "\U0001f600" * 9000
    for part in (*parts, *texts):
        assert len(encode_part(part)) < MAX_FRAME_PLAIN_BYTES - 64
        assert decode_part(encode_part(part), type(part)) == part


def test_more_than_a_response_holds_is_refused_with_what_to_do() -> None:
    """A million characters of four tokens each took a thousand frames."""
    most = MAX_PARTS * MAX_TOKENS_PER_CHUNK
    dearest = (
        split_tokens([2**32 - 1] * most, "content"),
        split_text("\U0001f600" * MAX_PARTS * MAX_TEXT_CHARS_PER_FRAME),
    )
    for parts in dearest:
        n_bytes = sum(len(encode_part(part)) + 96 for part in parts)
        assert bucket(n_bytes) < MAX_RESPONSE_BYTES
    with pytest.raises(InvalidRequestError, match="several requests") as too_many:
        split_tokens(range(most + 1), "content")
    assert too_many.value.param == "content"
    with pytest.raises(InvalidRequestError, match="several requests"):
        split_text("a" * (MAX_PARTS * MAX_TEXT_CHARS_PER_FRAME + 1))
