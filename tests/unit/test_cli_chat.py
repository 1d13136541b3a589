"""`mcd chat`: what a person sees of an answer, and what a pipe gets."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from mcd.cli import chat, client, exits
from mcd.cli.exits import CommandError
from tests.fakes.entry import MODEL

OPTIONS = argparse.Namespace(temperature=None, max_tokens=None, home=Path("unused"))
ERROR = {"error": {"message": "the provider broke off", "type": "server_error", "param": None, "code": "peer_failed"}}


def delta(**members: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members}]}


THOUGHTFUL = [
    delta(role="assistant"),
    delta(reasoning_content="Hm, "),
    delta(reasoning_content="2."),
    delta(content="Two"),
]


class Response(BytesIO):
    """An event stream that was received."""

    status = http.client.OK
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


@pytest.fixture
def asker(monkeypatch: pytest.MonkeyPatch) -> chat._Asker:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return chat._Asker("127.0.0.1:1", MODEL, OPTIONS)


def answer(monkeypatch: pytest.MonkeyPatch, chunks: list[dict[str, Any]]) -> None:
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    monkeypatch.setattr(chat._Asker, "_request", lambda *_, **__: Response(stream))


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_a_terminal_shows_thoughts_faintly_above_the_answer(
    asker: chat._Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing moved while a model thought, for minutes."""
    answer(monkeypatch, THOUGHTFUL)
    on_a_terminal(monkeypatch)
    messages = chat._turn(asker, [{"role": "user", "content": "1 + 1?"}])
    assert capsys.readouterr().out == "\x1b[2mHm, \x1b[0m\x1b[2m2.\x1b[0m\n\nTwo\n"
    assert messages[-1] == {"role": "assistant", "content": "Two"}


def test_a_pipe_gets_the_answer_alone(
    asker: chat._Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, THOUGHTFUL)
    assert chat._ask_once(asker, [], is_json=False) == exits.OK
    assert capsys.readouterr().out == "Two\n"


def test_what_went_wrong_begins_a_line(
    asker: chat._Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`one two threemcd chat: the provider broke off`."""
    answer(monkeypatch, [delta(content="one two"), ERROR])
    with pytest.raises(CommandError, match="broke off"):
        chat._ask_once(asker, [], is_json=False)
    assert capsys.readouterr().out == "one two\n"
    answer(monkeypatch, [ERROR])
    with pytest.raises(CommandError, match="broke off"):
        chat._ask_once(asker, [], is_json=False)
    assert capsys.readouterr().out == ""


def test_an_interrupted_answer_ends_its_line_and_stays_in_the_conversation(
    asker: chat._Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Any, __: Any, reply: Any) -> Iterator[chat._Piece]:
        reply.text.append("one")
        yield chat._Piece("one", is_thought=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(chat._Asker, "stream", interrupted)
    messages = chat._turn(asker, [{"role": "user", "content": "count"}])
    assert capsys.readouterr().out == "one\n"
    assert messages[-1] == {"role": "assistant", "content": "one"}


def test_a_conversation_that_fills_the_context_says_how_to_go_on(
    asker: chat._Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every question from then on was answered with the number of tokens alone."""
    answer(monkeypatch, [{"error": ERROR["error"] | {"code": "context_length_exceeded"}}])
    question = {"role": "user", "content": "and then?"}
    assert chat._turn(asker, [question, {"role": "assistant", "content": "x"}, question])[-1] != question
    assert "mcd chat begins a new one" in capsys.readouterr().err
    chat._turn(asker, [question])
    assert "mcd chat" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "said"),
    [("loading", "m is still being loaded"), ("restarting", "m is still"), ("failed", "mcd run --cpu")],
)
def test_a_model_on_its_way_is_not_denied(state: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its own model was loading, `mcd chat` told its operator to serve one."""
    monkeypatch.setattr(client, "ask", lambda *_: [])
    with pytest.raises(CommandError, match=said) as caught:
        chat._default_model(OPTIONS, [{"alias": "m", "state": state}])
    assert caught.value.exit_code == exits.NOT_FOUND
