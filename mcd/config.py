"""The daemon's configuration: one frozen struct, one docstring a field; flags are its only source."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from mcd.errors import ConfigError

DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_LISTEN = "/ip4/0.0.0.0/tcp/4101"
DEFAULT_NETWORK = "main"
EMBEDDED_MODEL = "modelcloud-nano"
PROJECTOR_SUFFIX = ".mmproj.gguf"
"""Of the file through which a model sees: ``NAME.mmproj.gguf`` belongs to ``NAME.gguf`` in the same folder."""
CONTROL_SOCKET = "control.sock"
"""Name of the control socket inside the home folder."""
MAX_UNIX_PATH_BYTES = 107
"""Linux's sockaddr_un holds 108 bytes with the terminating zero."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `mcd run` can be told."""

    home: Path
    """Folder of key, control socket and models, created 0700. Default ~/.modelcloud; one daemon a home."""
    http: str = DEFAULT_HTTP
    """HOST:PORT of the API. Anything but loopback exposes plaintext prompts to the network between."""
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    """Multiaddrs to listen on, TCP only; port 0 lets the kernel choose."""
    bootstrap: tuple[str, ...] = ()
    """Addresses of known peers to join through, each ending in /p2p/<id>. They have no other power."""
    network: str = DEFAULT_NETWORK
    """Peers of different networks ignore one another's records."""
    name: str = ""
    """What others see in `mcd peers`; empty shows the id alone."""
    use_lan: bool = True
    """Find peers on the local network by mDNS; costs one multicast a minute."""
    device: Literal["none", "cpu", "gpu"] = "none"
    """none: entry only."""
    models: tuple[str, ...] = ()
    """Names or GGUF paths to serve; empty with a device means the embedded model."""
    log_level: str = "info"
    """debug, info, warning or error. User text is logged at no level."""
    engine: str = "llama"
    """llama, scripted:FILE (a test aid) or openai:URL."""


_HTTP = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(?P<port>\d{1,5})\Z")


def parse_http(text: str) -> tuple[str, int]:
    """Split HOST:PORT; port 0 asks the kernel for one.

    Raises:
        ConfigError: Not HOST:PORT.
    """
    match = _HTTP.match(text)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(f"--http {text!r} is not HOST:PORT; write for example --http 127.0.0.1:8080")
    return match["host"].strip("[]"), int(match["port"])


def control_path(home: Path) -> Path:
    """Where the control socket of a home lies.

    Raises:
        ConfigError: The path is too long for a unix socket.
    """
    path = home / CONTROL_SOCKET
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise ConfigError(f"--home {home} is too long for a unix socket; choose a path under 90 characters")
    return path


def default_home() -> Path:
    """~/.modelcloud of the user who runs us."""
    return Path.home() / ".modelcloud"
