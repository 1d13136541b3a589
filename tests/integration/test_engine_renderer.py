"""The template process: what a hostile template does to it, and that nobody else notices."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import trio

from mcd.api.tasks import DetokenizeRequest, TokenizeRequest
from mcd.engine import renderer
from mcd.engine.catalogue import EngineSpec
from mcd.engine.rendering import RendererGoneError, Rendering, TemplateError
from mcd.errors import ContextLengthError, InvalidRequestError, UserError
from mcd.units import UnixMs
from mcd.wire.payload import MAX_ASKED_MS
from tests.fakes import gguf_make
from tests.fakes.engine_entry import Answer, EntrySide, RealClock, chat, running

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    "loop": LOOP,
    "one endless step": "{{ range(99999999999) | list | length }}",
    "memory by doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "memory by lists": "{% set n = namespace(x=['ab']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "memory by a filter": "{{ [1] | batch(900000000, 0) | list | length }}",
    "memory by replacing": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "a list that grows as it is read": "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "recursion in C": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}"
    "{{ n.x | tojson }}{{ n.x | string }}",
    "a list that holds itself": "{% set l = [] %}{{ l.append(l) }}{{ l | tojson }}",
    "more than any context": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
}
TEMPLATE = (
    "".join(f"{{% if messages[-1].content == '{name}' %}}{bomb}{{% endif %}}" for name, bomb in BOMBS.items())
    + gguf_make.TEMPLATE
)


def says(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}).encode()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Rendering]]:
    monkeypatch.setattr(renderer, "RENDER_CPU_S", 0.5)
    started: list[Rendering] = []

    def one(source: str) -> Rendering:
        started.append(Rendering.start())
        started[-1].load(source)
        return started[-1]

    yield one
    for rendering in started:
        rendering.close()


def ask(rendering: Rendering, text: str | bytes) -> str:
    """A rendering as a request has it."""
    rendering.submit(1, text if isinstance(text, bytes) else says(text))
    select.select([rendering.fileno()], [], [], 60)
    taken = rendering.take()
    assert taken is not None
    if isinstance(taken[1], UserError):
        raise taken[1]
    return taken[1]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.timed
def test_each_bomb_costs_its_own_request_alone(start: Callable[[str], Rendering]) -> None:
    rendering = start(TEMPLATE)
    usual = ask(rendering, "hello")
    assert usual == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    for bomb in BOMBS:
        began = time.monotonic()
        with pytest.raises(UserError) as caught:
            ask(rendering, bomb)
        assert isinstance(caught.value, InvalidRequestError | ContextLengthError)
        assert caught.value.param == "messages"
        assert time.monotonic() - began < renderer.RENDER_WALL_S, bomb
        assert ask(rendering, "hello") == usual, bomb


def test_an_error_says_what_was_too_much(start: Callable[[str], Rendering]) -> None:
    rendering = start(TEMPLATE)
    with pytest.raises(InvalidRequestError, match=r"needs more than 0 s for these messages"):
        ask(rendering, "loop")
    with pytest.raises(InvalidRequestError, match=r"needs more than 512 MiB for these messages"):
        ask(rendering, "memory by a filter")
    with pytest.raises(ContextLengthError, match="longer than any context"):
        ask(rendering, "more than any context")


@pytest.mark.parametrize("source", ["{% for %}", "{{ [1] | batch(900000000, 0) | list }}" * 2, "{{" + "[" * 200 + "{{"])
def test_a_template_is_compiled_within_the_same_limits(source: str, start: Callable[[str], Rendering]) -> None:
    before = children()
    try:
        rendering = start(source)
    except TemplateError as error:
        assert "does not compile" in error.message  # noqa: PT017
    else:
        with pytest.raises(TemplateError, match="for a few words"):
            rendering.render(says("hello"))
    assert len(children() - before) <= 2


def test_a_renderer_that_waits_for_ever_is_killed_by_the_clock(
    start: Callable[[str], Rendering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No template can wait; this one stands for whatever uses no processor time."""
    monkeypatch.setattr(renderer, "RENDER_WALL_S", 0.5)
    monkeypatch.setattr(renderer, "_render_one", lambda template, requests, answers: time.sleep(60) or True)
    rendering = start(gguf_make.TEMPLATE)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="needs more than"):
            ask(rendering, "hello")


def test_large_conversations_pass_both_ways(start: Callable[[str], Rendering]) -> None:
    rendering = start("{{ messages[0].content }}")
    text = "é" * 3_000_000
    assert ask(rendering, text) == text
    with pytest.raises(ContextLengthError):
        ask(rendering, b" " * (renderer.MAX_REQUEST_BYTES + 1))
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        ask(rendering, b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_renderings_are_taken_in_order_and_may_be_cancelled(start: Callable[[str], Rendering]) -> None:
    rendering = start("{{ messages[0].content }}")
    for job_id in range(1, 5):
        rendering.submit(job_id, says(f"job {job_id}"))
    rendering.cancel(3)
    taken = []
    while rendering.n_waiting:
        select.select([rendering.fileno()], [], [], 10)
        taken.append(rendering.take())
    assert taken == [(1, "job 1"), (2, "job 2"), (4, "job 4")]
    assert rendering.take() is None


def test_the_processes_end_with_the_worker_and_the_worker_with_the_keeper(start: Callable[[str], Rendering]) -> None:
    before = children()
    rendering = start(gguf_make.TEMPLATE)
    keeper, worker = sorted(children() - before)
    assert psutil.Process(worker).ppid() == keeper
    psutil.Process(keeper).kill()
    psutil.wait_procs([psutil.Process(pid) for pid in (worker,) if psutil.pid_exists(pid)], timeout=10)
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(RendererGoneError):
        ask(rendering, "hello")


# --- in a real engine ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    path = gguf_make.make(
        tmp_path_factory.mktemp("models") / "hostile.gguf", template=TEMPLATE, n_ctx=8192, text_only=True
    )
    return EngineSpec(alias="hostile", backend="llama", source=str(path))


@pytest.mark.timed
async def test_requests_beside_a_bomb_run_on(hostile: EngineSpec) -> None:
    async with running(hostile) as side:
        pid = side.engine.pid
        has_begun = trio.Event()
        gaps: list[float] = []
        failures: list[str] = []

        async def stream() -> None:
            request, opener = side.seal(chat("hello", max_tokens=3000))
            answer, last = Answer(), trio.current_time()
            async with side.engine.submit(request) as events:
                async for event in events:
                    side.take(answer, opener, event)
                    gaps.append(trio.current_time() - last)
                    has_begun.set()
                    last = trio.current_time()
            assert answer.final is not None
            assert answer.final.usage.n_output_tokens == 3000

        async def bomb(name: str) -> None:
            answer = await side.ask(chat(name, max_tokens=1))
            assert answer.failure is not None
            failures.append(answer.failure.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            nursery.start_soon(stream)
            await has_begun.wait()
            for name in ("loop", "memory by a filter", "recursion", "recursion in C"):
                nursery.start_soon(bomb, name)
        assert len(failures) == 4
        assert any("needs more than 2 s for these messages" in failure for failure in failures)
        assert max(gaps) < 1.5, "a stream stood still while a template was being killed"
        assert (await side.ask(chat("hello", max_tokens=3))).final is not None
        assert side.engine.pid == pid
        assert side.engine.status().restarts == 0
        assert side.engine.status().n_waiting == 0


async def test_cancelling_while_the_prompt_is_written_leaves_nothing(hostile: EngineSpec) -> None:
    async with running(hostile) as side:
        requests = [side.seal(chat(text))[0] for text in ("loop", "hello", "hello")]
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for request in requests:
                    nursery.start_soon(_read, side, request)
        answer = await side.ask(chat("hello", max_tokens=3))
        assert answer.final is not None
        assert (side.engine.status().n_running, side.engine.status().n_waiting) == (0, 0)


async def _read(side: EntrySide, request: object) -> None:
    async with side.engine.submit(request) as events:  # type: ignore[arg-type]
        async for _ in events:
            pass


async def test_the_template_process_holds_no_keys_and_no_files_of_the_worker(hostile: EngineSpec) -> None:
    async with running(hostile) as side:
        assert side.engine.pid is not None
        worker = psutil.Process(side.engine.pid)
        born = worker.children(recursive=True)
        assert [child.name() for child in born] == ["mcd-templates", "mcd-schemas", "mcd-render"]
        if os.geteuid() == 0:  # others may not even look
            for child in born:
                links = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
                assert {link.partition(":")[0] for link in links} <= {"/dev/null", "pipe"}
        assert "chat templates" in {line.partition(":")[0] for line in side.engine.sandbox_report()}
        worker.kill()
        _, alive = psutil.wait_procs(born, timeout=10)
        assert alive == []
        await side.wait_until("ready")


async def test_a_template_that_bombs_at_once_is_none(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "always.gguf", template=LOOP + gguf_make.TEMPLATE)
    async with running(EngineSpec(alias="always", backend="llama", source=str(path))) as side:
        assert "needs more than 2 s" in side.engine.status().detail
        assert side.engine.status().capabilities == ("completions", "tokenize")
        answer = await side.ask(chat("hello"))
        assert answer.failure is not None
        assert (answer.failure.code, answer.failure.param) == ("unsupported_parameter", "messages")


@pytest.mark.spec("ENV-48")
async def test_the_date_in_a_prompt_is_the_entrys_and_not_the_engines(tmp_path: Path) -> None:
    layout = "%Y-%m-%d %H:%M:%S"
    template = "{{ messages[0].content }} {{ strftime_now('" + layout + "') }}"
    path = gguf_make.make(tmp_path / "dated.gguf", template=template, n_ctx=512)
    async with running(EngineSpec(alias="dated", backend="llama", source=str(path))) as side:
        real = side.clock

        class Ahead(RealClock):
            def unix_ms(self) -> UnixMs:
                return UnixMs(real.unix_ms() + 100_000)

        async def prompt(asked_ms: int) -> str:
            listed = await side.ask(TokenizeRequest(model="m", chat=chat("on")), asked_ms=asked_ms)
            return (await side.ask(DetokenizeRequest(model="m", tokens=tuple(listed.ids)))).joined

        assert await prompt(1_700_000_000_000) == "on 2023-11-14 22:13:20"
        assert await prompt(MAX_ASKED_MS) == "on 9999-12-31 23:59:59"
        side.clock = Ahead()  # the header's time counts where the body does not say
        told = datetime.strptime((await prompt(0)).removeprefix("on "), layout).replace(tzinfo=UTC)
        assert 80 < told.timestamp() - real.unix_ms() / 1000 <= 100
