"""`mcd rm`: delete a model's file and its entry."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mcd.cli import client, exits, table
from mcd.cli.exits import CommandError
from mcd.config import EMBEDDED_MODEL
from mcd.store import models


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("model", metavar="MODEL", help="a name from mcd models --local")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    client.add_home(parser)


def execute(args: argparse.Namespace) -> int:
    """Delete one model, asking first on a terminal."""
    here = models.read(args.home)
    model = here.get(args.model)
    if model is None and args.model == EMBEDDED_MODEL:
        raise CommandError(f"{EMBEDDED_MODEL} is part of mcd and cannot be deleted", exits.USAGE)
    if model is None:
        names = ", ".join(here) or "nothing"
        raise CommandError(
            f"no model {table.plain(args.model)} is here; here is: {table.plain(names)}", exits.NOT_FOUND
        )
    if _is_served(args.home, model.name):
        raise CommandError(f"{model.name} is being served; stop mcd run, or start it without this model, first")
    size = table.size(model.size_bytes + (model.projector_bytes or 0))
    if not args.yes and not _agrees(f"delete {model.name}, {size}, from this machine?"):
        print("kept", file=sys.stderr)
        return exits.ERROR
    models.remove(args.home, model)
    print(f"{model.name} is gone; {size} are free again")
    return exits.OK


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("nobody can be asked here; say --yes", exits.USAGE)
    print(f"{table.plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _is_served(home: Path, name: str) -> bool:
    """Ask the daemon, if one runs."""
    try:
        status = client.ask(home, "status")
    except CommandError as error:
        if error.exit_code == exits.NO_DAEMON:
            return False
        raise
    return any(engine["alias"] == name for engine in status["engines"])
