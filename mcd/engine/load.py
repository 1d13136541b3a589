"""Which backend a Hello asks for, confined before it is imported."""

from __future__ import annotations

from pathlib import Path

from mcd.engine import script
from mcd.engine.backend import Backend, StartError
from mcd.engine.messages import FailureCode, Hello
from mcd.errors import ConfigError


def confine(hello: Hello) -> tuple[str, ...]:
    """Give up every right the backend does not need; one line a control, for `mcd doctor`."""
    del hello
    return ()


def open_backend(hello: Hello) -> Backend:
    """Load what computes.

    Raises:
        StartError: It cannot, for a reason that stays.
    """
    if hello.backend == "scripted":
        return _scripted(hello)
    raise StartError(FailureCode.LIBRARY_MISSING)


def _scripted(hello: Hello) -> Backend:
    from mcd.engine.scripted import ScriptedBackend

    try:
        play = script.parse(Path(hello.source).read_bytes(), "the script")
    except (OSError, ConfigError):
        raise StartError(FailureCode.SCRIPT_INVALID) from None
    return ScriptedBackend(play, hello.options.n_slots, hello.options.n_ctx)
