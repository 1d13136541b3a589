"""The llama.cpp backend in real worker processes: batching, reuse, cancel, crash, resume."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from mcd.api.request import ChatMessage, ChatRequest, CompletionRequest, ResponseFormat
from mcd.api.tasks import DetokenizeRequest, TokenizeRequest
from mcd.engine.backend import Job
from mcd.engine.catalogue import EngineSpec, resolve
from mcd.engine.compiling import Compiling
from mcd.engine.load import open_llama
from mcd.engine.messages import CREDIT_CHUNKS, EngineOptions
from mcd.engine.rendering import Rendering
from mcd.errors import EngineDeadError
from mcd.ports import EngineChunk
from tests.fakes import gguf_make
from tests.fakes.engine_entry import Answer, EntrySide, chat, running
from tests.integration.test_engine_resume import Shown

FOUR = EngineOptions(n_threads=1, n_slots=4)
ONE = EngineOptions(n_threads=1, n_slots=1)
SIXTEEN = EngineOptions(n_threads=1, n_slots=16)
QUESTIONS = (
    "what is mcd?", "how do I start a node?", "who can read my prompt?", "hello", "how much does it cost?",
    "what is a provider?", "how do I use the API?", "what is a relay?", "thanks", "what is gossip?",
)  # fmt: skip
WORDS = ["mesh", "peer", "seal", "token", "router", "stream", "model", "engine", "price", "voucher", "relay", "gossip"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    path = gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf", text_only=True)
    return EngineSpec(alias="tiny", backend="llama", source=str(path))


@pytest.fixture(scope="module")
def nano() -> EngineSpec:
    """The trained model, for what must be equal token for token: its choices are no near ties."""
    return resolve((), Path("/nowhere"), "llama")[0]


def prompts(n: int, seed: int = 1) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(3, 30))) for _ in range(n)]


async def ask_all(side: EntrySide, requests: list[ChatRequest], **how: object) -> list[Answer]:
    answers: list[Answer | None] = [None] * len(requests)

    async def one(index: int) -> None:
        answers[index] = await side.ask(requests[index], **how)

    async with trio.open_nursery() as nursery:
        for index in range(len(requests)):
            nursery.start_soon(one, index)
    return [answer for answer in answers if answer is not None]


async def wait_idle(side: EntrySide) -> None:
    with trio.fail_after(20):
        while (side.engine.status().n_running, side.engine.status().n_waiting) != (0, 0):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def fill_every_cell(side: EntrySide, **members: object) -> None:
    """As many requests of the full context as there are slots, all at once: impossible if a cell or slot leaked.

    Most of it is prompt, which is computed many tokens at a time.
    """
    status = side.engine.status()
    fill = "x" * (status.n_ctx - 100)  # each a token; some more are the template's
    answers = await ask_all(side, [chat(fill, temperature=0.0, **members)] * status.n_slots)
    for answer in answers:
        assert answer.final is not None
        assert answer.final.finish_reasons == ("length",)
        assert answer.n_prompt_tokens + len(answer.tokens) == status.n_ctx


async def test_batched_answers_equal_single_ones(nano: EngineSpec) -> None:
    requests = [chat(text, temperature=0.0, max_tokens=40) for text in QUESTIONS]
    async with running(nano, ONE) as side:
        single = [await side.ask(request) for request in requests]
    async with running(nano, FOUR) as side:
        batched = await ask_all(side, requests)
    assert [a.tokens for a in batched] == [a.tokens for a in single]
    assert [a.text for a in batched] == [a.text for a in single]
    assert len({a.text for a in single}) > 5


async def test_counts_in_clear_sealed_and_signed_agree(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        for answer in await ask_all(side, [chat(text, max_tokens=30, seed=3) for text in prompts(5)]):
            assert answer.final is not None
            assert answer.receipt is not None
            assert answer.finished is not None
            usage = answer.final.usage
            assert len(answer.tokens) == answer.n_clear_tokens == usage.n_output_tokens == 30
            assert answer.receipt.n_output_tokens == answer.finished.n_output_tokens == 30
            assert answer.receipt.n_prompt_tokens == usage.n_prompt_tokens == answer.n_prompt_tokens
            assert answer.receipt.output_digest == answer.final.output_digest


async def test_seed_repeats_and_seeds_differ(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        texts = [(await side.ask(chat("x", seed=seed, temperature=1.5, max_tokens=30))).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


async def test_prefix_is_reused_within_a_salt_only(tiny: EngineSpec) -> None:
    request = chat(" ".join(WORDS * 3), temperature=0.0, max_tokens=8)
    async with running(tiny, FOUR) as side:
        first = await side.ask(request, salt="mine")
        again = await side.ask(request, salt="mine")
        other = await side.ask(request, salt="theirs")
        nobody = [await side.ask(request), await side.ask(request)]
    cached = [a.final.usage.n_cached_tokens for a in (first, again, other, *nobody) if a.final is not None]
    assert cached == [0, first.n_prompt_tokens - 1, 0, 0, 0]
    assert len({a.tokens for a in (first, again, other, *nobody)}) == 1


async def test_requests_arriving_together_prefill_their_prefix_once(tiny: EngineSpec) -> None:
    system = ChatMessage(role="system", content=" ".join(WORDS * 3))
    requests = [
        ChatRequest(model="m", messages=(system, ChatMessage(role="user", content=text)), temperature=0.0, max_tokens=4)
        for text in prompts(15, seed=6)
    ]
    async with running(tiny, SIXTEEN) as side:
        assert side.engine.status().n_ctx == 512
        alone = [await side.ask(request) for request in requests]
        together = await ask_all(side, requests, salt="team")
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    cached = sorted(a.final.usage.n_cached_tokens for a in together if a.final is not None)
    assert cached[0] == 0
    assert cached[1] > 100


async def test_choices_share_the_prompt(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        answer = await side.ask(chat("three of them", n=6, seed=1, temperature=1.5, max_tokens=12))
    assert answer.final is not None
    assert answer.final.finish_reasons == ("length",) * 6
    assert answer.final.usage.n_output_tokens == 72
    assert len({answer.choice(index) for index in range(6)}) == 6


def test_prompts_that_begin_alike_are_computed_once(tiny: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all of them wait in one step: choices of a request, and requests that were written meanwhile."""
    engine = open_llama(tiny.source, EngineOptions(n_threads=1, n_slots=8), Rendering.start(), Compiling.start())
    batch, add, n_rows = engine._scheduler._batch, engine._scheduler.add, [0]
    decode, held = batch.decode, []

    def counting(context: Any) -> int:
        n_rows[0] += batch.n_rows
        return decode(context)

    def run(until: Callable[[], bool]) -> None:
        while not until():
            select.select(engine.wakers(), [], [], engine.wait_s(0.0))
            engine.step(0.0)

    monkeypatch.setattr(batch, "decode", counting)
    monkeypatch.setattr(engine._scheduler, "add", held.append)
    long, shown = " ".join(WORDS * 5), [Shown() for _ in range(4)]
    for index, one in enumerate(shown):
        request = chat(f"{long} {index}", max_tokens=1, temperature=0.0, n=2)
        engine.submit(Job(index, request, one, cache_salt="mine"))
    run(lambda: len(held) == 8)
    for sequence in held:
        add(sequence)
    run(lambda: all(one.end is not None for one in shown))
    engine.close()
    usages = [one.end[1] for one in shown if one.end is not None]
    n_prompt = usages[0].n_prompt_tokens
    assert n_prompt > 200
    assert n_rows[0] < n_prompt + 8 * 32
    assert sorted(usage.n_cached_tokens > 200 for usage in usages) == [False, True, True, True]


async def test_a_repeat_penalty_makes_repeats_rarer(tiny: EngineSpec) -> None:
    """llama.cpp's own parameter was ignored."""
    async with running(tiny, ONE) as side:
        said = [
            (await side.ask(chat("go", temperature=0.0, max_tokens=40, repeat_penalty=penalty))).tokens
            for penalty in (1.0, 1.5)
        ]
    assert len(set(said[1])) > len(set(said[0]))


async def test_stop_string_is_never_shown(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        free = await side.ask(chat("stop", temperature=0.0, max_tokens=60))
        stop = free.text[20:23]
        stopped = await side.ask(chat("stop", temperature=0.0, max_tokens=60, stop=(stop,)))
    assert stopped.final is not None
    assert stopped.final.finish_reasons == ("stop",)
    assert stopped.text == free.text.partition(stop)[0]


async def test_logprobs_are_those_of_the_chosen_tokens(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        answer = await side.ask(chat("p", temperature=0.0, max_tokens=10, logprobs=True, top_logprobs=3))
    logprobs = [entry for delta in answer.deltas for entry in delta.logprobs]
    assert len(logprobs) == 10
    for entry in logprobs:
        assert entry.logprob <= 0.0
        assert len(entry.top) == 3
        assert entry.top[0].token == entry.token
        assert entry.top[0].logprob == pytest.approx(entry.logprob)
        assert entry.top[0].logprob >= entry.top[1].logprob >= entry.top[2].logprob


async def test_too_long_is_said_sealed_and_costs_nothing(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        for request in (chat("word " * 600), chat("short", max_tokens=510)):
            answer = await side.ask(request)
            assert answer.failure is not None
            assert answer.failure.code == "context_length_exceeded"
            assert answer.final is None
            assert answer.receipt is not None
            assert (answer.receipt.n_prompt_tokens, answer.receipt.n_output_tokens) == (0, 0)
        await fill_every_cell(side)


@pytest.mark.parametrize("n_ctx", [1, 16])
async def test_a_short_context_is_the_models_own(tmp_path: Path, n_ctx: int) -> None:
    """Beyond it the model was never trained; of models with learned positions llama.cpp would read past their end."""
    path = gguf_make.make(tmp_path / "short.gguf", text_only=True, n_ctx=n_ctx)
    async with running(EngineSpec(alias="short", backend="llama", source=str(path)), FOUR) as side:
        assert side.engine.status().n_ctx == n_ctx
        long = await side.ask(CompletionRequest(model="short", prompt=(5,) * n_ctx, max_tokens=1))
        assert long.failure is not None
        assert long.failure.code == "context_length_exceeded"
        if n_ctx > 1:
            whole = CompletionRequest(model="short", prompt=(5,) * (n_ctx - 4), temperature=0.0)
            for answer in await ask_all(side, [whole] * side.engine.status().n_slots):
                assert answer.n_prompt_tokens + len(answer.tokens) == n_ctx


async def test_model_without_template_says_so(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "base.gguf", template=None)
    async with running(EngineSpec(alias="base", backend="llama", source=str(path)), FOUR) as side:
        assert side.engine.status().capabilities == ("completions", "tokenize")
        assert "chat template" in side.engine.status().detail
        answer = await side.ask(chat("hello"))
        assert answer.failure is not None
        assert "no chat template" in answer.failure.message


@pytest.mark.spec("ENV-50")
async def test_a_completion_goes_on_with_its_prompt_as_it_is(nano: EngineSpec) -> None:
    """The prompt that a chat's template writes, given as text and as ids, has the chat's answer."""
    asked = chat("what is mcd?", temperature=0.0, max_tokens=30)
    how: dict[str, Any] = {"model": "nano", "temperature": 0.0, "max_tokens": 30}
    async with running(nano, FOUR) as side:
        answered = await side.ask(asked)
        ids = tuple((await side.ask(TokenizeRequest(model="nano", chat=asked))).ids)
        text = (await side.ask(DetokenizeRequest(model="nano", tokens=ids))).joined
        for prompt in (ids, text):
            same = await side.ask(CompletionRequest(prompt=prompt, **how))
            assert (same.n_prompt_tokens, same.tokens, same.text) == (len(ids), answered.tokens, answered.text)
        other = await side.ask(CompletionRequest(prompt="what is mcd?", **how))
        assert other.n_prompt_tokens < len(ids)
        assert other.tokens != answered.tokens
        cut = answered.tokens[:7]
        rest = await side.ask(CompletionRequest(prompt=text, **how), resume=cut)
        assert rest.tokens == answered.tokens[7:]
        stopped = await side.ask(CompletionRequest(prompt=text, n=2, stop=(answered.text[12:16],), **how))
        assert [stopped.choice(0), stopped.choice(1)] == [answered.text[:12]] * 2
        await wait_idle(side)


async def test_a_completion_that_cannot_be_is_refused_with_its_prompt_named(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "base.gguf", template=None)
    async with running(EngineSpec(alias="base", backend="llama", source=str(path)), FOUR) as side:
        for prompt, code in (
            ("word " * 600, "context_length_exceeded"),
            ((5, 2**31 - 1), "invalid_request"),
            ((), "invalid_request"),
        ):
            refused = await side.ask(CompletionRequest(model="base", prompt=prompt))
            assert refused.failure is not None
            assert (refused.failure.code, refused.failure.param) == (code, "prompt")
        answer = await side.ask(CompletionRequest(model="base", prompt="once", max_tokens=5, temperature=0.0))
        assert len(answer.tokens) == 5
        await wait_idle(side)


async def test_leaving_frees_the_slot_within_a_step(tiny: EngineSpec) -> None:
    async with running(tiny, ONE) as side:
        request, _ = side.seal(chat("long", temperature=0.0))
        async with side.engine.submit(request) as events:
            async for event in events:
                if isinstance(event, EngineChunk):
                    break
        with trio.fail_after(5):
            answer = await side.ask(chat("next", max_tokens=3))
        assert len(answer.tokens) == 3
        await wait_idle(side)
        await fill_every_cell(side)


@pytest.mark.spec("ENV-38")
@pytest.mark.parametrize("n", [1, 3])
async def test_a_cancelled_answer_is_counted_and_its_slots_are_free(tmp_path: Path, n: int) -> None:
    path = gguf_make.make(tmp_path / "long.gguf", text_only=True, n_ctx=2048)  # not over before it is taken back
    async with running(EngineSpec(alias="long", backend="llama", source=str(path)), FOUR) as side:
        answer = await side.ask_and_cancel(chat("long", temperature=0.0, n=n), 1)
        assert answer.final is not None
        assert answer.final.finish_reasons == ("cancelled",) * n
        assert len(answer.tokens) > 0
        await wait_idle(side)
        await fill_every_cell(side)


@pytest.mark.spec("ENV-38")
async def test_what_is_cancelled_before_its_prompt_is_written_ends_readably(tiny: EngineSpec) -> None:
    """Its end came without the start before it, which the port promises and which brings the key to open it."""
    async with running(tiny, ONE) as side:
        answer, (sealed, opener) = Answer(), side.seal(chat("never"))
        assert side.engine.pid is not None
        os.kill(side.engine.pid, signal.SIGSTOP)  # it finds both when it goes on
        async with side.engine.submit(sealed) as events:
            events.cancel()
            await trio.testing.wait_all_tasks_blocked()
            os.kill(side.engine.pid, signal.SIGCONT)
            async for event in events:
                side.take(answer, opener, event)
    assert answer.final is not None
    assert answer.final.finish_reasons == ("cancelled",)
    assert (answer.final.usage.n_prompt_tokens, answer.final.usage.n_output_tokens) == (0, 0)


async def test_slow_reader_pauses_its_own_slot_only(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "wide.gguf", text_only=True, n_ctx=16_384)
    async with running(EngineSpec(alias="wide", backend="llama", source=str(path)), FOUR) as side:
        request, opener = side.seal(chat("slow", temperature=0.0, max_tokens=16_000))
        slow = Answer()
        async with side.engine.submit(request) as events:
            side.take(slow, opener, await anext(events))
            # unread for longer than its credit lasts, while others come and go
            until = trio.current_time() + CREDIT_CHUNKS * 0.1 + 1.5
            while trio.current_time() < until:
                assert len((await side.ask(chat("quick", max_tokens=5))).tokens) == 5
            assert side.engine.status().n_running == 1
            with trio.fail_after(120):
                async for event in events:
                    side.take(slow, opener, event)
                    if slow.n_clear_tokens > 500 and slow.n_chunks > CREDIT_CHUNKS + 8:
                        break
        await wait_idle(side)
    assert slow.n_chunks > CREDIT_CHUNKS


def test_the_loop_rests_while_slow_readers_hold_all_slots(tmp_path: Path) -> None:
    """Choices without a slot kept it turning, a whole core, for as long as the reader of the others paused."""
    path = gguf_make.make(tmp_path / "three.gguf", text_only=True)
    backend = open_llama(str(path), EngineOptions(n_threads=1, n_slots=2), Rendering.start(), Compiling.start())
    shown = Shown()
    backend.submit(Job(1, chat("three", n=3, max_tokens=20), shown))

    def go_on() -> None:
        select.select(backend.wakers(), [], [], backend.wait_s(0.0))
        backend.step(0.0)

    while len(shown.pieces) < 4:
        go_on()
    backend.pause(1, is_paused=True)
    backend.step(0.0)
    assert (backend.load(), backend.wait_s(0.0)) == ((2, 1), None)
    backend.submit(Job(2, chat("next", max_tokens=2), other := Shown()))
    backend.pause(1, is_paused=False)
    while shown.end is None or other.end is None:
        go_on()
    assert len(shown.tokens) > 4
    backend.close()


@pytest.mark.spec("EX-46")
def test_the_choices_of_a_request_leave_the_slot_that_is_spared_for_another_asker(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "spared.gguf", text_only=True)
    backend = open_llama(str(path), FOUR, Rendering.start(), Compiling.start())
    many, other = Shown(), Shown()
    backend.submit(Job(1, chat("many", n=6, max_tokens=40), many, asker=1, max_slots=3))
    backend.submit(Job(2, chat("once more", max_tokens=40), Shown(), asker=1, max_slots=3))
    while backend.load() != (3, 4):
        backend.step(0.0)
    quick = CompletionRequest(model="spared", prompt="other", max_tokens=2)  # no template: it waits for no process
    backend.submit(Job(3, quick, other, asker=2, max_slots=3))
    while other.end is None:
        backend.step(0.0)
    assert (many.end, backend.load()) == (None, (3, 4))
    while many.end is None:
        backend.step(0.0)
    backend.close()


@pytest.mark.timed
async def test_killed_process_is_noticed_and_replaced(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        before = side.engine.keys()
        request, _ = side.seal(chat("doomed", temperature=0.0))
        async with side.engine.submit(request) as events:
            await anext(events)
            pid = side.engine.pid
            assert pid is not None
            killed_at = trio.current_time()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError):
                async for _ in events:
                    pass
            assert trio.current_time() - killed_at < 1.0
        assert side.engine.status().state == "restarting"
        assert side.engine.keys().configs == ()
        await side.wait_until("ready")
        assert side.engine.status().restarts == 1
        assert side.engine.keys().certificate != before.certificate
        assert len((await side.ask(chat("again", max_tokens=5))).tokens) == 5


async def test_nothing_leaks_over_many_requests_and_cancels(tiny: EngineSpec) -> None:
    """300 requests of every kind, a third of them left early: afterwards every slot and cell is free."""
    choose = random.Random(11)
    outcomes: dict[str, int] = {}

    async def one(side: EntrySide, text: str) -> None:
        members = {"max_tokens": choose.choice([1, 5, 20, 60]), "temperature": choose.choice([0.0, 1.0])}
        kind = choose.choice(["plain", "plain", "left", "left", "choices", "long", "schema"])
        if kind == "choices":
            members["n"] = 3
        if kind == "long":
            text = text * 40
        patience_s = choose.random() * 0.1 if kind == "left" else 60.0
        with trio.move_on_after(patience_s):
            answer = await side.ask(chat(text, **members), salt=choose.choice(["", "a", "b"]))
            outcomes[kind] = outcomes.get(kind, 0) + 1
            assert (answer.final is None) == (answer.failure is not None)

    async with running(tiny, FOUR) as side:
        limiter = trio.CapacityLimiter(24)

        async def limited(text: str) -> None:
            async with limiter:
                await one(side, text)

        async with trio.open_nursery() as nursery:
            for text in prompts(300, seed=12):
                nursery.start_soon(limited, text)
        await wait_idle(side)
        await fill_every_cell(side)
        assert side.engine.status().restarts == 0
    assert {"plain", "choices", "long"} <= outcomes.keys()


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"temperature": 0.0, "repeat_penalty": 1.5},
        {"temperature": 0.0, "stop": ("qz",)},
    ],
    ids=["greedy", "penalties", "repeats", "stop"],
)
async def test_resume_equals_the_unbroken_stream(nano: EngineSpec, members: dict[str, object]) -> None:
    request = chat("what is mcd?", max_tokens=48, **members)
    cuts = random.Random(3).sample(range(1, 30), 8)
    async with running(nano, FOUR) as side:
        whole = await side.ask(request)
        assert len(whole.tokens) > 30
        for cut in cuts:
            rest = await side.ask(request, resume=whole.tokens[:cut])
            assert rest.tokens == whole.tokens[cut:]
            assert whole.text.endswith(rest.text)
            assert rest.final is not None
            assert whole.final is not None
            assert rest.final.finish_reasons == whole.final.finish_reasons
            assert rest.final.usage.n_output_tokens == len(whole.tokens) - cut


async def test_seeded_resume_stays_on_the_generators_track(tiny: EngineSpec) -> None:
    """Draws are replayed one a token. Logits of a prefill and of decodes differ in the seventh digit, which may turn
    round two candidates of a flat random model: most cuts must agree, and without the replay none would."""
    request = chat("resume me", max_tokens=48, temperature=1.2, seed=5)
    async with running(tiny, FOUR) as side:
        whole = await side.ask(request)
        rests = [(cut, await side.ask(request, resume=whole.tokens[:cut])) for cut in range(4, 44, 4)]
    assert sum(rest.tokens == whole.tokens[cut:] for cut, rest in rests) >= len(rests) // 2


async def test_what_is_resumed_with_forged_tokens_ends_alone(tiny: EngineSpec) -> None:
    """llama.cpp ends its process at a token that a grammar does not allow."""
    async with running(tiny, ONE) as side:
        bound = chat("x", max_tokens=20, response_format=ResponseFormat(type="json_object"))
        for forged in ((7, 8, 9), (len(gguf_make.vocabulary()) - 2,), (0,)):
            answer = await side.ask(bound, resume=forged)
            assert answer.failure is not None
            assert (answer.failure.code, answer.failure.param) == ("invalid_request", "resume")
        sealed, opener = side.seal(bound, resume=(ord("{"),))
        lying = msgspec.structs.replace(sealed, resume_from=2)
        answer = Answer()
        async with side.engine.submit(lying) as events:
            async for event in events:
                side.take(answer, opener, event)
        assert answer.failure is not None
        assert answer.failure.param == "resume"
        assert side.engine.status().restarts == 0


async def test_several_choices_are_not_resumed(tiny: EngineSpec) -> None:
    """The tokens do not say which choice they are of."""
    async with running(tiny, ONE) as side:
        answer = await side.ask(chat("x", n=2, max_tokens=5), resume=(5,))
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.param) == ("unsupported_parameter", "n")
    assert answer.tokens == ()


async def test_resume_with_foreign_tokens_is_refused(tiny: EngineSpec) -> None:
    async with running(tiny, FOUR) as side:
        answer = await side.ask(chat("x", max_tokens=10), resume=(4_000_000,))
        assert answer.failure is not None
        assert answer.failure.param == "resume"
