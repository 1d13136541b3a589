"""`mcd models`: what can be asked for now, merged over its providers; with --local the files on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mcd.cli import client, exits, table
from mcd.config import EMBEDDED_MODEL
from mcd.store import models as folder
from mcd.store.models import LocalModel

_COLUMNS = (
    *table.text("MODEL"),
    *table.numbers("CTX"),
    *table.text("CAPS"),
    *table.numbers("PEERS", "LOADED", "READY", "SLOTS", "BEST RTT", "$/1M IN", "$/1M OUT"),
    *table.text("LOCAL", "DIGEST"),
)
_LOCAL_COLUMNS = (
    *table.text("MODEL"),
    *table.numbers("SIZE", "CTX"),
    *table.text("QUANT", "VISION", "LICENCE", "DIGEST", "SOURCE"),
)
SHORT_DIGEST_CHARS = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--local", action="store_true", help="what lies in the models folder; asks no daemon")
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the models by name."""
    if args.local:
        return _print_local(args.home, as_json=args.json)
    models = client.ask(args.home, "models")
    if args.json:
        client.print_json(models)
        return exits.OK
    head, *rows = table.render(_COLUMNS, [_row(model) for model in models])
    print(table.paint(head, table.BOLD))
    for row in rows:
        print(row)
    if not models:
        print("no peer serves a model now; mcd run --cpu serves the embedded one", file=sys.stderr)
    return exits.OK


def _row(model: Mapping[str, Any]) -> list[str]:
    return [
        model["alias"],
        table.context(model["n_ctx"]),
        " ".join(model["capabilities"]) or "-",
        str(model["n_providers"]),
        str(model["n_loaded"]),
        f"~{table.duration(model['load_s'])}" if model["load_s"] else "now",
        str(model["n_slots"]),
        table.duration(model["best_rtt_s"]),
        table.price(model["price_prompt"]),
        table.price(model["price_output"]),
        "yes" if model["is_local"] else "-",
        model["digest"][:SHORT_DIGEST_CHARS],
    ]


def _print_local(home: Path, *, as_json: bool) -> int:
    here = folder.read(home)
    if as_json:
        client.print_json([msgspec.to_builtins(model) for model in here.values()])
        return exits.OK
    head, *rows = table.render(_LOCAL_COLUMNS, [_local_row(model) for model in here.values()])
    print(table.paint(head, table.BOLD))
    for row in rows:
        print(row)
    print(f"{EMBEDDED_MODEL} comes with mcd; mcd pull fetches others", file=sys.stderr)
    if unfinished_bytes := folder.unfinished_bytes(home):
        place = folder.folder(home) / folder.UNFINISHED_FOLDER
        print(f"{table.size(unfinished_bytes)} of unfinished pulls wait in {place}", file=sys.stderr)
    return exits.OK


def _local_row(model: LocalModel) -> list[str]:
    return [
        model.name,
        table.size(model.size_bytes),
        "-" if model.n_ctx is None else table.context(model.n_ctx),
        model.quantisation or "-",
        "-" if model.projector_bytes is None else table.size(model.projector_bytes),
        model.licence or "-",
        (model.digest or "-")[:SHORT_DIGEST_CHARS],
        model.source or "put here by hand",
    ]
