"""The log at a terminal: words for a person, and nothing in them that steers it."""

from __future__ import annotations

import errno
import io
import json
import re

import pytest

from mcd.log import Log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(out: io.StringIO) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in out.getvalue().splitlines()]


def test_a_program_reads_json_and_a_person_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    pipe, terminal = io.StringIO(), Terminal()
    for out in (pipe, terminal):
        log = Log(out=out)
        log.info("engine_ready", alias="modelcloud-nano", load_ms=589, detail="context 2048")
        log.warning("service_restarts", service="gossip", reason="OSError")
        log.debug("unseen")
    assert [json.loads(line)["event"] for line in pipe.getvalue().splitlines()] == ["engine_ready", "service_restarts"]
    assert lines_of(terminal) == [
        "engine ready  alias=modelcloud-nano load_ms=589  context 2048",
        "warning: service restarts  service=gossip reason=OSError",
    ]


def test_only_a_terminal_that_wants_colour_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    Log(out=terminal).error("engine_failed", alias="a")
    assert lines_of(terminal) == ["\x1b[31merror: engine failed\x1b[0m  alias=a"]


def test_what_a_peer_chose_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    Log(out=terminal).info("failover", alias="\x1b[2Jx\r\nforged line", detail="\x9b31m\u202e")
    assert lines_of(terminal) == ["failover  alias=?[2Jx??forged line  ?31m?"]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """A full disk, or a terminal that was closed, ended the daemon at its next line."""

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "no space")

    Log(out=Full()).error("engine_failed", alias="a")
