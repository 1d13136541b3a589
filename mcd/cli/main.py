"""`mcd`: one subcommand a module, loaded only when it is the one typed."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from mcd import __version__
from mcd.cli import exits, streams
from mcd.errors import McdError, system_reason

COMMANDS = {
    "run": ("run", "start a peer: the API, and with --cpu or --gpu also a provider"),
    "status": ("status", "what this peer is doing"),
    "peers": ("peers", "who is there, how near, how fast, what they serve"),
    "models": ("models", "every model somebody serves now; with --local the files on this machine"),
    "chat": ("chat", "talk to a model in the terminal"),
    "route": ("route", "which provider would get a request, and why"),
    "pull": ("pull", "fetch a model from the Hugging Face hub"),
    "show": ("show", "one model: what it is, where it comes from, what memory it takes"),
    "rm": ("rm", "delete a fetched model"),
    "id": ("identity", "this peer's id and addresses"),
    "doctor": ("doctor", "what holds on this machine and what does not"),
    "version": ("version", "the version of this program"),
}
"""Command -> module of this package, and its line of help."""

EPILOG = "exit codes: 0 ok, 1 error, 2 wrong usage, 3 no daemon runs, 4 no such model or peer"


class _CommandParser(argparse.ArgumentParser):
    """Refuses unknown words itself: argparse leaves that to the main parser, which would print its own usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # overloaded: what comes in goes out
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def parser_for(command: str | None) -> argparse.ArgumentParser:
    """Build the parser; only ``command`` gets its own flags, the others stay unloaded."""
    parser = argparse.ArgumentParser(prog="mcd", description="A peer of the ModelCloud mesh.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"mcd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, (_, line) in COMMANDS.items():
        child = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.", allow_abbrev=False)
        if name == command:
            module = _module(name)
            module.configure(child)
            child.set_defaults(execute=module.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    parser = parser_for(command if command in COMMANDS else None)
    streams.prepare()
    try:
        if not words:
            parser.exit(exits.USAGE, parser.format_help())
        return _execute(parser.parse_args(words))
    finally:
        streams.settle()


def _execute(args: argparse.Namespace) -> int:
    try:
        code: int = args.execute(args)
        sys.stdout.flush()
    except McdError as error:
        streams.complain(f"mcd {args.command}: {error.message}")
        return exits.exit_code(error)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        return exits.ERROR  # the reader, such as `head`, has enough
    except OSError as problem:
        streams.complain(f"mcd {args.command}: {system_reason(problem)}")
        return exits.ERROR
    return code


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"mcd.cli.{COMMANDS[command][0]}")
