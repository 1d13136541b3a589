"""Stand in for fastecdsa, which would need a compiler and GMP on every peer.   (pitfall: libp2p imports it eagerly)

libp2p uses it for ECDSA keys only. Ours are Ed25519, and a peer with an ECDSA identity is refused: reading its
key fails, which ends that one handshake. `mcd.mesh` runs it before any module of its own is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import NoReturn


class _Named(type):
    """Lets ``curve_types.Curve`` in an annotation resolve."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable


class _Unusable(metaclass=_Named):
    """What every name of the absent package is; using it fails."""

    def __init__(self, *_: object) -> NoReturn:
        raise ValueError("ECDSA keys are not supported")


class _Absent(ModuleType):
    """A package that answers any name."""

    __path__: list[str] = []  # noqa: RUF012  # the import system reads it: we are a package

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable


def stand_in() -> bool:
    """Register the placeholder unless the real package is installed; says whether it did."""
    if importlib.util.find_spec("fastecdsa") is not None:
        return False
    for name in ("fastecdsa", "fastecdsa.encoding", "fastecdsa.encoding.sec1", "fastecdsa.encoding.util"):
        sys.modules[name] = _Absent(name)
    return True
