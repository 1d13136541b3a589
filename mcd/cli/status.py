"""`mcd status`: this peer at a glance."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from mcd.cli import client, exits, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the status."""
    status = client.ask(args.home, "status")
    if args.json:
        client.print_json(status)
        return exits.OK
    for line in _lines(status):
        print(line)
    return exits.OK


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    name = f" ({table.plain(status['name'])})" if status["name"] else ""
    yield (
        f"mcd {status['version']}  up {table.duration(status['uptime_s'])}  "
        f"peer {status['peer_id']}{name}  network {status['network']}"
    )
    yield f"API      http://{status['http']}/v1"
    peers, models = table.count(status["n_peers"], "peer"), table.count(status["n_models"], "model")
    yield f"Mesh     {table.count(status['n_links'], 'link')}, {peers}, {models}"
    for engine in status["engines"]:
        yield f"Serving  {_engine(engine)}"
    if not status["engines"]:
        yield "Serving  nothing (entry only; mcd run --cpu or --gpu serves a model)"
    p50, p95 = (table.duration(status[key]) for key in ("ttft_p50_s", "ttft_p95_s"))
    first = "" if status["ttft_p50_s"] is None else f", first token p50 {p50} p95 {p95}"
    yield (
        f"Asked    {table.count(status['n_requests'], 'request')}, {status['n_failed']} failed{first}, "
        f"{table.count(status['n_prompt_tokens'], 'token')} in, {status['n_output_tokens']:,} out"
    )
    yield f"Served   {table.count(status['n_served'], 'request')}, own ones included"
    for warning in status["warnings"]:
        yield table.paint(f"WARN     {table.plain(warning)}", table.YELLOW)


def _engine(engine: Mapping[str, Any]) -> str:
    parts = [
        f"{engine['alias']} on {table.plain(engine['device']) or 'unknown device'}",
        _state(engine),
        f"{engine['n_running']}/{engine['n_slots']} slots",
        f"{engine['output_tokens_per_s']:.0f} tok/s",
    ]
    if engine["restarts"]:
        parts.append(table.count(engine["restarts"], "restart"))
    if engine["fit"]:
        parts.append(table.plain(engine["fit"]))
    if engine["detail"]:
        parts.append(table.plain(engine["detail"]))
    return ", ".join(parts)


def _state(engine: Mapping[str, Any]) -> str:
    if engine["state"] != "asleep":
        return str(engine["state"])
    return f"asleep (a request loads it in {table.duration(engine['load_ms'] / 1000)})"
