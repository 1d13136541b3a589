"""A host in a process of its own, to be frozen or killed. Prints its id and address, serves echo, lives on."""

from __future__ import annotations

import sys

import trio

from tests.integration.mesh_hosts import ECHO, echo, new_host


async def main() -> None:
    """Run until killed."""
    host = new_host("127.0.0.9", seed=bytes(31) + b"9")
    host.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        sys.stdout.write(f"{host.peer_id} {host.addresses()[0]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
