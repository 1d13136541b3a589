"""`mcd id`: who this peer is, whether or not it runs."""

from __future__ import annotations

import argparse

from mcd.cli import client, exits
from mcd.cli.exits import CommandError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the id; from the daemon also its addresses, ready for another peer's --bootstrap."""
    try:
        identity = client.ask(args.home, "id")
    except CommandError as error:
        if error.exit_code != exits.NO_DAEMON:
            raise
        identity = {"peer_id": _stored_id(args, error), "addresses": []}
    if args.json:
        client.print_json(identity)
        return exits.OK
    print(identity["peer_id"])
    for address in identity["addresses"]:
        print(address)
    return exits.OK


def _stored_id(args: argparse.Namespace, no_daemon: CommandError) -> str:
    from mcd.store.keys import read_peer_id  # loads cryptography: only when no daemon answers

    peer_id = read_peer_id(args.home)
    if peer_id is None:
        raise CommandError(f"{args.home} has no key yet; mcd run makes one", exits.NO_DAEMON) from no_daemon
    return peer_id
