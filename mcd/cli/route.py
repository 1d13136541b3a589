"""`mcd route MODEL`: the plan a request would get, with every part of each prediction."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mcd.cli import client, exits, table

_COLUMNS = (
    *table.numbers("RANK"),
    *table.text("PEER", "NAME"),
    *table.numbers("RTT", "QUEUE", "LOAD", "PREFILL", "DECODE", "PENALTY", "TOTAL", "$/1M TOK"),
    *table.text("WHY"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("model", metavar="MODEL", help="a name from: mcd models")
    parser.add_argument("--explain", action="store_true", help="show every candidate and each part of its time")
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, metavar="N", help="length of the prompt (default: 256)"
    )
    parser.add_argument(
        "--output-tokens", type=int, default=256, metavar="N", help="length of the answer (default: 256)"
    )
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the plan, best first."""
    terms = client.ask(
        args.home,
        "route",
        model=args.model,
        n_prompt_tokens=args.prompt_tokens,
        n_output_tokens=args.output_tokens,
    )
    if args.json:
        client.print_json(terms)
        return exits.OK if terms else exits.NOT_FOUND
    if not terms:
        raise exits.CommandError("no peer can take this request now", exits.NOT_FOUND)
    if args.explain:
        head, *rows = table.render(_COLUMNS, [_row(term) for term in terms])
        print(table.paint(head, table.BOLD))
        for row in rows:
            print(row)
    else:
        best = terms[0]
        name = f" ({table.plain(best['name'])})" if best["name"] else ""
        print(f"{best['peer_id']}{name} in {table.duration(best['total_s'])}; --explain shows why")
    return exits.OK


def _row(term: Mapping[str, Any]) -> list[str]:
    parts = ("rtt_s", "queue_s", "load_s", "prefill_s", "decode_s", "penalty_s", "total_s")
    return [
        str(term["rank"]),
        table.short_id(term["peer_id"]),
        term["name"] or "-",
        *(table.duration(term[part]) for part in parts),
        table.price(term["price_output"]),
        term["why"],
    ]
