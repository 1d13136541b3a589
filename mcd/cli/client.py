"""Questions to the running daemon over its control socket, with nothing but the standard library."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mcd.cli import exits
from mcd.cli.exits import CommandError
from mcd.config import control_path, default_home

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every read command takes."""
    parser.add_argument("--json", action="store_true", help="print JSON with stable names instead of a table")
    add_home(parser)


def add_home(parser: argparse.ArgumentParser) -> None:
    """Add --home."""
    parser.add_argument(
        "--home", type=Path, default=default_home(), metavar="DIR", help="the peer's folder (default: ~/.modelcloud)"
    )


def ask(home: Path, question: str, **query: str | int) -> Any:
    """Return the daemon's answer.

    Raises:
        CommandError: No daemon runs in this home (exit 3), or it answered with an error.
    """
    path = f"/{question}?{urlencode(query, errors='replace')}" if query else f"/{question}"
    connection = _UnixConnection(control_path(home))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = json.loads(response.read(MAX_ANSWER_BYTES))
    except (ConnectionError, FileNotFoundError) as problem:
        raise CommandError(f"no daemon runs in {home}; start one with: mcd run", exits.NO_DAEMON) from problem
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise CommandError(f"the daemon in {home} does not answer; look at its log") from problem
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise exits.refusal(answer["error"])
    return answer


def print_json(answer: Any) -> None:
    """Print for programs."""
    # Foreign text must not steer a terminal; a program gets it as it is.
    print(json.dumps(answer, indent=2, ensure_ascii=sys.stdout.isatty()))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket; called by HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))
