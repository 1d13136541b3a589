"""Which backend a Hello asks for: what it may keep, then the import of what computes."""

from __future__ import annotations

from pathlib import Path

from mcd.engine import sandbox, script
from mcd.engine.backend import Backend, StartError
from mcd.engine.messages import FailureCode, Hello
from mcd.errors import ConfigError


def confine(hello: Hello) -> tuple[str, ...]:
    """Give up every right the backend does not need; one line a control, for `mcd doctor`."""
    if hello.backend == "openai":
        from mcd.engine.upstream import port_of

        profile = sandbox.Profile(name="adapter", upstream_port=port_of(hello.source))
    else:
        profile = sandbox.Profile(read_paths=(hello.source,), needs_gpu=hello.options.gpu)
    return sandbox.harden(profile).lines()


def lock_keys() -> str:
    """Keep the pages that hold the seal keys out of swap, once they exist; one line for `mcd doctor`."""
    control = sandbox.lock_heap()
    return f"{control.name}: {control.state}, {control.detail}"


def open_backend(hello: Hello) -> Backend:
    """Import and load what computes.

    Raises:
        StartError: It cannot, for a reason that stays.
    """
    if hello.backend == "scripted":
        return _scripted(hello)
    if hello.backend == "llama":
        from mcd.engine.llama import LlamaBackend

        return LlamaBackend(hello.source, hello.options)
    from mcd.engine.openai import OpenAIBackend

    return OpenAIBackend(hello.source, hello.options)


def _scripted(hello: Hello) -> Backend:
    from mcd.engine.scripted import ScriptedBackend

    try:
        play = script.parse(Path(hello.source).read_bytes(), "the script")
    except (OSError, ConfigError):
        raise StartError(FailureCode.SCRIPT_INVALID) from None
    return ScriptedBackend(play, hello.options.n_slots, hello.options.n_ctx)
