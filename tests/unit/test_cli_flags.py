"""Flags become a configuration or a clear refusal; the contract's flags exist; help and page agree."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import mcd
from mcd.cli import exits, main, run
from mcd.config import Config
from mcd.errors import ConfigError, InvalidRequestError, LocalError, ModelNotFoundError
from mcd.ports import DaemonStatus
from scripts import cli_help
from tests.fakes.gateway import daemon_status


def config(*words: str) -> Config:
    return run.to_config(main.parser_for("run").parse_args(["run", *words]))


def test_the_defaults_are_an_entry_on_loopback() -> None:
    got = config()
    assert (got.device, got.models, got.http, got.engine) == ("none", (), "127.0.0.1:8080", "llama")
    assert got.use_lan
    assert got.home.name == ".modelcloud"


def test_every_flag_of_the_contract_arrives(tmp_path: Path) -> None:
    words = [
        "--cpu", "--model", "a", "--model", "b.gguf", "--home", str(tmp_path), "--http", "127.0.0.1:0",
        "--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip6/::1/tcp/0", "--bootstrap", "/ip4/1.2.3.4/tcp/1/p2p/x",
        "--network", "test", "--name", "Atlas 1", "--no-lan", "--engine", "scripted:answers.json",
        "--log-level", "debug",
    ]  # fmt: skip
    assert config(*words) == Config(
        home=tmp_path,
        http="127.0.0.1:0",
        listen=("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"),
        bootstrap=("/ip4/1.2.3.4/tcp/1/p2p/x",),
        network="test",
        name="Atlas 1",
        use_lan=False,
        device="cpu",
        models=("a", "b.gguf"),
        engine="scripted:answers.json",
        log_level="debug",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "x"], "--model needs --cpu or --gpu"),
        (["--engine", "scripted:x"], "--engine needs --cpu or --gpu"),
        (["--cpu", "--engine", "vllm"], "--engine must be"),
        (["--cpu", "--engine", "openai:ftp://x"], "--engine must be"),
        (["--network", "Main"], "--network takes"),
        (["--network", ""], "--network takes"),
        (["--name", "\x1b[31mred"], "--name takes"),
        (["--name", "x" * 33], "--name takes"),
        (["--http", "8080"], "--http"),
        (["--http", "127.0.0.1:99999"], "--http"),
        (["--listen", "0.0.0.0:4101"], "--listen"),
        (["--listen", "/ip4/0.0.0.0/udp/4101/quic-v1"], "--listen"),
        (["--bootstrap", "/ip4/1.2.3.4/tcp/4101"], "--bootstrap"),
    ],
)
def test_a_flag_that_cannot_be_used_says_why(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as caught:
        config(*words)
    assert exits.exit_code(caught.value) == exits.USAGE


@pytest.mark.parametrize(
    "words", [["run", "--cpu", "--gpu"], ["run", "--nope"], ["nope"], [], ["route"], ["run", "--mod", "x"]]
)
def test_wrong_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(words)
    assert caught.value.code == exits.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: mcd" in err


def test_wrong_usage_shows_what_would_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown flag of `mcd status` was answered with the usage of `mcd`, and a bare `mcd` without the commands."""
    for words, shown in ((["status", "--nope"], "usage: mcd status"), ([], "what holds on this machine")):
        with pytest.raises(SystemExit):
            main.main(words)
        assert shown in capsys.readouterr().err


def test_help_names_the_defaults() -> None:
    said = " ".join(cli_help.page().split())
    for default in ("127.0.0.1:8080", "/ip4/0.0.0.0/tcp/4101", "main", "~/.modelcloud", "info"):
        assert f"(default: {default})" in said


def run_failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """`mcd run` with a daemon that ends like this; the real one is too heavy for a unit test."""

    def fails(config: Config, on_up: object) -> int:
        raise error

    daemon = ModuleType("mcd.daemon")
    daemon.run = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcd.daemon", daemon)
    monkeypatch.setattr(mcd, "daemon", daemon, raising=False)
    run.execute(main.parser_for("run").parse_args(["run"]))


def test_trios_wrapping_does_not_hide_what_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="port taken"):
        run_failing(monkeypatch, ExceptionGroup("", [ExceptionGroup("", [ConfigError("port taken")])]))
    with pytest.raises(ExceptionGroup):
        run_failing(monkeypatch, ExceptionGroup("", [ConfigError("port taken"), ZeroDivisionError()]))


def test_the_banner_has_what_a_newcomer_needs() -> None:
    status: DaemonStatus = daemon_status()
    out = run.banner(status)
    assert status.peer_id in out
    assert status.addresses[0] in out
    assert "http://127.0.0.1:8080/v1/chat/completions" in out
    assert '"model": "modelcloud-nano"' in out
    assert "\nTry it, with a name from mcd models:\n" in out  # an entry knows nobody yet
    assert "warning" not in out
    assert "in the clear" in run.banner(daemon_status(http="0.0.0.0:8080"))


def test_errors_map_to_exit_codes() -> None:
    assert exits.exit_code(ModelNotFoundError("x")) == exits.NOT_FOUND
    assert exits.exit_code(InvalidRequestError("x")) == exits.ERROR
    assert exits.exit_code(LocalError("x")) == exits.ERROR
    assert exits.exit_code(exits.CommandError("x", exits.NO_DAEMON)) == exits.NO_DAEMON


def test_the_page_is_what_help_says() -> None:
    assert cli_help.page() == cli_help.PAGE.read_text()
