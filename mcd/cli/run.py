"""`mcd run`: flags into a `Config`, then the daemon until a signal."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Literal

from mcd import config
from mcd.cli import client, table
from mcd.config import Config
from mcd.errors import ConfigError, McdError
from mcd.log import LEVELS
from mcd.ports import DaemonStatus
from mcd.spool import Spool

_NETWORK = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,31}|")
_ENGINE = re.compile(r"llama|scripted:.+|openai:https?://.+")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--cpu", action="store_true", help="serve models on the processor")
    device.add_argument("--gpu", action="store_true", help="serve models on the GPU")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME_OR_GGUF",
        help="serve this model; may be repeated (default with --cpu or --gpu: the embedded one)",
    )
    client.add_home(parser)
    parser.add_argument(
        "--http", default=config.DEFAULT_HTTP, metavar="HOST:PORT", help="the API's address (default: %(default)s)"
    )
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="MULTIADDR",
        help=f"where other peers reach us; may be repeated (default: {config.DEFAULT_LISTEN})",
    )
    parser.add_argument(
        "--bootstrap", action="append", default=[], metavar="MULTIADDR", help="a known peer, /ip4/.../p2p/ID"
    )
    parser.add_argument(
        "--network", default=config.DEFAULT_NETWORK, metavar="NAME", help="which network to join (default: %(default)s)"
    )
    parser.add_argument("--name", default="", metavar="NAME", help="what others see in mcd peers")
    parser.add_argument("--no-lan", action="store_true", help="do not look for peers on the local network")
    parser.add_argument(
        "--engine",
        default="llama",
        metavar="ENGINE",
        help="llama (the default), scripted:FILE (plays fixed answers, a test aid) or openai:URL (another server)",
    )
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="what goes to stderr, as JSON unless that is a terminal; user text never does (default: info)",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the peer until Ctrl-C or SIGTERM."""
    settings = to_config(args)
    from mcd import daemon  # loads trio, libp2p and aiohttp: only when a peer really starts

    try:
        with Spool(sys.stdout, lambda _: "") as out:  # the daemon does not wait for whoever reads it
            return daemon.run(settings, lambda status: out.write(banner(status)))
    except BaseExceptionGroup as group:
        raise _only_error(group) from None


def to_config(args: argparse.Namespace) -> Config:
    """Check the flags that can be checked before anything starts.

    Raises:
        ConfigError: A flag cannot be used.
    """
    device: Literal["none", "cpu", "gpu"] = "gpu" if args.gpu else "cpu" if args.cpu else "none"
    _need(device != "none" or not args.model, "--model needs --cpu or --gpu")
    _need(device != "none" or args.engine == "llama", "--engine needs --cpu or --gpu")
    _need(_ENGINE.fullmatch(args.engine) is not None, "--engine must be llama, scripted:FILE or openai:URL")
    _need(_NETWORK.fullmatch(args.network) is not None, "--network takes a-z, 0-9 and -, at most 32")
    _need(_NAME.fullmatch(args.name) is not None, "--name takes letters, digits, spaces and ._()+-, at most 32")
    config.parse_http(args.http)
    for address in args.listen:
        _need(address.startswith("/ip") and "/tcp/" in address, f"--listen {address} is not /ip4/ADDRESS/tcp/PORT")
    for address in args.bootstrap:
        _need(address.startswith("/") and "/p2p/" in address, f"--bootstrap {address} does not end in /p2p/ID")
    return Config(
        home=args.home,
        http=args.http,
        listen=tuple(args.listen) or (config.DEFAULT_LISTEN,),
        bootstrap=tuple(args.bootstrap),
        network=args.network,
        name=args.name,
        use_lan=not args.no_lan,
        device=device,
        models=tuple(args.model),
        engine=args.engine,
        log_level=args.log_level,
    )


def banner(status: DaemonStatus) -> str:
    """What to say once the API listens."""
    lines = [f"mcd {status.version}  peer {status.peer_id}"]
    lines += [f"  listens    {address}" for address in status.addresses]
    for engine in status.engines:
        lines.append(f"  serves     {engine.alias} ({engine.state})")
    if not status.engines:
        lines.append("  serves     nothing: entry only; --cpu or --gpu serves a model")
    lines.append(f"  API        http://{status.http}/v1")
    warnings = [*status.warnings, *_exposure(status.http)]
    lines += [f"  {table.paint('warning', table.YELLOW)}    {table.plain(warning)}" for warning in warnings]
    model = status.engines[0].alias if status.engines else config.EMBEDDED_MODEL
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is mcd?"}]})
    hint = "Try it:" if status.engines else "Try it, with a name from mcd models:"
    lines += ["", hint, f"  curl http://{status.http}/v1/chat/completions \\"]
    lines += ["    -H 'content-type: application/json' \\", f"    -d '{body}'", ""]
    return "\n".join(lines) + "\n"


def _exposure(http: str) -> list[str]:
    """Say what listening beyond this machine means."""
    host, _ = config.parse_http(http)
    if host == "localhost" or host.startswith("127.") or host == "::1":
        return []
    return ["the API listens beyond this machine: prompts travel in the clear to it, and whoever reaches it may ask"]


def _need(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(rule)


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person should read: trio wraps the error that ended its tasks. A bug stays whole, traceback and all."""
    expected, bugs = group.split(McdError)
    error: BaseException | None = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return group if bugs is not None or error is None else error
