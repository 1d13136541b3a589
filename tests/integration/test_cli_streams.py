"""Commands whose standard streams are closed, cut off by their reader or no text: real processes, and no traceback."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mcd.cli import client
from mcd.cli.chat import MAX_QUESTION_CHARS
from mcd.cli.exits import CommandError
from tests.fakes.entry import MODEL

ROOT = Path(__file__).parents[2]
MCD = [sys.executable, "-W", "error", "-m", "mcd"]
PRINTING = [
    "status",
    "peers",
    "models --local",
    "doctor",
    "version",
    f"route {MODEL} --explain",
    "pull --list",
    "show modelcloud-nano",
    f"chat {MODEL} -m x",
    f"chat {MODEL} -m x --json",
]


def command_of(words: str, home: Path) -> list[str]:
    return [*MCD, *words.split(), *([] if words == "version" else ["--home", str(home)])]


def in_shell(line: str, words: str, home: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *command_of(words, home)],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_that_has_enough_ends_a_command_without_a_word(words: str, home: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    done = subprocess.run(
        command_of(words, home), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=write_fd, stderr=subprocess.PIPE,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    os.close(write_fd)
    told = [line for line in done.stderr.splitlines() if "comes with mcd" not in line]
    assert (done.returncode, told) == (1, [])


def test_the_first_line_is_enough(home: Path) -> None:
    done = in_shell('"$@" | head -1', "peers --json", home)
    assert (done.stdout, done.stderr) == ("[\n", "")


@pytest.mark.parametrize("words", PRINTING)
def test_a_closed_standard_output_is_an_error_in_words(words: str, home: Path) -> None:
    done = in_shell('exec "$@" >&-', words, home)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"mcd {words.split(maxsplit=1)[0]}: Bad file descriptor"
    assert "Traceback" not in done.stderr


def test_help_for_nobody_is_no_error(home: Path) -> None:
    for words in ("--help", "peers --help", "--version"):
        done = in_shell('(sleep 0.1; exec "$@") | true', words, home)
        assert done.stderr == "", words


@pytest.mark.parametrize("redirection", ["2>&-", "2> >(exec true)"])
def test_an_error_that_nobody_hears_has_its_exit_code_all_the_same(
    redirection: str, home: Path, tmp_path: Path
) -> None:
    done = in_shell(f'exec "$@" {redirection}', "status", tmp_path / "none")
    assert (done.returncode, done.stdout) == (3, ""), "the message may not go to standard output instead"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r"printf '\xff\xfe\x00h' |", "bytes that are no text"),
        (r"printf 'h\xc3' |", "bytes that are no text"),
        ("cat /dev/zero |", f"longer than {MAX_QUESTION_CHARS} characters"),
        ("printf '' |", "empty"),
        ("<&-", "empty"),
    ],
)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_a_question_that_is_no_text_is_refused_as_wrong_usage(line: str, said: str, locale: str, home: Path) -> None:
    is_pipe = line.endswith("|")
    shell = f'set +o pipefail; {line} "$@"' if is_pipe else f'exec "$@" {line}'
    done = in_shell(shell, f"chat {MODEL}", home, env=os.environ | {"LC_ALL": locale})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mcd chat: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_was_typed_wrongly_does_not_end_a_conversation(home: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*command_of(f"chat {MODEL}", home)], cwd=ROOT, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"\xff\xfe\nhi\n\x04")
    out, err = process.communicate(timeout=20)
    os.close(master)
    assert process.returncode == 0
    assert "Grüße 🌍" in out.decode()
    assert "no text" in err.decode()
    assert "Traceback" not in err.decode()


def test_a_conversation_whose_reader_left_ends(home: Path) -> None:
    master, slave = pty.openpty()
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    process = subprocess.Popen(
        [*command_of(f"chat {MODEL}", home)], cwd=ROOT, stdin=slave, stdout=write_fd, stderr=subprocess.PIPE
    )
    os.close(slave)
    os.close(write_fd)
    os.write(master, b"hi\nagain\n")
    _, err = process.communicate(timeout=20)
    os.close(master)
    assert process.returncode == 1
    assert "Traceback" not in err.decode()


def test_an_answer_goes_to_a_terminal_that_cannot_show_it(home: Path) -> None:
    done = in_shell('exec "$@"', f"chat {MODEL} -m x", home, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "Gr??e ?\n", "")


def test_a_daemon_without_standard_streams_serves(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = f"run --home {home} --http 127.0.0.1:0 --no-lan --listen /ip4/127.0.0.1/tcp/0"
    process = subprocess.Popen(["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *MCD, *words.split()], cwd=ROOT)
    until = time.monotonic() + 60
    status = None
    while status is None and time.monotonic() < until and process.poll() is None:
        try:
            status = client.ask(home, "status")
        except CommandError:
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert status is not None
