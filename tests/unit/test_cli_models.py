"""`mcd models`: what a row says of a model that must be loaded first."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import msgspec
import pytest

from mcd.cli import client, models
from tests.fakes.entry import ScriptedEntry


@pytest.mark.parametrize(
    ("n_loaded", "load_s", "shown"),
    [(2, 0.0, ["3", "2", "now"]), (0, 12.3, ["3", "0", "~12s"]), (0, 0.4, ["3", "0", "~400ms"])],
)
def test_a_cold_model_says_when_it_can_answer(
    n_loaded: int, load_s: float, shown: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (card,) = ScriptedEntry().models()
    card = msgspec.structs.replace(card, n_providers=3, n_loaded=n_loaded, load_s=load_s)
    answer = [msgspec.to_builtins(card) | {"digest": card.digest.hex()}]
    monkeypatch.setattr(client, "ask", lambda home, what: answer)
    assert models.execute(argparse.Namespace(home=Path("unused"), local=False, json=False)) == 0
    head, row = (re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert head[3:6] == ["PEERS", "LOADED", "READY"]
    assert row[3:6] == shown
