"""Which backend a Hello asks for: what it may keep, then the import of what computes."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from mcd.engine import renderer, sandbox, script
from mcd.engine.backend import Backend, StartError
from mcd.engine.messages import EngineOptions, FailureCode, Hello
from mcd.engine.rendering import Rendering
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


def start_rendering(hello: Hello) -> tuple[Rendering | None, tuple[str, ...]]:
    """Fork the process in which chat templates run, if the backend needs one; with it a line for `mcd doctor`."""
    if hello.backend != "llama":
        return None, ()
    try:
        rendering = Rendering.start()
    except OSError as fault:
        return None, (f"chat templates: failed, no process for them can be started: {fault.strerror}",)
    limits = f"{renderer.RENDER_CPU_S:.0f} s and {renderer.MEMORY_BYTES // 2**20} MiB a prompt, then it is replaced"
    return rendering, (f"chat templates: holds, in a process of their own, confined as this one: {limits}",)


def limit_memory(max_bytes: int) -> None:
    """Bound what this process may allocate, so that a model that takes more than was reckoned harms itself alone."""
    if max_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def open_backend(hello: Hello, options: EngineOptions, rendering: Rendering | None) -> Backend:
    """Import and load what computes.

    Raises:
        StartError: It cannot, for a reason that stays.
    """
    limit_memory(options.max_bytes)
    try:
        return _open(hello, options, rendering)
    except MemoryError:
        raise StartError(FailureCode.OUT_OF_MEMORY) from None


def _open(hello: Hello, options: EngineOptions, rendering: Rendering | None) -> Backend:
    if hello.backend == "scripted":
        return _scripted(hello.source, options)
    if hello.backend == "llama":
        if rendering is None:
            raise StartError(FailureCode.OUT_OF_MEMORY)
        return open_llama(hello.source, options, rendering)
    from mcd.engine.openai import OpenAIBackend

    return OpenAIBackend(hello.source, options)


def open_llama(path: str, options: EngineOptions, rendering: Rendering) -> Backend:
    """Load a GGUF behind the backend that suits it; takes as long as reading the weights.

    Raises:
        StartError: For a reason that stays.
    """
    from mcd.engine import abi
    from mcd.engine.model import Model
    from mcd.engine.roles import role_of

    lib = abi.load_library()
    if options.gpu and not lib.llama_supports_gpu_offload():
        raise StartError(FailureCode.NO_GPU)
    model = Model(lib, path, n_gpu_layers=options.n_gpu_layers if options.gpu else 0, split=options.split)
    role = role_of(model)
    if role is not None:
        from mcd.engine.embed import EmbedBackend

        rendering.close()  # it answers no chats
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)  # our only child: else its entry would stay as long as we do
        return EmbedBackend(model, role, options)
    from mcd.engine.llama import LlamaBackend

    return LlamaBackend(model, options, rendering)


def _scripted(source: str, options: EngineOptions) -> Backend:
    from mcd.engine.scripted import ScriptedBackend

    try:
        play = script.parse(Path(source).read_bytes(), "the script")
    except (OSError, ConfigError):
        raise StartError(FailureCode.SCRIPT_INVALID) from None
    return ScriptedBackend(play, options.n_slots, options.n_ctx)
