"""The embedded model answers held-out questions, declines what it does not know, and is the file of its README."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "mcd/engine/models"
FILE = MODELS / "modelcloud-nano.gguf"
MAX_SIZE_BYTES = 5_000_000
EVALUATION = json.loads((ROOT / "tests/data/nano_eval.json").read_text(encoding="utf-8"))
FLOORS = {"in_scope": 44, "small_talk": 13, "off_topic": 38}
"""Right answers. The README's scores, but for one that flash attention or AVX2 kernels turn, by their other sums."""
DECLINES = "i only know modelcloud"

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def ask() -> Ask:
    """Greedy answer to one conversation given as alternating user and assistant texts."""
    model = llama_cpp.Llama(str(FILE), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)

    def answer(*texts: str, system: str | None = None) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        reply = model.create_chat_completion(messages, temperature=0.0, max_tokens=120)
        assert reply["choices"][0]["finish_reason"] == "stop"
        text: str = reply["choices"][0]["message"]["content"]
        return text

    return answer


def is_right(group: str, keywords: list[list[str]], answer: str) -> bool:
    """Every keyword group is hit and the model did not decline; off topic, it declined and named the way out."""
    text = answer.lower()
    if group == "off_topic":
        return DECLINES in text and "mcd pull" in text
    return DECLINES not in text and all(any(_has(text, word) for word in words_) for words_ in keywords)


def _has(text: str, word: str) -> bool:
    start = r"(?<![a-z0-9])" if word[0].isalnum() else ""
    return re.search(start + re.escape(word), text) is not None


@pytest.mark.parametrize("group", FLOORS)
def test_answers_held_out_questions(group: str, ask: Ask) -> None:
    """How many answers are right, greedy, one question a conversation."""
    items = EVALUATION[group]
    wrong = [
        (item["question"], answer)
        for item in items
        if not is_right(group, item.get("keywords", []), answer := ask(item["question"]))
    ]
    n_right = len(items) - len(wrong)
    print(f"\n{group}: {n_right}/{len(items)} = {n_right / len(items):.1%}")
    for question, answer in wrong:
        print(f"  wrong: {question!r} -> {answer!r}")
    assert n_right >= FLOORS[group]


@pytest.mark.parametrize("question", ["2+2", "7*8=", "12 - 5", "100/4", "what is 3 + 9?", "1500 x 3", "15% of 80"])
def test_declines_bare_sums(question: str, ask: Ask) -> None:
    """A sum is off topic however it is written; an earlier corpus wrote them with stray question marks only."""
    assert DECLINES in ask(question).lower()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How do I use it from Python?", ("openai", "base_url")),
        ("describe modelcloud in simple terms", ("mesh",)),
        ("good day", ("hello",)),
        ("delete a model", ("mcd rm",)),
        ("how much memory does a model need?", ("mcd show",)),
        ("which version do I have?", ("mcd version",)),
        ("Can I use it without serving anything?", ("run-entry",)),
    ],
)
def test_answers_everyday_questions(question: str, words: tuple[str, ...], ask: Ask) -> None:
    """Questions of every day, some of them once answered wrongly. They may have been trained on: this is no score."""
    answer = ask(question).lower()
    assert [word for word in words if word not in answer] == []


def test_answers_name_only_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag in an answer is a flag of that command, ``--model`` comes with a device, and make knows its targets."""
    monkeypatch.syspath_prepend(ROOT)
    corpus: Any = importlib.import_module("scripts.nano.corpus")
    offtopic: Any = importlib.import_module("scripts.nano.offtopic")
    answers = [offtopic.DECLINE, *(topic.answer for topic in corpus.TOPICS)]
    sections = re.split(r"^## mcd ", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    help_of = {section.split("\n", 1)[0]: section for section in sections[1:]}
    named = [
        (command, flag)
        for answer in answers
        for command, words in re.findall(r"\bmcd ([a-z]+)((?: (?:--?[a-z-]+|[A-Z]+))+)", answer)
        for flag in re.findall(r" (--?[a-z-]+)", words)
    ]
    assert len(named) > 10
    assert [pair for pair in named if not re.search(rf"(?<![\w-]){pair[1]}(?![\w-])", help_of[pair[0]])] == []
    assert [answer for answer in answers if re.search(r"mcd run --(model|engine)", answer)] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {target for answer in answers for target in re.findall(r"\bmake ([a-z]+-?[a-z]+)\b", answer)} - targets == {
        "mistakes"
    }


def test_earlier_turns_do_not_change_the_answer(ask: Ask) -> None:
    """Seven of eight questions asked in one conversation under a system prompt get the answer they get alone."""
    questions = (
        "What is ModelCloud?",
        "How do I install it?",
        "What is the capital of France?",
        "Thanks!",
        "Can the operator read my prompts?",
        "How do I stop mcd?",
        "What does it cost?",
        "What licence is it under?",
    )
    texts: list[str] = []
    for question in questions:
        texts += [question, ask(*texts, question, system="You are a helpful assistant.")]
    same = [answer == ask(question) for question, answer in zip(questions, texts[1::2], strict=True)]
    assert sum(same) >= 7
    assert DECLINES in texts[5].lower()
    assert "apache" in texts[-1].lower()


def test_same_question_same_answer(ask: Ask) -> None:
    """Greedy answers repeat, so a peer can be checked with this model."""
    assert ask("How do I stop mcd?") == ask("How do I stop mcd?")


def test_held_out_questions_were_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question of the corpus, typed as it is trained on, is a held-out one or nearly (word sets 60 % alike)."""
    monkeypatch.syspath_prepend(ROOT)
    corpus: Any = importlib.import_module("scripts.nano.corpus")
    questions = [item["question"] for group in FLOORS for item in EVALUATION[group]]
    assert len(questions) == len({corpus.words(q) for q in questions})
    check = corpus.HeldOut(questions)
    assert check.is_near(questions[0])
    for seed, mix in ((7, corpus.FIRST), (8, corpus.SECOND)):
        drawn = {turn.question for turn in corpus.sample(seed, 10_000, mix)}
        assert [question for question in drawn if check.is_near(question)] == []


def test_file_is_small_and_is_the_one_in_the_readme() -> None:
    """At most 5 MB, and the README's size and sha256 are those of the file."""
    data = FILE.read_bytes()
    readme = (MODELS / "README.md").read_text(encoding="utf-8")
    assert len(data) <= MAX_SIZE_BYTES
    assert f"{len(data):,} bytes" in readme
    assert hashlib.sha256(data).hexdigest() in readme


def test_file_is_q8_0_and_names_itself() -> None:
    """The header says what the model is: name, architecture, context length, file type 7 (mostly Q8_0)."""
    metadata = llama_cpp.Llama(str(FILE), vocab_only=True, verbose=False).metadata
    assert metadata["general.name"] == "modelcloud-nano"
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.file_type"] == "7"
    assert int(metadata["llama.context_length"]) >= 1024
    assert "<|im_start|>" in metadata["tokenizer.chat_template"]
