"""Schemas beside the decoding: what hostile ones do to the process that compiles them, and that nobody notices."""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import psutil
import pytest

from mcd.api.request import ChatRequest, ResponseFormat, ToolFunction
from mcd.engine import choosing, compiler, sampler
from mcd.engine.active import Active
from mcd.engine.backend import Job
from mcd.engine.compiler import Compiled, Dialect
from mcd.engine.compiling import CompilerGoneError, Compiling
from mcd.engine.gbnf import constraint
from mcd.engine.gbnf.constraint import Bound, Constraint
from mcd.engine.guide import Grammar
from mcd.engine.llama import LlamaBackend
from mcd.engine.load import open_llama
from mcd.engine.messages import EngineOptions, FailureCode
from mcd.engine.parsers.families import TAGS
from mcd.engine.rendering import Rendering
from mcd.engine.sampler import Sampler
from mcd.errors import UnsupportedError, UserError
from tests.fakes import gguf_make
from tests.fakes.engine_entry import chat
from tests.integration.test_engine_resume import Shown, told

HERMES = Dialect("<tool_call><think>", may_think=True)
SHORT = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["on", "n"],
    "additionalProperties": False,
}


def form(schema: Any, **members: Any) -> ChatRequest:
    raw = msgspec.Raw(json.dumps(schema).encode())
    return chat("json", response_format=ResponseFormat(type="json_schema", schema=raw), **members)


def tool(schema: Any, **members: Any) -> ChatRequest:
    raw = msgspec.Raw(json.dumps(schema).encode())
    return chat("call", tools=(ToolFunction(name="f", parameters=raw, strict=True),), **members)


# --- the process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[[], Compiling]]:
    started: list[Compiling] = []

    def one() -> Compiling:
        started.append(Compiling.start())
        started[-1].load(HERMES)
        return started[-1]

    yield one
    for compiling in started:
        compiling.close()


def ask(compiling: Compiling, request: ChatRequest) -> Compiled:
    compiling.submit(1, request, "unknown", "", 0.0)
    while not (done := compiling.take(0.0)):
        assert select.select([compiling], [], [], 60)[0]
    if isinstance(done[0][1], UserError):
        raise done[0][1]
    return done[0][1]


def _hang() -> Any:
    while True:
        pass


def _fill() -> Any:
    return [bytearray(1 << 28) for _ in range(9)]


def _recurse() -> Any:
    return _recurse()


ENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "time": (_hang, "more than 0 s"),
    "memory": (_fill, "more than 512 MiB"),
    "recursion": (_recurse, "nested too deeply"),
    "a crash": (lambda: ctypes.string_at(0), "more than the parser"),
    "an abort": (os.abort, "more than the parser"),
    "an exit": (lambda: os._exit(0), "more than the parser"),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_end_costs_its_own_request_alone(
    end: str, start: Callable[[], Compiling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever kind: a compiler, or llama.cpp's parser, that a schema has brought so far."""
    happens, words = ENDS[end]
    build = constraint.build

    def hostile(request: ChatRequest, *args: Any, **how: Any) -> Constraint | None:
        return happens() if request.tool_choice == "required" else build(request, *args, **how)

    monkeypatch.setattr(compiler, "COMPILE_CPU_S", 0.3 if end == "time" else 5.0)
    monkeypatch.setattr(constraint, "build", hostile)
    compiling = start()
    usual = ask(compiling, form(SHORT))
    assert usual.constraint is not None
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=words) as caught:
            ask(compiling, tool(SHORT, tool_choice="required"))
        assert caught.value.param == "tools"
        assert ask(compiling, form(SHORT)).constraint == usual.constraint


def test_references_that_fork_at_each_step_end_within_the_limits(start: Callable[[], Compiling]) -> None:
    """llama.cpp looks for left recursion along each way by itself: two at each of thirty steps."""
    names = {f"{letter}{i}": [f"#/$defs/a{i + 1}", f"#/$defs/b{i + 1}"] for i in range(28) for letter in "ab"}
    defs: dict[str, Any] = {name: {"anyOf": [{"$ref": ref} for ref in refs]} for name, refs in names.items()}
    defs |= {"a28": {"type": "null"}, "b28": {"type": "boolean"}}
    compiling = start()
    began = time.monotonic()
    with pytest.raises(UnsupportedError):
        ask(compiling, form({"$ref": "#/$defs/a0", "$defs": defs}))
    assert time.monotonic() - began < compiler.COMPILE_WALL_S
    assert ask(compiling, form(SHORT)).constraint is not None


def test_any_text_as_a_grammar_costs_its_own_request_alone(
    start: Callable[[], Compiling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grammars that no compiler of ours writes: damaged ones, and characters by chance."""
    choose = random.Random(7)
    made = constraint.build(tool(SHORT, tool_choice="required"), _family(), "unknown", may_think=True)
    assert made is not None
    assert made.answer is not None

    def garbage(request: ChatRequest, *args: Any, **how: Any) -> Constraint:
        text = made.answer.definitions if made.answer is not None else ""
        choose = random.Random(request.tool_choice)
        for _ in range(choose.randrange(1, 6)):
            at, n = choose.randrange(len(text)), choose.randrange(12)
            text = text[:at] + "".join(choose.choices('"[](){}|*+?.:=\\x-<>!^é\n a0', k=n)) + text[at + n :]
        bare = "".join(choose.choices('"[](){}|*+?.:=\\x-<>!^é\n abroot0', k=60))
        return Constraint(TAGS, "unknown", "tools", 1, answer=Bound(choose.choice(["answer", bare]), text))

    monkeypatch.setattr(constraint, "build", garbage)
    compiling = start()
    ends: set[str] = set()
    for _ in range(150):
        try:
            ask(compiling, tool(SHORT, tool_choice=f"function:{choose.random()}"))
            ends.add("taken")
        except UnsupportedError as error:
            ends.add(error.message)
    assert any("makes no grammar" in end for end in ends)
    monkeypatch.undo()
    assert ask(start(), form(SHORT)).constraint is not None


def _family() -> Any:
    from mcd.engine.parsers.families import family_of

    return family_of(HERMES.text)


def test_the_processes_end_with_the_worker_and_the_worker_with_the_keeper(start: Callable[[], Compiling]) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    compiling = start()
    ask(compiling, form(SHORT))
    (keeper,) = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    keeper.kill()
    with pytest.raises(CompilerGoneError):
        ask(compiling, form(SHORT))


# --- an engine -----------------------------------------------------------------------------------------------------


class Ended(Shown):
    """A sink that keeps its error."""

    def __init__(self) -> None:
        super().__init__()
        self.error: UserError | None = None

        self.code = 0

    def failed(self, error: UserError) -> None:
        self.error = error

    def broken(self, code: int) -> None:
        self.code = code

    @property
    def is_over(self) -> bool:
        return self.end is not None or self.error is not None or bool(self.code)


class Engine:
    """A backend and the loop around it, turned by hand."""

    def __init__(self, backend: LlamaBackend, keeper: int) -> None:
        self.backend = backend
        self.keeper = keeper
        self.slowest_s = 0.0
        """Processor time of this thread in one step, at most."""
        self._ids = 0

    def submit(self, request: ChatRequest, salt: str = "", resume: Sequence[int] = ()) -> tuple[int, Ended]:
        self._ids += 1
        shown = Ended()
        self.backend.submit(Job(self._ids, request, shown, cache_salt=salt, resume=tuple(resume)))
        return self._ids, shown

    def step(self) -> None:
        wait_s = self.backend.wait_s(0.0)
        select.select(self.backend.wakers(), [], [], 60 if wait_s is None else min(60, wait_s))
        began = time.thread_time()
        self.backend.step(0.0)
        self.slowest_s = max(self.slowest_s, time.thread_time() - began)

    def run(self, shown: Ended, n_tokens: int = 1 << 30) -> None:
        while not shown.is_over and len(shown.tokens) < n_tokens:
            self.step()

    def answer(self, request: ChatRequest, salt: str = "", resume: Sequence[int] = ()) -> Ended:
        _, shown = self.submit(request, salt, resume)
        self.run(shown)
        return shown

    def is_idle(self) -> bool:
        return self.backend.load() == (0, 0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = gguf_make.make(
        tmp_path_factory.mktemp("models") / "tiny.gguf", template=gguf_make.TEMPLATE + "{# <tool_call> #}", n_ctx=4096
    )
    before = {child.pid for child in psutil.Process().children()}
    compiling = Compiling.start()
    (keeper,) = {child.pid for child in psutil.Process().children()} - before
    options = EngineOptions(n_threads=1, n_slots=4)
    backend = open_llama(str(path), options, Rendering.start(), compiling)
    yield Engine(backend, keeper)
    backend.close()


class Counted:
    """Grammars alive in llama.cpp."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive: set[int] = set()
        begin, close = Grammar.__init__, Grammar.close

        def init(grammar: Grammar, *args: Any) -> None:
            begin(grammar, *args)
            self.alive.add(id(grammar))

        def end(grammar: Grammar) -> None:
            close(grammar)
            self.alive.discard(id(grammar))

        monkeypatch.setattr(Grammar, "__init__", init)
        monkeypatch.setattr(Grammar, "close", end)


STREAM = chat("on and on", max_tokens=3000, temperature=0.0, logit_bias=(("257", -100.0), ("262", -100.0)))


@pytest.fixture
def stream(engine: Engine) -> Iterator[Ended]:
    """Somebody else's answer, under way."""
    job_id, shown = engine.submit(STREAM)
    engine.run(shown, 5)
    yield shown
    engine.backend.cancel(job_id)
    assert not shown.is_over
    assert engine.is_idle()


def test_tokens_go_on_while_a_schema_is_compiled(engine: Engine, stream: Ended) -> None:
    os.kill(engine.keeper, signal.SIGSTOP)
    try:
        _, held = engine.submit(form(SHORT, max_tokens=100))
        engine.run(stream, len(stream.tokens) + 50)
        assert not held.pieces
        assert engine.backend.load() == (1, 1)
    finally:
        os.kill(engine.keeper, signal.SIGCONT)
    engine.run(held)
    assert set(json.loads(told(held.pieces)[0])) == {"on", "n"}


class Gate:
    """Holds a method of whatever runs beside the loop, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.is_open = threading.Event()
        self.n_held = 0
        original = getattr(owner, name)

        def held(*args: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread(), f"{name} in the loop"
            self.n_held += 1
            assert self.is_open.wait(60)
            return original(*args)

        monkeypatch.setattr(owner, name, held)


@pytest.mark.parametrize(("owner", "name"), [(Sampler, "_masked"), (Sampler, "_guided"), (Active, "open")])
def test_tokens_go_on_while_a_grammar_works(
    engine: Engine, stream: Ended, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that masks a vocabulary, or a large one at any token, or before its first."""
    plain = engine.answer(form(SHORT, max_tokens=100, temperature=0.0))
    if name != "_masked":
        monkeypatch.setattr(sampler, "LIGHT_WAYS", 0)
    gate = Gate(monkeypatch, owner, name) if name != "open" else None
    opened = threading.Event()
    if gate is None:
        original = Active.open

        def slow(active: Active) -> bool:
            assert active.sequences[0].sampler.is_light or threading.current_thread() is not threading.main_thread()
            assert active.sequences[0].sampler.is_light or opened.wait(60)
            return original(active)

        monkeypatch.setattr(Active, "open", slow)
    _, held = engine.submit(form(SHORT, max_tokens=100, temperature=0.0))
    engine.run(stream, len(stream.tokens) + 50)
    assert not held.is_over
    (gate.is_open if gate is not None else opened).set()
    engine.run(held)
    assert told(held.pieces) == told(plain.pieces)


def test_a_slow_grammar_delays_none_that_has_few_ways(
    engine: Engine, stream: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread computed all masks, and one of them may take nine seconds."""
    wide = {"enum": [f"{chr(0x4E00 + i)}" for i in range(sampler.QUICK_WAYS + 8)]}
    gate, masked = threading.Event(), Sampler._masked
    n_held = 0

    def slow(self: Sampler, *args: Any) -> int:
        nonlocal n_held
        if not self.is_quick:
            n_held += 1
            assert gate.wait(60)
        return masked(self, *args)

    monkeypatch.setattr(Sampler, "_masked", slow)
    _, held = engine.submit(form(wide, max_tokens=100, n=2))
    while not n_held:
        engine.step()
    quick = engine.answer(form(SHORT, max_tokens=100))
    assert set(json.loads(told(quick.pieces)[0])) == {"on", "n"}
    assert (held.is_over, n_held) == (False, 1)
    gate.set()
    engine.run(held)
    assert held.end is not None


@pytest.mark.parametrize("kind", ["schema", "required", "auto"])
def test_a_large_grammar_chooses_as_a_small_one_does(
    engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is chosen is nobody's business: the same tokens, also those of a resumed answer."""
    members: dict[str, Any] = {"temperature": 0.9, "seed": 5, "max_tokens": 120, "logprobs": True, "top_logprobs": 2}
    bias = {"auto": (("60", 12.0), ("116", 8.0), ("111", 8.0))}.get(kind, ())
    request = form(SHORT, **members) if kind == "schema" else tool(SHORT, tool_choice=kind, logit_bias=bias, **members)
    light = engine.answer(request)
    monkeypatch.setattr(sampler, "LIGHT_WAYS", 0)
    heavy = engine.answer(request)
    assert heavy.tokens == light.tokens
    assert told(heavy.pieces) == told(light.pieces)
    assert [piece.logprob.token for piece in heavy.pieces if piece.logprob] == [
        piece.logprob.token for piece in light.pieces if piece.logprob
    ]
    for cut in range(1, len(light.tokens), 9):
        rest = engine.answer(request, resume=light.tokens[:cut])
        assert rest.end is not None
        assert rest.end[0] == (light.end or ((),))[0]


@pytest.mark.parametrize("stage", ["compiling", "opening", "choosing"])
def test_cancelling_meanwhile_frees_everything(engine: Engine, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    monkeypatch.setattr(sampler, "LIGHT_WAYS", 0)
    gate = Gate(monkeypatch, *{"opening": (Active, "open")}.get(stage, (Sampler, "_guided")))
    if stage == "compiling":
        os.kill(engine.keeper, signal.SIGSTOP)
    jobs = [engine.submit(form(SHORT, max_tokens=100, n=n))[0] for n in (1, 2, 1)]
    if stage == "compiling":
        while engine.backend.load()[1] < 3 or engine.backend._prompts.n_open:
            engine.step()
    else:
        while not gate.n_held or engine.backend._prompts.n_open:
            engine.step()
    for job_id in jobs:
        assert engine.backend.cancel(job_id).n_output_tokens == 0
    assert engine.backend.load()[0] == 0
    if stage == "compiling":
        os.kill(engine.keeper, signal.SIGCONT)
    gate.is_open.set()
    answered = engine.answer(form(SHORT, max_tokens=100))
    assert answered.end is not None
    while counted.alive:
        engine.step()
    assert engine.is_idle()
    assert not engine.backend._scheduler._choosing._held
    assert not engine.backend._bindings._lent
    assert engine.backend._waiting_bytes == 0


HOSTILE: list[Any] = [
    {"enum": [chr(0x4E00 + i) * 30 for i in range(4000)]},
    {"type": "object", "required": [f"p{i}" for i in range(90)], "properties": {
        f"p{i}": {"type": "string", "maxLength": 1000} for i in range(90)}},
    {"type": "object", "properties": {f"{chr(97 + i % 26)}{i}": {"enum": [str(j * 7919 + i) for j in range(200)]}
        for i in range(64)}},
    {"type": "string", "pattern": "^([a-m]{1,9}|[h-z]{2,8}|[0-9a-d]{5,9}){1,9}$"},
]  # fmt: skip


def test_the_loop_spends_no_time_on_hostile_schemas(engine: Engine, stream: Ended) -> None:
    """Before, each held everybody's next token up for as long as it took: up to 1.3 s in the loop."""
    engine.run(stream, len(stream.tokens) + 20)
    engine.slowest_s = 0.0
    asked = [engine.submit(form(schema, max_tokens=12))[1] for schema in HOSTILE]
    n_before = len(stream.tokens)
    while not all(shown.is_over for shown in asked):
        engine.step()
    assert len(stream.tokens) > n_before + 20
    assert engine.slowest_s < 0.15
    assert [shown.end is not None for shown in asked] == [True, True, True, False]


@pytest.mark.parametrize("n_tokens", [0, 3])
def test_a_token_that_takes_too_long_to_choose_ends_its_request_alone(
    engine: Engine, stream: Ended, n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, shown = Counted(monkeypatch), Ended()
    engine.backend.submit(Job(1001, form(SHORT, max_tokens=100), shown))
    engine.run(shown, n_tokens)
    monkeypatch.setattr(choosing, "MAX_CHOICE_S", 0.0)
    n_before = len(stream.tokens)
    engine.run(shown)
    if n_tokens:
        assert shown.code == FailureCode.COMPUTE
    else:
        assert isinstance(shown.error, UnsupportedError)
        assert (shown.error.param, "takes over 20 s" in shown.error.message) == ("response_format", True)
    engine.run(stream, n_before + 20)
    assert not counted.alive


@pytest.mark.parametrize("n_tokens", [0, 3])
def test_a_dead_end_is_an_error_and_no_answer(
    engine: Engine, stream: Ended, n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first token the request's, then the engine's: another may go on, with a vocabulary that has more."""
    shown = Ended()
    mask = Grammar.mask
    monkeypatch.setattr(
        Grammar, "mask", lambda grammar, found: mask(grammar, found)[: 0 if len(shown.tokens) >= n_tokens else None]
    )
    counted = Counted(monkeypatch)
    engine.backend.submit(Job(1000, form(SHORT, max_tokens=100), shown))
    engine.run(shown)
    assert shown.end is None
    if n_tokens:
        assert shown.code == FailureCode.COMPUTE
    else:
        assert isinstance(shown.error, UnsupportedError)
        assert shown.error.param == "response_format"
        assert "no token of this model" in shown.error.message
    assert not counted.alive
    assert engine.backend.load() == (1, 0)


def test_the_next_turn_compiles_nothing(engine: Engine) -> None:
    first = engine.answer(tool(SHORT, tool_choice="required", max_tokens=60, temperature=0.0), salt="agent")
    os.kill(engine.keeper, signal.SIGSTOP)
    try:
        again = engine.answer(tool(SHORT, tool_choice="required", max_tokens=60, temperature=0.0), salt="agent")
    finally:
        os.kill(engine.keeper, signal.SIGCONT)
    assert told(again.pieces) == told(first.pieces)
