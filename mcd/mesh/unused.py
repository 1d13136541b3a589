"""Stand in for the parts of libp2p 0.8.1 that it imports eagerly and no peer of ours uses.

Two reasons: fastecdsa would need a compiler and GMP on every peer, and the rest costs every start a third of a second
of processor time and 20 MB. A name imported from an absent part is a class that can be inherited, caught and asked
about, and fails when it is called; so what would need the part fails by itself: a peer with an ECDSA identity ends its
own handshake. `mcd.mesh` runs it before any module of its own is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

ABSENT = (
    "dns.quic",  # libp2p's resolver of /dnsaddr, over QUIC
    "fastecdsa",  # ECDSA identities
    "libp2p.discovery.bootstrap",  # mesh/bootstrap.py is ours
    "libp2p.discovery.mdns",  # mesh/lan.py is ours
    "libp2p.discovery.upnp",
    "libp2p.peer.persistent",
    "libp2p.relay",
    "libp2p.security.tls",  # Noise only
    "libp2p.transport.quic",  # TCP only
    "libp2p.transport.websocket",
)


class _Named(type):
    """Lets ``curve_types.Curve`` in an annotation resolve."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable


class _Unusable(Exception, metaclass=_Named):  # noqa: N818  # an exception because libp2p catches some of the names
    """What every name of an absent part is; using it fails."""

    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise ValueError("this part of libp2p is not supported")


class _Absent(ModuleType):
    """A package that answers any name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable


class _StandIn(MetaPathFinder, Loader):
    """Finds every module of an absent part."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A placeholder for an absent part, else nothing."""
        if any(name == part or name.startswith(f"{part}.") for part in ABSENT):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The placeholder."""
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def stand_in() -> None:
    """Register the placeholders, ahead of what is installed. What was imported before stays as it is."""
    sys.meta_path.insert(0, _StandIn())
