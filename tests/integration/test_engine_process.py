"""The process around any backend: start, stop, keys, what it inherits, what it may write, what it survives."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import trio

from mcd.api.request import ChatImage, ChatMessage, ChatRequest
from mcd.engine import landlock, life, supervise
from mcd.engine.catalogue import EngineSpec, resolve
from mcd.engine.messages import EngineOptions
from mcd.errors import EngineDeadError, EngineError, EnvelopeError, RefusedError
from mcd.ports import EngineChunk, EngineFinished, EngineRequest, EngineStarted
from mcd.wire.messages import RefuseReason
from tests.fakes.engine_entry import Answer, EntrySide, chat, running

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "tests" / "fakes" / "scripted" / "hello.json"


@pytest.fixture(scope="module")
def hello() -> EngineSpec:
    return resolve((), Path("/nowhere"), f"scripted:{HELLO}")[0]


async def test_events_come_in_the_ports_order(hello: EngineSpec) -> None:
    async with running(hello) as side:
        request, opener = side.seal(chat("slow"))
        kinds = []
        answer = Answer()
        async with side.engine.submit(request) as events:
            async for event in events:
                kinds.append(type(event))
                side.take(answer, opener, event)
        assert kinds[0] is EngineStarted
        assert kinds[-1] is EngineFinished
        assert set(kinds[1:-1]) == {EngineChunk}
        assert answer.text == "one two three four five six seven eight nine ten"
        assert 3 <= len([delta for delta in answer.deltas if delta.tokens]) <= 5  # 10 tokens in 0.2 s, each 100 ms


@pytest.mark.spec("EX-34")
async def test_a_slot_is_free_before_its_answer_has_been_taken(hello: EngineSpec) -> None:
    async with running(hello) as side:
        request, opener = side.seal(chat("slow"))
        computed, answer = trio.Event(), Answer()
        async with side.engine.submit(request, computed.set) as events:
            await computed.wait()
            async for event in events:
                side.take(answer, opener, event)
        assert answer.text == "one two three four five six seven eight nine ten"


async def test_hundred_streams_of_fifty_tokens_a_second(hello: EngineSpec) -> None:
    async with running(hello) as side:
        assert side.engine.pid is not None
        before = sum(psutil.Process(side.engine.pid).cpu_times()[:2])
        answers: list[Answer] = []

        async def one() -> None:
            answers.append(await side.ask(chat("load")))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)
        assert trio.current_time() - began < 20  # 2 s of script; the rest is a busy machine
        assert {len(answer.tokens) for answer in answers} == {101}
        assert sum(psutil.Process(side.engine.pid).cpu_times()[:2]) - before < 5


BINDING = {"privileges", "capabilities", "system calls", "memory reads", "core dumps"}
"""What every Linux offers; Landlock besides, where the kernel has it."""


@pytest.mark.parametrize("engine", [f"scripted:{HELLO}", "llama", "openai:http://127.0.0.1:1"])
async def test_the_real_process_is_bound_as_a_whole(engine: str) -> None:
    """Imports that start threads came before the confinement, which then bound one thread and no file."""
    spec = resolve(("it",) if engine.startswith("openai") else (), Path("/nowhere"), engine)[0]
    side = EntrySide(spec)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        with trio.fail_after(30):
            while not side.engine.sandbox_report():  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    lines = side.engine.sandbox_report()
    holds = {name for name, _, rest in (line.partition(": ") for line in lines) if rest.startswith("holds")}
    assert holds >= BINDING | ({"files"} if landlock.abi() else set()), lines


async def test_the_kernels_books_say_what_the_report_does(hello: EngineSpec) -> None:
    """Each of these lines of the report could be said without its call having been made."""
    core, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        async with running(hello) as side:
            process = Path(f"/proc/{side.engine.pid}")
            status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            limits = (process / "limits").read_text().splitlines()
            oom_score = (process / "oom_score_adj").read_text().strip()
            networks = {os.stat("/proc/self/ns/net").st_ino}
            with contextlib.suppress(PermissionError):  # only root may look
                networks.add(os.stat(process / "ns/net").st_ino)
            report = side.engine.sandbox_report()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (core, hard))
    books = {
        "want of memory": oom_score == "500",
        "core dumps": any(line.split()[:6] == ["Max", "core", "file", "size", "0", "0"] for line in limits),
        "privileges": status["NoNewPrivs"] == "1",
        "capabilities": {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff")} == {0},
        "namespaces": len(networks) == 2 or os.geteuid() != 0,
        "system calls": status["Seccomp"] == "2",
        "key pages": int(status["VmLck"].split()[0]) > 0,
    }
    for line in report:
        name, _, rest = line.partition(": ")
        assert books.get(name, True) or not rest.startswith("holds"), line
    assert {"core dumps", "privileges"} <= {line.partition(": ")[0] for line in report if ": holds" in line}
    assert "key pages" in {line.partition(": ")[0] for line in report}


async def test_keys_are_certified_and_new_for_every_process(hello: EngineSpec) -> None:
    async with running(hello) as first, running(hello) as second:
        assert first.engine.status().engine_key != second.engine.status().engine_key
        assert len(first.engine.status().key_id) == 8
        foreign, _ = second.seal(chat("hi"))
        with pytest.raises((EnvelopeError, RefusedError)):
            async with first.engine.submit(foreign) as events:
                await anext(events)


async def test_replay_expiry_and_garbage_are_refused(hello: EngineSpec) -> None:
    async with running(hello) as side:
        request, _ = side.seal(chat("hi"))
        async with side.engine.submit(request) as events:
            async for _ in events:
                pass
        with pytest.raises(RefusedError) as replayed:
            async with side.engine.submit(request) as events:
                await anext(events)
        assert replayed.value.reason == RefuseReason.REPLAY
        fresh, _ = side.seal(chat("hi"))
        spoilt = EngineRequest(fresh.header, fresh.sealed[:-1] + bytes([fresh.sealed[-1] ^ 1]), 0)
        for bad in (spoilt, EngineRequest(bytes(136), b"x", 0), EngineRequest(b"", b"", 0)):
            with pytest.raises((EnvelopeError, RefusedError)):
                async with side.engine.submit(bad) as events:
                    await anext(events)
        assert (await side.ask(chat("hi"))).final is not None
        assert side.engine.status().restarts == 0


async def test_user_faults_are_sealed_with_a_receipt_of_nothing(hello: EngineSpec) -> None:
    async with running(hello) as side:
        for how, param in (
            ({"raw": b'{"model": "m", "messages": []}'}, "messages"),
            (
                {"raw": b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 9}'},
                "temperature",
            ),
            ({"raw": b'{"model": 3}'}, "model"),
            ({"kind": "images"}, "kind"),
            ({"resume": (1, 2)}, "resume"),
        ):
            answer = await side.ask(chat("hi"), **how)
            assert answer.failure is not None
            assert answer.failure.param == param
            assert answer.receipt is not None
            assert answer.receipt.n_output_tokens == 0


async def test_refusal_and_break(hello: EngineSpec) -> None:
    async with running(hello) as side:
        with pytest.raises(RefusedError) as refused:
            await side.ask(chat("busy"))
        assert refused.value.reason == RefuseReason.BUSY
        with pytest.raises(EngineError):
            await side.ask(chat("break"))
        assert side.engine.status().state == "ready"


async def test_no_engine_that_sees_nothing_leaves_pictures_out(hello: EngineSpec) -> None:
    """An adapter would send its server the words alone."""
    asked = ChatRequest(model="m", messages=(ChatMessage(role="user", content="hi", images=(ChatImage(data=b"x"),)),))
    async with running(hello) as side:
        answer = await side.ask(asked)
        assert answer.failure is not None
        assert (answer.failure.code, answer.failure.param) == ("unsupported_parameter", "messages")


@pytest.mark.spec("ENV-38", "ENV-30")
@pytest.mark.parametrize("n_chunks", [0, 1, 5])
async def test_a_cancelled_answer_has_a_receipt_for_what_was_sealed(hello: EngineSpec, n_chunks: int) -> None:
    async with running(hello) as side:
        answer = await side.ask_and_cancel(chat("late" if n_chunks == 0 else "load"), n_chunks)
        assert answer.final is not None
        assert bool(answer.tokens) == bool(n_chunks)
        assert len(answer.tokens) < 101
        assert answer.n_chunks <= n_chunks + 4 + 2 * (n_chunks > 1), "nothing but what was under way and end padding"
        with trio.fail_after(5):
            while side.engine.status().n_running:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)


@pytest.mark.spec("ENV-38")
async def test_a_paused_answer_is_cancelled_too(hello: EngineSpec) -> None:
    async with running(hello) as side:
        answer, (sealed, opener) = Answer(), side.seal(chat("load"))
        async with side.engine.submit(sealed) as events:
            await trio.sleep(3.5)  # the whole credit of a reader that does not read
            events.cancel()
            async for event in events:
                side.take(answer, opener, event)
        assert answer.final is not None
        assert answer.final.usage.n_output_tokens == len(answer.tokens)


async def test_death_ends_every_request_and_three_degrade(hello: EngineSpec) -> None:
    async with running(hello) as side:
        ended: list[type[Exception]] = []

        async def doomed() -> None:
            try:
                await side.ask(chat("stall"))
            except EngineDeadError as error:
                ended.append(type(error))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(doomed)
            await trio.sleep(0.2)
            with pytest.raises(EngineDeadError):
                await side.ask(chat("die"))
        assert ended == [EngineDeadError] * 10
        for _ in range(2):
            await side.wait_until("ready")
            assert side.engine.pid is not None
            os.kill(side.engine.pid, signal.SIGKILL)
            await side.wait_until("restarting", "degraded")
        await side.wait_until("degraded")
        assert "SIGKILL" in side.engine.status().detail


@pytest.mark.timed
@pytest.mark.parametrize("state", ["running", "frozen"])
async def test_stop_takes_less_than_two_seconds(hello: EngineSpec, state: str) -> None:
    async with running(hello) as side:
        pid = side.engine.pid
        assert pid is not None
        if state == "frozen":
            os.kill(pid, signal.SIGSTOP)
        began = trio.current_time()
    assert trio.current_time() - began < 2.0
    assert not psutil.pid_exists(pid)
    assert side.engine.status().state == "stopped"


@pytest.fixture
def open_files() -> Iterator[Callable[[bool], None]]:
    """Lets this process open no file at all, or again as many as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(may_open: bool) -> None:
        n_files = soft
        if not may_open:
            n_files = os.dup(0)  # the lowest free number
            os.close(n_files)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))

    yield allow
    allow(True)


@pytest.mark.parametrize("is_digest_known", [True, False])
async def test_too_few_open_files_are_named_and_waited_for(
    hello: EngineSpec, open_files: Callable[[bool], None], is_digest_known: bool
) -> None:
    """Not the model's fault: it was given up as damaged for ever."""
    spec = hello if is_digest_known else msgspec.structs.replace(hello, digest=b"")
    side = EntrySide(spec)
    async with trio.open_nursery() as nursery:
        open_files(False)
        nursery.start_soon(side.engine.run)
        with trio.fail_after(20):
            while side.engine.status().restarts < 3:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)
        assert "ulimit -n" in side.engine.status().detail
        assert side.engine.status().state != "failed"
        nursery.cancel_scope.cancel()
    open_files(True)
    async with running(spec) as working:
        assert (await working.ask(chat("hi"))).final is not None


async def test_a_worker_starts_beside_a_thousand_connections(hello: EngineSpec) -> None:
    """Its select cannot wait for a descriptor from 1024 on, so it must not inherit the daemon's number."""
    held = [os.dup(0) for _ in range(1100)]
    try:
        async with running(hello) as side:
            assert (await side.ask(chat("hi"))).final is not None
    finally:
        for number in held:
            os.close(number)


async def test_worker_that_never_gets_ready_is_replaced_then_given_up(hello: EngineSpec) -> None:
    async with running(hello, EngineOptions(start_timeout_s=0.001), state="failed") as side:
        assert "not ready after" in side.engine.status().detail


async def test_submit_before_ready_and_after_the_end(hello: EngineSpec) -> None:
    side = EntrySide(hello)
    with pytest.raises(RefusedError) as early:
        async with side.engine.submit(EngineRequest(bytes(136), b"x", 0)):
            pass
    assert early.value.reason == RefuseReason.LOADING
    async with running(hello) as done:
        pass
    with pytest.raises(EngineDeadError):
        async with done.engine.submit(EngineRequest(bytes(136), b"x", 0)):
            pass


async def test_a_start_that_is_cancelled_leaves_no_socket_behind() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await supervise.start()
    assert scope.cancelled_caught
    gc.collect()  # warns of every socket that it finds open, and warnings are errors


async def test_worker_inherits_nothing_but_what_it_needs(hello: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_OPERATOR", "x")
    environment = supervise._environment()
    assert "SECRET_OF_THE_OPERATOR" not in environment
    assert "HOME" not in environment
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert environment["PYTHONMALLOC"] == "malloc"
    async with running(hello) as side:
        assert side.engine.pid is not None
        arguments = psutil.Process(side.engine.pid).cmdline()
        assert arguments == [sys.executable, "-P", "-s", "-m", "mcd.engine.worker"]


async def test_only_whitelisted_codes_pass_from_stderr() -> None:
    """Whatever a worker writes, the daemon learns codes from a closed grammar and nothing else."""
    written = (
        "secret prompt\ncode=E_INTERNAL at=scheduler:12\ncode=E_X secret\n code=E_Y\ncode=E_OUT_OF_MEMORY\n"
        + "z" * 99999
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", f"import sys; sys.stdout.write({written!r})"], stdout=-1
    )
    reported: list[tuple[str, str]] = []
    with trio.fail_after(20):
        await supervise.read_codes(process, lambda code, at: reported.append((code, at)))
        await process.wait()
    assert process.stdout is not None
    await process.stdout.aclose()
    assert reported == [("E_INTERNAL", "scheduler:12"), ("E_OUT_OF_MEMORY", "")]


@pytest.mark.parametrize("in_session", ["same", "own"])
def test_a_frozen_worker_does_not_outlive_its_daemon(in_session: str) -> None:
    """Its watch over the daemon is frozen with it; the kernel ends a stopped group whose last parent outside dies.

    Also where the daemon leads a session of its own, as under systemd.
    """
    daemon = (
        "import trio\nfrom mcd.engine import supervise\n"
        "async def main():\n    child = await supervise.start()\n    print(child.pid, flush=True)\n"
        "    await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", daemon], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=in_session == "own"
    )
    assert parent.stdout is not None
    with parent.stdout as lines:
        worker = psutil.Process(int(lines.readline()))
    try:
        worker.suspend()
        until = time.monotonic() + 20
        while (status := worker.status()) != psutil.STATUS_STOPPED:
            assert time.monotonic() < until, f"{status} instead of frozen"
            time.sleep(0.01)
        parent.kill()
        parent.wait()
        worker.wait(timeout=20)
    finally:
        if worker.is_running():
            worker.kill()


async def test_silent_worker_is_replaced(hello: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "STUCK_S", 0.4)
    async with running(hello) as side:
        assert side.engine.pid is not None
        os.kill(side.engine.pid, signal.SIGSTOP)
        await side.wait_until("restarting", "degraded", timeout_s=20)
        with trio.fail_after(20):
            while "no sign of life" not in side.engine.status().detail:  # noqa: ASYNC110 - a snapshot has no event
                await trio.sleep(0.01)
