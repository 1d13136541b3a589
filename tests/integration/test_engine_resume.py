"""Exact resume: what was shown up to any token, and what a second engine shows after it, is the unbroken answer."""

from __future__ import annotations

import random
import select
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcd.api.request import ChatRequest, ResponseFormat, ToolFunction
from mcd.engine.backend import Job, Piece
from mcd.engine.catalogue import embedded_path
from mcd.engine.compiling import Compiling
from mcd.engine.llama import LlamaBackend
from mcd.engine.load import open_llama
from mcd.engine.messages import EngineOptions
from mcd.engine.rendering import Rendering
from mcd.errors import UserError
from mcd.wire.messages import RefuseReason
from mcd.wire.payload import Usage
from tests.fakes import gguf_make
from tests.fakes.engine_entry import chat

TEMPLATE = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + gguf_make.TEMPLATE
LAMP = msgspec.Raw(
    b'{"type":"object","properties":{"on":{"type":"boolean"},"n":{"type":"integer","minimum":1,"maximum":9}},'
    b'"required":["on","n"],"additionalProperties":false}'
)
TOOLS = (ToolFunction(name="lamp", parameters=LAMP), ToolFunction(name="door", parameters=LAMP))


class Shown:
    """A sink: what a reader sees, token by token."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.end: tuple[tuple[str, ...], Usage] | None = None

    def started(self, n_prompt_tokens: int) -> None:
        pass

    def piece(self, piece: Piece) -> None:
        self.pieces.append(piece)

    def finished(self, finish_reasons: Sequence[str], usage: Usage) -> None:
        self.end = (tuple(finish_reasons), usage)

    def failed(self, error: UserError) -> None:
        raise error

    def refused(self, reason: RefuseReason) -> None:
        raise AssertionError(reason)

    def broken(self, code: int) -> None:
        raise AssertionError(code)

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(piece.token for piece in self.pieces if piece.token is not None)


def told(pieces: list[Piece]) -> tuple[str, str, list[Any]]:
    calls = [(call.index, call.id, call.name, call.arguments) for piece in pieces for call in piece.tool_calls]
    return "".join(p.text for p in pieces), "".join(p.reasoning for p in pieces), calls


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    """A model of random bytes: characters broken anywhere, invalid ones too."""
    path = gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf", template=TEMPLATE, n_ctx=2048)
    backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=2), Rendering.start(), Compiling.start())
    yield backend
    backend.close()


def answer(engine: LlamaBackend, request: ChatRequest, resume: tuple[int, ...] = (), limit: int = 0) -> Shown:
    shown = Shown()
    engine.submit(Job(1, request, shown, resume=resume, max_output_tokens=limit))
    while shown.end is None:
        select.select(engine.wakers(), [], [], engine.wait_s(0.0))
        engine.step(0.0)
    return shown


def readable_stop(engine: LlamaBackend) -> str:
    """A stop string out of the free answer; its three characters are tokens of their own, so cuts fall inside it."""
    text, _, _ = told(answer(engine, chat("stop me", temperature=0.0, max_tokens=120)).pieces)
    readable = [at for at in range(30, len(text) - 3) if all(33 <= ord(c) < 127 for c in text[at : at + 3])]
    return text[readable[0] : readable[0] + 3]


def is_near_tie(whole: Shown, at: int, token: int) -> bool:
    """Whether another token was as good as the chosen one, but for the arithmetic's last digits.

    A prefill and single decodes round differently (4e-3 in a logprob of this flat random model, 0 in a trained one).
    """
    logprob = whole.pieces[at].logprob
    assert logprob is not None
    vocabulary = gguf_make.vocabulary()
    alphabet = gguf_make.byte_alphabet()
    text = bytes(alphabet.index(c) for c in vocabulary[token]) if token < 256 else vocabulary[token].encode()
    return any(top.token == text and logprob.logprob - top.logprob < 0.05 for top in logprob.top)


@pytest.mark.parametrize("case", ["bytes", "stop", "schema", "calls", "one call", "length"])
def test_any_cut_gives_the_unbroken_answer(engine: LlamaBackend, case: str) -> None:
    form = ResponseFormat(type="json_schema", schema=LAMP)
    members: dict[str, dict[str, Any]] = {
        "bytes": {"max_tokens": 120},
        "stop": {"max_tokens": 120, "stop": (readable_stop(engine), "never there")},
        "schema": {"max_tokens": 200, "response_format": form},
        "calls": {"max_tokens": 200, "tools": TOOLS, "tool_choice": "required"},
        "one call": {"max_tokens": 200, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        "length": {"max_tokens": 7},
    }
    request = chat("stop me", temperature=0.0, logprobs=True, top_logprobs=20, **members[case])
    whole = answer(engine, request)
    assert whole.end is not None
    cuts = range(1, len(whole.tokens) + 1)
    chosen = random.Random(sum(case.encode())).sample(cuts, min(len(cuts), 40))
    n_ties = 0
    for cut in {*chosen, len(whole.tokens)}:
        rest = answer(engine, request, whole.tokens[:cut])
        assert rest.end is not None
        pairs = zip(rest.tokens, whole.tokens[cut:], strict=False)
        differs = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if differs is not None:
            assert is_near_tie(whole, cut + differs, rest.tokens[differs])
            n_ties += 1
            continue
        assert rest.tokens == whole.tokens[cut:]
        first, second, all_of_it = told(whole.pieces[:cut]), told(rest.pieces), told(whole.pieces)
        assert (first[0] + second[0], first[1] + second[1], first[2] + second[2]) == all_of_it
        assert rest.end[0] == whole.end[0]
        assert rest.end[1].n_output_tokens == len(whole.tokens) - cut
        assert rest.end[1].n_prompt_tokens == whole.end[1].n_prompt_tokens
    assert n_ties <= len(chosen) // 2


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_trained_model_goes_on_exactly_at_every_token(penalty: float) -> None:
    """The embedded model, every cut, no tolerance: what a failover between two peers does."""
    engine = open_llama(
        str(embedded_path()), EngineOptions(n_threads=1, n_slots=2), Rendering.start(), Compiling.start()
    )
    request = chat("what is mcd?", temperature=0.0, max_tokens=40, frequency_penalty=penalty)
    whole = answer(engine, request)
    for cut in range(1, len(whole.tokens) + 1):
        rest = answer(engine, request, whole.tokens[:cut])
        assert rest.tokens == whole.tokens[cut:]
        assert told(whole.pieces[:cut])[0] + told(rest.pieces)[0] == told(whole.pieces)[0]
    engine.close()


@pytest.mark.parametrize("is_constrained", [False, True])
def test_a_seeded_answer_stays_on_its_track(is_constrained: bool) -> None:
    """Each token costs one draw, whoever chose it and however: so k tokens replayed are k draws."""
    engine = open_llama(
        str(embedded_path()), EngineOptions(n_threads=1, n_slots=2), Rendering.start(), Compiling.start()
    )
    form = ResponseFormat(type="json_schema", schema=LAMP) if is_constrained else ResponseFormat()
    request = chat("what is mcd?", temperature=1.5, seed=11, max_tokens=40, response_format=form)
    whole = answer(engine, request)
    assert len(whole.tokens) > 8
    for cut in range(1, len(whole.tokens) + 1):
        assert answer(engine, request, whole.tokens[:cut]).tokens == whole.tokens[cut:], cut
    engine.close()


def test_output_limit_is_of_the_whole_answer(engine: LlamaBackend) -> None:
    request = chat("limits", temperature=0.0, max_tokens=50)
    first = answer(engine, request, limit=10)
    assert len(first.tokens) == 10
    rest = answer(engine, request, first.tokens[:4], limit=10)
    assert len(rest.tokens) == 6
    done = answer(engine, request, first.tokens, limit=10)
    assert done.end is not None
    assert (done.tokens, done.end[0]) == ((), ("length",))
    choices = answer(engine, msgspec.structs.replace(request, n=3, temperature=1.0, seed=1), limit=10)
    assert len(choices.tokens) == 9


def test_models_own_sampling_default_is_used(tmp_path: Path) -> None:
    """general.sampling.temp 0 in the file makes a model greedy unless the client says otherwise."""
    path = gguf_make.make(tmp_path / "greedy.gguf", metadata={"general.sampling.temp": 0.0})
    backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=1), Rendering.start(), Compiling.start())
    greedy = answer(backend, chat("x", temperature=0.0, max_tokens=20)).tokens
    assert [answer(backend, chat("x", max_tokens=20)).tokens for _ in range(3)] == [greedy] * 3
    assert answer(backend, chat("x", max_tokens=20, temperature=2.0, seed=1)).tokens != greedy
    backend.close()


@pytest.mark.parametrize("value", ["nan", "-inf", "1e999", "warm"])
def test_a_sampling_default_that_is_no_number_is_none(tmp_path: Path, value: str) -> None:
    """As a text it passes the check of the header; ``top_k`` of it ended every request as a fault of ours."""
    names = ("temp", "top_k", "top_p", "min_p")
    odd = {f"general.sampling.{name}": value for name in names}
    texts = []
    for metadata in (odd, None):
        path = gguf_make.make(tmp_path / "odd.gguf", metadata=metadata)
        backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=1), Rendering.start(), Compiling.start())
        texts.append(answer(backend, chat("x", max_tokens=20, seed=1)).tokens)
        backend.close()
    assert texts[0] == texts[1]
    assert len(texts[0]) == 20
