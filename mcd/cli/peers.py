"""`mcd peers`: the directory as this peer sees it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mcd.cli import client, exits, table

_REGION = "REGION"
"""Shown once somebody states one: nothing that `mcd` itself knows says where a machine is."""
_COLUMNS = (
    *table.text("PEER", "NAME", _REGION, "PATH"),
    *table.numbers("RTT"),
    *table.text("GPU"),
    *table.numbers("MODELS", "LOAD", "TOK/S", "$/1M TOK", "OK%", "SEEN"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    client.add_flags(parser)
    parser.add_argument("--full", action="store_true", help="show whole peer ids")
    parser.add_argument("--serving", action="store_true", help="only peers that serve a model")


def execute(args: argparse.Namespace) -> int:
    """Print the peers, nearest first."""
    peers = client.ask(args.home, "peers")
    if args.serving:
        peers = [peer for peer in peers if peer["models"]]
    if args.json:
        client.print_json(peers)
        return exits.OK
    hidden = set() if any(peer["region"] for peer in peers) else {_REGION}
    cells = [_row(peer, is_full=args.full) for peer in peers]
    head, *rows = table.render(*table.without(hidden, _COLUMNS, cells))
    print(table.paint(head, table.BOLD))
    for peer, row in zip(peers, rows, strict=True):
        print(row if peer["state"] == "alive" else table.paint(row, table.DIM))
    print(_footer(peers))
    return exits.OK


def _row(peer: Mapping[str, Any], *, is_full: bool) -> list[str]:
    measured = peer["output_tokens_per_s"]
    return [
        peer["peer_id"] if is_full else table.short_id(peer["peer_id"]),
        peer["name"] or "-",
        peer["region"] or "-",
        peer["path"] or "-",
        table.duration(peer["rtt_s"]),
        peer["device"] or "-",
        str(len(peer["models"])),
        _load(peer),
        # A claim is marked: only what we measured ourselves counts in routing.
        table.number(measured) if measured is not None else table.number(peer["claimed_tokens_per_s"], "~{:.0f}"),
        table.price(peer["price_output"]),
        table.number(peer["ok_fraction"] and peer["ok_fraction"] * 100, "{:.1f}"),
        table.age(peer["seen_s"]),
    ]


def _load(peer: Mapping[str, Any]) -> str:
    if not peer["n_slots"]:
        return "-"
    running = peer["n_running"]
    return f"{'?' if running is None else running}/{peer['n_slots']}"


def _footer(peers: Sequence[Mapping[str, Any]]) -> str:
    n_serving = sum(bool(peer["models"]) for peer in peers)
    n_relayed = sum("relay" in peer["path"] for peer in peers)
    claimed = "   ~ claimed, not measured" if any(peer["output_tokens_per_s"] is None for peer in peers) else ""
    return f"{table.count(len(peers), 'peer')} ({n_serving} serving, {n_relayed} relayed){claimed}"
