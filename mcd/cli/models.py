"""`mcd models`: what can be asked for now, merged over its providers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from mcd.cli import client, exits, table

_COLUMNS = (
    *table.text("MODEL"),
    *table.numbers("CTX"),
    *table.text("CAPS"),
    *table.numbers("PEERS", "SLOTS", "BEST RTT", "$/1M IN", "$/1M OUT"),
    *table.text("LOCAL", "DIGEST"),
)
SHORT_DIGEST_CHARS = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the models by name."""
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
        str(model["n_slots"]),
        table.duration(model["best_rtt_s"]),
        table.price(model["price_prompt"]),
        table.price(model["price_output"]),
        "yes" if model["is_local"] else "-",
        model["digest"][:SHORT_DIGEST_CHARS],
    ]
