"""`mcd version`."""

from __future__ import annotations

import argparse
import json

from mcd import __version__
from mcd.cli import exits


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Print the version."""
    print(json.dumps({"version": __version__}) if args.json else f"mcd {__version__}")
    return exits.OK
