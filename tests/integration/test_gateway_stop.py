"""A real process: signals end it cleanly in time, whatever its clients do; the control socket is private."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcd.errors import ConfigError
from mcd.gateway.server import _unix_socket
from tests.fakes.entry import MODEL

ROOT = Path(__file__).parents[2]
BODY = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]})


@dataclass
class Daemon:
    process: subprocess.Popen[str]
    port: int
    control: Path


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control.sock"
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.fakes.gateway_main", str(control)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        yield Daemon(process, port, control)
        process.kill()
        process.communicate()


def open_stream(port: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    return connection, response


@pytest.mark.timed
@pytest.mark.spec("GW-80")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_live_streams_with_a_reason_and_the_process_in_time(daemon: Daemon, number: int) -> None:
    streams = [open_stream(daemon.port) for _ in range(5)]
    sent = time.monotonic()
    daemon.process.send_signal(number)
    daemon.process.send_signal(number)  # `timeout` and others signal the process and, once more, its group
    out, err = daemon.process.communicate(timeout=10)
    took_s = time.monotonic() - sent
    assert daemon.process.returncode == 0
    assert out.splitlines() == ["host ended", "guest ended"]
    assert took_s < 3.0
    assert "Traceback" not in err
    for connection, response in streams:
        text = response.read().decode()
        assert json.loads(text.rstrip().rpartition("data: ")[2])["error"]["code"] == "no_peer_available"
        connection.close()
    assert not daemon.control.exists()


@pytest.mark.timed
@pytest.mark.spec("GW-80")
def test_clients_that_do_not_read_cannot_hold_the_process(daemon: Daemon) -> None:
    stuck = socket.create_connection(("127.0.0.1", daemon.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    stuck.sendall(head + b"Content-Length: 100\r\n\r\n{")  # and never the rest of its body
    connection, _ = open_stream(daemon.port)
    sent = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.communicate(timeout=10)
    assert time.monotonic() - sent < 3.0
    assert daemon.process.returncode == 0
    stuck.close()
    connection.close()


@pytest.mark.spec("GW-70")
def test_the_control_socket_is_private_and_one_a_home(daemon: Daemon) -> None:
    assert stat.S_IMODE(os.stat(daemon.control).st_mode) == 0o600
    second = subprocess.run(
        [sys.executable, "-m", "tests.fakes.gateway_main", str(daemon.control)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode != 0
    assert "another daemon uses" in second.stderr
    assert daemon.control.exists()


@pytest.mark.spec("GW-70")
def test_the_control_socket_only_tells(daemon: Daemon) -> None:
    for method, status in (("GET", 200), ("HEAD", 405), ("POST", 405), ("PUT", 405), ("DELETE", 405)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(daemon.control))
            connection.sendall(f"{method} /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(64).split(b" ", 2)[1] == str(status).encode()


@pytest.mark.spec("GW-70")
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "control.sock", tmp_path / "notes"
    match kind:
        case "file":
            path.write_text("somebody's notes")
        case "folder":
            path.mkdir()
        case "link":
            other.write_text("somebody's notes")
            path.symlink_to(other)
        case _:
            path.symlink_to(other)
    before = path.lstat()
    with pytest.raises(ConfigError, match=r"control\.sock is in the way"):
        _unix_socket(path)
    assert path.lstat() == before


@pytest.mark.spec("GW-70")
def test_a_socket_left_by_a_dead_daemon_is_replaced(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.control.exists()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.gateway_main", str(daemon.control)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("127.0.0.1:")
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
