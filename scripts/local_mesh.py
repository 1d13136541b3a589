"""Real `mcd` processes on loopback, started and stopped by process id: for the demo, benchmarks and e2e tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcd.cli import client
from mcd.cli.exits import CommandError

MCD = [sys.executable, "-m", "mcd"]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


class Peer:
    """One `mcd run` process with a home of its own."""

    def __init__(
        self, folder: Path, name: str, *flags: str, bootstrap: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.home = folder / name
        self.log_path = folder / f"{name}.log"
        command = [*MCD, "run", "--home", str(self.home), "--name", name, "--http", "127.0.0.1:0", "--no-lan"]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--network", f"local-{os.getpid()}"]
        for address in bootstrap:
            command += ["--bootstrap", address]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    def read(self, question: str) -> Any:
        """What a read command prints with --json, without a process for each look.

        Raises:
            CommandError: The daemon does not answer.
        """
        return client.ask(self.home, question)

    def wait(self, ready: Callable[[Any], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> Any:
        """Poll `mcd status` until ``ready`` of its JSON; returns it.

        Raises:
            RuntimeError: The process ended or the time is over; the message holds the end of its log.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                status = self.read("status")
            except CommandError:
                status = None
            if status is not None and ready(status):
                return status
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: not {what} after {timeout_s:.0f} s\n{self.log()[-3000:]}")

    def log(self) -> str:
        """What the daemon wrote so far."""
        return self.log_path.read_text(errors="replace")

    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.wait(lambda status: True, 'running')['http']}/v1"

    def address(self) -> str:
        """A multiaddr others can join through."""
        return str(self.wait(lambda status: status["addresses"], "listening")["addresses"][0])

    def kill(self) -> None:
        """End it with kill -9."""
        self.process.kill()
        self.process.wait(timeout=STOP_TIMEOUT_S)

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took to end."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return time.monotonic() - began


class LocalMesh:
    """Peers that know one another through the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers: list[Peer] = []

    def start(self, name: str, *flags: str, env: dict[str, str] | None = None) -> Peer:
        """Start one more peer, joined through the first living one, and wait until it listens."""
        living = [peer for peer in self.peers if peer.process.poll() is None]
        peer = Peer(self.folder, name, *flags, bootstrap=[living[0].address()] if living else [], env=env)
        self.peers.append(peer)
        peer.address()
        return peer


@contextmanager
def local_mesh() -> Iterator[LocalMesh]:
    """A mesh whose processes and files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mcd-") as folder:
        mesh = LocalMesh(Path(folder))
        try:
            yield mesh
        finally:
            for peer in reversed(mesh.peers):
                peer.stop()


def serves(status: Any) -> bool:
    """Whether a status shows an engine that is ready."""
    return any(engine["state"] == "ready" for engine in status["engines"])
