"""A daemon whose log, or whose banner, nobody reads: it serves all the same, and says later what was lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcd.cli import client
from mcd.cli.exits import CommandError
from tests.fakes.full_pipe import FullPipe

ROOT = Path(__file__).parents[2]


@contextmanager
def stalled(stream: str, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], FullPipe]]:
    """A peer that has a full pipe for one of its standard streams."""
    pipe = FullPipe()
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: pipe.write_fd}
    command = [sys.executable, "-m", "mcd", "run", "--home", str(home), "--http", "127.0.0.1:0", "--no-lan"]
    process = subprocess.Popen(
        [*command, "--listen", "/ip4/127.0.0.1/tcp/0"], cwd=ROOT, stdin=subprocess.DEVNULL, **streams
    )
    os.close(pipe.write_fd)
    try:
        yield process, pipe
    finally:
        process.kill()
        process.wait()
        os.close(pipe.read_fd)


def status_of(home: Path, process: subprocess.Popen[bytes]) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            return client.ask(home, "status")
        except CommandError:
            time.sleep(0.05)
    raise AssertionError("the daemon does not answer")


def fail_to_chat(address: str) -> None:
    """A request for a model that nobody serves: an answer, and a line in the log."""
    body = json.dumps({"model": "nobody-serves-this", "messages": [{"role": "user", "content": "x"}]}).encode()
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_api_answers_while_nobody_reads_what_the_daemon_writes(stream: str, tmp_path: Path) -> None:
    """`mcd run | less`, or a terminal held by Ctrl-S, stopped everything at the next line."""
    with stalled(stream, tmp_path / "home") as (process, pipe), ThreadPoolExecutor() as beside:
        address = status_of(tmp_path / "home", process)["http"]
        fail_to_chat(address)
        fail_to_chat(address)
        read = beside.submit(pipe.read_all)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        if stream == "stdout":
            assert address in read.result()
        else:
            events = [json.loads(line)["event"] for line in read.result().splitlines()]
            assert events == ["chat_finished", "chat_finished", "stopping"]


def test_a_daemon_whose_log_nobody_reads_ends_cleanly(tmp_path: Path) -> None:
    with stalled("stderr", tmp_path / "home") as (process, _):
        fail_to_chat(status_of(tmp_path / "home", process)["http"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
