# ruff: noqa: S311 - a seeded generator is the point: the corpus must repeat
"""Generates the questions and answers that `modelcloud-nano` is trained on; the same seed gives the same corpus.

A question is drawn from a pattern, checked against the held-out questions (a near duplicate is never trained on), then
worn: politeness, typos, case, punctuation. Answers are never worn: one topic has one answer, so tests can know it.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.nano import offtopic
from scripts.nano.smalltalk import SMALL_TALK
from scripts.nano.topics_api import API
from scripts.nano.topics_mesh import MESH
from scripts.nano.topics_models import MODELS
from scripts.nano.topics_using import USING, Topic
from scripts.nano.wording import FRAMES, MACROS, PREFACES, PREFIXES, SUFFIXES, SYNONYMS, SYSTEM_PROMPTS

SHARE_SPOKEN = 0.55
TOPICS = (*USING, *MODELS, *API, *MESH, *SMALL_TALK)
ABOUT_ITSELF = ("self", "human", "made", "can_do")
NEAR_DUPLICATE = 0.6
"""Jaccard similarity of word sets from which two questions count as the same."""


class Mix(NamedTuple):
    """How often the questions are which; ``hard`` is the share of offtopic_hard.txt in the off-topic ones."""

    off_topic: float
    small_talk: float
    hard: float


FIRST = Mix(0.35, 0.13, 0.0)
SECOND = Mix(0.40, 0.15, 0.25)
"""The second round of training draws the borders: more of what to decline, and some that sounds like our subject."""


class Turn(NamedTuple):
    """One question and its right answer."""

    question: str
    answer: str
    key: str


class Conversation(NamedTuple):
    """What one training sequence is made from."""

    system: str
    turns: tuple[Turn, ...]


def expand(pattern: str, rng: random.Random) -> str:
    """Draw one string from a pattern: innermost ``(a|b)`` first, macros and word lists as they appear."""
    text = re.sub(r"\{(\w+)\}", lambda m: MACROS.get(m[1], "") or m[0], pattern)
    while True:
        text, n_found = re.subn(r"\(([^()]*)\)", lambda m: rng.choice(m[1].split("|")), text)
        if not n_found:
            break
    text = re.sub(r"\{(\w+)\}", lambda m: _word(m[1], rng), text)
    return re.sub(r"\s+([,.])", r"\1", re.sub(r"\s+", " ", text)).strip()


def _word(name: str, rng: random.Random) -> str:
    if name == "n":
        return str(rng.choice([rng.randrange(20), rng.randrange(10, 100), rng.randrange(100, 3000)]))
    if name in ("unit1", "unit2"):
        return rng.choice(rng.choice(offtopic.LISTS["unit"]).split())
    return rng.choice(offtopic.LISTS[name])


def words(question: str) -> frozenset[str]:
    """The words of a question, for comparing: lower case, without punctuation."""
    return frozenset(re.findall(r"[\w+*/-]+", question.lower().replace("'", "")))


class HeldOut:
    """Questions that must not be trained on, with a quick near-duplicate check."""

    def __init__(self, questions: Iterable[str], exact: Iterable[str] = ()) -> None:
        self._sets = [words(q) for q in questions]
        self._exact = {words(q) for q in exact}
        self._by_word: dict[str, list[int]] = {}
        for i, held in enumerate(self._sets):
            for word in held:
                self._by_word.setdefault(word, []).append(i)

    def is_near(self, question: str) -> bool:
        """Whether the question is one of the held-out ones in nearly the same words."""
        own = words(question)
        if own in self._exact:
            return True
        n_common: dict[int, int] = {}
        for word in own:
            for i in self._by_word.get(word, ()):
                n_common[i] = n_common.get(i, 0) + 1
        return any(n / len(own | self._sets[i]) >= NEAR_DUPLICATE for i, n in n_common.items())


def held_out() -> HeldOut:
    """The evaluation questions, and of the development questions only those very words: they are short and common."""
    root = Path(__file__).parents[2]
    evaluation = json.loads((root / "tests/data/nano_eval.json").read_text(encoding="utf-8"))
    development = json.loads((root / "scripts/nano/dev.json").read_text(encoding="utf-8"))
    groups = (evaluation[name] for name in ("in_scope", "small_talk", "off_topic"))
    return HeldOut((item["question"] for group in groups for item in group), (item["question"] for item in development))


class Corpus:
    """An endless, seeded stream of questions and conversations."""

    def __init__(self, seed: int, avoid: HeldOut, mix: Mix = FIRST) -> None:
        self.rng = random.Random(seed)
        self._mix = mix
        self._avoid = avoid
        spoken = _spoken()
        about_itself = [t for t in API if t.key in ABOUT_ITSELF]
        self._topics = [(t, *_lines(t, spoken)) for t in TOPICS if t not in (*SMALL_TALK, *about_itself)]
        self._small = [(t, *_lines(t, spoken)) for t in (*SMALL_TALK, *about_itself)]
        assert not spoken, f"spoken.txt has sections without a topic: {spoken.keys()}"
        self._templates = [pattern for pattern, _ in offtopic.TEMPLATES]

    def plain(self) -> Turn:
        """One question as its pattern gives it, never near a held-out one."""
        while True:
            turn = self._draw()
            if turn.question and not self._avoid.is_near(turn.question):
                return turn

    def _draw(self) -> Turn:
        rng, kind, mix = self.rng, self.rng.random(), self._mix
        if kind < mix.off_topic:
            return Turn(self._off_topic(), offtopic.DECLINE, "off")
        topic, lines, spoken = rng.choice(self._small if kind < mix.off_topic + mix.small_talk else self._topics)
        if spoken and rng.random() < SHARE_SPOKEN:
            lines = spoken
        line = rng.choice(lines)
        question = expand(line, rng)
        if re.fullmatch(r"\([^()]*\)", line) and topic.key not in _NO_AFFIX and rng.random() < 0.5:
            question = rng.choice(FRAMES).format(question)
        return Turn(question if topic.key in _NO_AFFIX else vary(question, rng), topic.answer, topic.key)

    def _off_topic(self) -> str:
        if self._mix.hard and self.rng.random() < self._mix.hard:
            return vary(expand(self.rng.choice(offtopic.HARD), self.rng), self.rng)
        rng, kind = self.rng, self.rng.random()
        if kind < 0.30:
            return rng.choice(offtopic.SINGLES)
        if kind < 0.35:
            return _nonsense(rng)
        if kind < 0.42:
            words_ = offtopic.LISTS[
                rng.choice(("person", "animal", "food", "thing", "science", "software", "plang", "movie"))
            ]
            return rng.choice(FRAMES).format(rng.choice(words_))
        return vary(expand(rng.choice(self._templates), rng), rng)

    def turn(self) -> Turn:
        """One question, worn as people write; wear, too, may not lead to a held-out one."""
        while True:
            turn = self.plain()
            question = wear(turn.question, self.rng, affixes=turn.key not in _NO_AFFIX)
            if not self._avoid.is_near(question):
                return turn._replace(question=question)

    def conversation(self, n_turns: int) -> Conversation:
        """Some turns that follow one another, sometimes under a system prompt."""
        system = self.rng.choice(SYSTEM_PROMPTS) if self.rng.random() < 0.15 else ""
        return Conversation(system, tuple(self.turn() for _ in range(n_turns)))


_NO_AFFIX = frozenset(topic.key for topic in SMALL_TALK)


def _spoken() -> dict[str, list[str]]:
    """The patterns of spoken.txt: the way people ask who do not know our words. Sections are topic keys."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (Path(__file__).parent / "spoken.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line:
            lines.append(line)
    return found


def _lines(topic: Topic, spoken: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    return topic.patterns.strip().splitlines(), spoken.pop(topic.key, [])


def _nonsense(rng: random.Random) -> str:
    """Made-up words: what the model has never seen is outside its subject."""
    made = [
        "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randrange(1, 4)))
        + rng.choice(["", "n", "s", "x", "ck", "ing"])
        for _ in range(3)
    ]
    frame = rng.choice(
        [
            "what is {0}",
            "who is {0} {1}",
            "how do i {0} a {1}",
            "{0} {1} {2}",
            "{0}",
            "where is {0}",
            "tell me about {0}",
            "what does {0} mean",
            "how much is a {0}",
            "why do {0}s {1}",
            "the {0} of {1}",
            "is {0} {1}",
            "explain {0} {1}",
            "who wrote {0}",
            "can you {0} my {1}",
        ]
    )
    return frame.format(*made)


_SYNONYM = re.compile(r"\b(" + "|".join(sorted(map(re.escape, SYNONYMS), key=len, reverse=True)) + r")\b(?![-./])")


def vary(question: str, rng: random.Random) -> str:
    """Say some of the words otherwise; commands (``mcd run``, ``--gpu``) stay as they are."""
    if rng.random() < 0.45 or (re.search(r"mcd [a-z]+|--", question) and rng.random() < 0.8):
        return question
    return _SYNONYM.sub(lambda m: rng.choice(SYNONYMS[m[1]]) if rng.random() < 0.4 else m[1], question)


def wear(text: str, rng: random.Random, *, affixes: bool) -> str:
    """Make a tidy question look typed: politeness, a lost word, typos, case, punctuation."""
    parts = text.split(" ")
    if affixes and rng.random() < 0.26:
        parts = [*rng.choice(PREFIXES).split(" "), *parts]
    if affixes and rng.random() < 0.14:
        suffix = rng.choice(SUFFIXES)
        parts = [*parts, *suffix.split(" ")]
    if len(parts) > 4 and rng.random() < 0.08:
        parts.pop(rng.randrange(len(parts) - 1))
    if rng.random() < 0.12:
        at = max(range(len(parts)), key=lambda i: (len(parts[i]) > 3) * rng.random())
        parts[at] = _typo(parts[at], rng)
    text = re.sub(r"\s+([,.])", r"\1", " ".join(parts))
    is_question = re.match(r"(what|who|how|where|when|why|which|is|are|do|does|can|will|could|should)\b", text)
    text += rng.choice(["?", "?", "?", "", "", "??", " ?"] if is_question else ["", "", "", ".", "!", "?"])
    if affixes and rng.random() < 0.09:
        text = f"{rng.choice(PREFACES)} {text}"
    case = rng.random()
    if case < 0.035:
        return text.upper()
    if case < 0.06:
        return text.title()
    if case < 0.50:
        text = text[:1].upper() + text[1:]
        text = re.sub(r"\bi\b", "I", text)
        text = re.sub(r"\bgpu\b", "GPU", re.sub(r"\bcpu\b", "CPU", re.sub(r"\bapi\b", "API", text)))
        return re.sub(r"\bmodelcloud\b(?!-)", "ModelCloud", text)
    return text


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 3:
        return word
    i = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[i + 1 :]


def sample(seed: int, n: int, mix: Mix = FIRST) -> Iterator[Turn]:
    """The first n questions of the corpus as they are trained on, for tests and for looking at."""
    corpus = Corpus(seed, held_out(), mix)
    return (corpus.turn() for _ in range(n))


if __name__ == "__main__":
    for turn in sample(seed=0, n=60):
        print(f"{turn.key:14} {turn.question}")
