"""What binds an answer, token by token, in real vocabularies: what models write by themselves is let through."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcd.api.request import ChatMessage, ChatRequest, ResponseFormat
from mcd.engine import abi
from mcd.engine.gbnf.constraint import build
from mcd.engine.guide import Guide
from mcd.engine.model import Model
from mcd.engine.parsers.families import family_of, may_think
from mcd.engine.parsers.syntax import Family
from tests.fakes import gguf_make, templates
from tests.fakes.turns import TOOLS, turn
from tests.unit.test_parser_families import ARGUMENTS, ONE_CALL_ONLY, THINKERS, WRITERS

PAIRS = (b"><", b"}[", b"}<", b">", b">\n\n", b"]<")
VOCABULARIES = ("bytes", "qwen2", "llama-bpe", "gemma-4")
"""Of single bytes; with ``<tool_call>`` as a token; with ids in many pieces; with marks as control tokens."""


class Words:
    """A vocabulary as `Guide` needs it, and what a text is in it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text.encode(), add_special=False)

    def can_write(self, text: str) -> bool:
        return b"".join(map(self.piece, self.tokens(text))).decode() == text

    def piece(self, token: int) -> bytes:
        return self.model.piece(token, special=True)


@pytest.fixture(scope="module", params=VOCABULARIES)
def words(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Words]:
    lib = abi.load_library()
    if request.param == "bytes":
        model = Model(lib, str(gguf_make.make(tmp_path_factory.mktemp("models") / "tiny.gguf")))
    else:
        model = _vocabulary(lib, templates.vocabulary(request.param))
    yield Words(model)
    model.close()


def _vocabulary(lib: Any, path: Path) -> Model:
    """A file without weights, which `Model` itself refuses."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = Model.__new__(Model)
    model.lib = lib
    model.handle = lib.llama_model_load_from_file(str(path).encode(), params)
    model.vocab = lib.llama_model_get_vocab(model.handle)
    model.n_vocab = lib.llama_vocab_n_tokens(model.vocab)
    model.end_token = lib.llama_vocab_eos(model.vocab)
    return model


def guide(words: Words, family: Family, thinking: Any = "unknown", *, thinks: bool = True, **members: Any) -> Guide:
    request = ChatRequest(model="m", messages=(ChatMessage(role="user", content="x"),), tools=TOOLS, **members)
    constraint = build(request, family, thinking, may_think=thinks)
    assert constraint is not None
    return Guide(words.model, constraint, words.piece)


def play(words: Words, at_work: Guide, text: str) -> list[str]:
    """Go through a text; the states it leads through. Every token of it must be allowed, or the same in smaller ones.

    (A token that ends one mark and begins the next is not let through, its two halves are.)
    """
    states = [at_work.state]
    said = b""
    tokens = words.tokens(text)
    while tokens:
        token = tokens.pop(0)
        bound = at_work.look(token)
        piece = words.piece(token)
        if bound is not None and not bound.allows(token) and len(piece) > 1 and piece.isascii():
            assert piece.strip() in PAIRS, (said[-80:], piece)
            tokens = [*(part for char in piece.decode() for part in words.tokens(char)), *tokens]
            continue
        bound = at_work.look(token)
        assert bound is None or bound.allows(token), (said[-80:], words.piece(token), at_work.state)
        at_work.took(token)
        said += words.piece(token)
        if at_work.state != states[-1]:
            states.append(at_work.state)
    return states


def arguments(name: str) -> dict[str, Any]:
    """These two templates write objects as Python does; we read that, but let through JSON only."""
    return {"a": 1, "s": "<y>", "b": True} if "Seed" in name or "MiniCPM" in name else ARGUMENTS


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_call_as_its_template_writes_it_is_let_through(words: Words, name: str) -> None:
    """Bound from its mark on, free again behind it; also a second call, also after thoughts."""
    if not words.can_write("▁") and "DeepSeek" in name:
        return  # this vocabulary takes it for a space, and their marks are full of it
    once = arguments(name)
    parts: dict[str, Any] = {"calls": (once,) if name.startswith(ONE_CALL_ONLY) else (once, once)}
    if name in THINKERS:
        parts |= {"reasoning": "R1\nr2", "enable_thinking": True, "thinking": True}
    shown = turn(name, **parts)
    at_work = guide(words, shown.family, "open" if shown.is_thinking else "unknown")
    states = play(words, at_work, shown.text)
    assert "call" in states, states
    assert states[-1] == "free"
    assert ("thoughts" in states) == ("R1" in shown.text)
    at_work.close()


PYTHONS = {
    "add(a=1, s='it\\'s', b=True)": True,
    'add(a=1, s="x", o={"k": [true]}, l=[\'q\'])': True,
    "add(a=1), add(a=2, b=false)": True,
    "add(a='one')": False,
    "add(s='x')": False,
    "add(a=1, l=['q', 2])": False,
    "sub(a=1)": False,
}
"""Calls in Python's words, and whether the tool takes them."""


@pytest.mark.parametrize("text", PYTHONS)
def test_calls_in_pythons_words_are_bound(words: Words, text: str) -> None:
    at_work = guide(words, family_of(templates.source("LFM2.5-8B-A1B")))
    call = f"So: <|tool_call_start|>[{text}]<|tool_call_end|> done"
    if PYTHONS[text]:
        states = play(words, at_work, call)
        assert "call" in states
        assert states[-1] == "free"
    else:
        with pytest.raises(AssertionError):
            play(words, at_work, call)
    at_work.close()


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_forced_calls_as_templates_write_them_are_let_through(words: Words, name: str) -> None:
    if not words.can_write("▁") and "DeepSeek" in name:
        return
    shown = turn(name, calls=(arguments(name),))
    at_work = guide(words, shown.family, "closed", tool_choice="required")
    # some templates close thoughts that were never there
    text = re.sub(r"^\s*(<think>)?\s*</think>", "", shown.text).strip()
    if shown.family.name == "gpt-oss":
        text = f" {text.removesuffix('<|call|>')}"
    assert play(words, at_work, text)[-1] == "answer"
    assert at_work.grammar is not None
    assert at_work.grammar.is_complete
    at_work.close()


JSON = '{"a": [1, {"b": "<tool_call>"}]}'


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_format_binds_behind_the_thoughts(words: Words, name: str) -> None:
    family = family_of(templates.source(name))
    think = family.think
    assert think is not None
    is_harmony = family.name == "gpt-oss"
    answer = f"<|start|>assistant<|channel|>final<|message|>{JSON}" if is_harmony else f"\n\n{JSON}"
    form = {"response_format": ResponseFormat(type="json_object"), "tool_choice": "none"}
    for thinking, before in (("unknown", think.open), ("open", "")):
        at_work = guide(words, family, thinking, **form)
        states = play(words, at_work, f"{before}\nso {{ and <tool_call>{think.close}{answer}")
        assert states[-1] == "answer"
        assert at_work.grammar is not None
        assert at_work.grammar.is_complete
        at_work.close()
    at_work = guide(words, family, "unknown", **form)
    assert play(words, at_work, answer.removeprefix("<|start|>assistant").strip())[-1] == "answer"
    at_work.close()
    at_work = guide(words, family, "unknown", thinks=False, **form)
    first = words.tokens("Sure")[0]
    bound = at_work.look(first)
    assert bound is not None
    assert not bound.allows(first)
    at_work.close()


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "google-gemma-4-31B-it", "openai-gpt-oss-120b"])
def test_arguments_that_do_not_fit_are_not_let_through(words: Words, name: str) -> None:
    shown = turn(name, calls=({"a": 1},))
    wrong = shown.text.replace("1", "x")
    at_work = guide(words, shown.family)
    refused = False
    for token in words.tokens(wrong):
        bound = at_work.look(token)
        if bound is not None and not bound.allows(token):
            refused = True
            break
        at_work.took(token)
    assert refused
    assert at_work.state == "call"
    at_work.close()


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_text_about_calls_is_free(words: Words, name: str) -> None:
    family = family_of(templates.source(name))
    at_work = guide(words, family)
    text = 'A tool is called by name < tool > [TOOL {"name": "Bob", "parameters": 1} <function, to=functions. <|chan'
    assert set(play(words, at_work, text)) == {"free"}
    at_work.close()


def test_a_replayed_guide_is_where_the_first_one_was(words: Words) -> None:
    for name in ("Qwen3.5-4B", "deepseek-ai-DeepSeek-V3.1", "meta-llama-Llama-3.2-3B-Instruct"):
        shown = turn(name, calls=(ARGUMENTS,))
        tokens = words.tokens(shown.text)
        for cut in random.Random(1).sample(range(len(tokens)), min(12, len(tokens))):
            first, second = guide(words, shown.family), guide(words, shown.family)
            for token in tokens[:cut]:
                bound = first.look(token)
                assert bound is None or bound.allows(token)
                first.took(token)
                second.took(token)
            assert first.state == second.state
            assert (first.look(tokens[cut]) is None) == (second.look(tokens[cut]) is None)
            first.close()
            second.close()


def test_every_writer_that_thinks_says_so() -> None:
    for name in THINKERS:
        assert may_think(family_of(templates.source(name)), templates.source(name))
