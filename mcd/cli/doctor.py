"""`mcd doctor`: what holds on this machine; with a running daemon also what holds inside it."""

from __future__ import annotations

import argparse
import socket
import stat
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mcd.cli import client, exits, table
from mcd.cli.exits import CommandError
from mcd.config import DEFAULT_HTTP, parse_http

Line = dict[str, Any]

_PACKAGES = ("libp2p", "trio", "msgspec", "cryptography", "aiohttp", "zeroconf")
_LEAST_PYTHON = (3, 11)
_COLOURS = {"ok": table.GREEN, "warn": table.YELLOW, "fail": table.RED}
_KEY_FILE = "peer.key"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    client.add_flags(parser)
    parser.add_argument(
        "--http", default=DEFAULT_HTTP, metavar="HOST:PORT", help="the address mcd run would use (default: %(default)s)"
    )


def execute(args: argparse.Namespace) -> int:
    """Print one line a check; exit 1 when one failed."""
    lines = list(_lines(args))
    if args.json:
        client.print_json(lines)
    else:
        width = max(len(line["check"]) for line in lines)
        for line in lines:
            state = table.paint(f"{line['state']:4}", _COLOURS[line["state"]])
            print(f"{state}  {line['check']:{width}}  {table.plain(line['detail'])}")
    return exits.ERROR if any(line["state"] == "fail" for line in lines) else exits.OK


def _lines(args: argparse.Namespace) -> Iterator[Line]:
    yield _python()
    yield from (_package(name) for name in _PACKAGES)
    yield _llama()
    yield _private("home folder", args.home)
    yield _private("key file", args.home / _KEY_FILE)
    yield _clock()
    try:
        daemon = client.ask(args.home, "doctor")
    except CommandError as error:
        yield _line("daemon", "warn" if error.exit_code == exits.NO_DAEMON else "fail", error.message)
        yield _port(args.http)
    else:
        yield _line("daemon", "ok", "answers on its control socket")
        yield from daemon


def _line(check: str, state: str, detail: str) -> Line:
    return {"check": check, "state": state, "detail": detail}


def _python() -> Line:
    version = ".".join(map(str, sys.version_info[:3]))
    is_new = sys.version_info >= _LEAST_PYTHON
    return _line("python", "ok" if is_new else "fail", version if is_new else f"{version}; mcd needs 3.11 or newer")


def _package(name: str) -> Line:
    try:
        return _line(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return _line(name, "fail", "not installed; run: make setup")


def _llama() -> Line:
    try:
        return _line("llama.cpp", "ok", metadata.version("llama-cpp-python"))
    except metadata.PackageNotFoundError:
        return _line("llama.cpp", "warn", "not installed: this peer can ask but not serve; run: make setup-serve")


def _private(check: str, path: Path) -> Line:
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return _line(check, "warn", f"{path} does not exist yet; mcd run makes it")
    except OSError as problem:
        return _line(check, "fail", f"{path}: {problem.strerror}")
    if mode & 0o077:
        return _line(check, "fail", f"{path} is open to other users (mode {mode:o}); run: chmod go= {path}")
    return _line(check, "ok", f"{path} mode {mode:o}")


def _clock() -> Line:
    # Records live two minutes, so a clock far off means no peers. Being older than our own files is far off.
    behind_s = Path(__file__).stat().st_mtime - time.time()
    if behind_s > 60:
        return _line("clock", "fail", f"at least {table.duration(behind_s)} behind; run: timedatectl set-ntp true")
    return _line("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _port(http: str) -> Line:
    host, port = parse_http(http)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as problem:
        return _line("API port", "fail", f"{http}: {problem.strerror}; choose another with mcd run --http")
    return _line("API port", "ok", f"{http} is free")
