"""Which backend a Hello asks for: what it may keep, then the import of what computes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from mcd.engine import compiler, decoder, renderer, sandbox, script
from mcd.engine.backend import Backend, StartError
from mcd.engine.compiling import Compiling
from mcd.engine.decoding import Decoding
from mcd.engine.gguf_facts import projector_kind
from mcd.engine.ggufcheck import check_projector
from mcd.engine.messages import EngineOptions, FailureCode, Hello
from mcd.engine.rendering import Rendering
from mcd.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    from mcd.engine.model import Model
    from mcd.engine.vision import Vision


def confine(hello: Hello) -> tuple[str, ...]:
    """Give up every right the backend does not need; one line a control, for `mcd doctor`."""
    if hello.backend == "openai":
        from mcd.engine.upstream import port_of

        profile = sandbox.Profile(name="adapter", upstream_port=port_of(hello.source))
    else:
        profile = sandbox.Profile(
            read_paths=tuple(filter(None, (hello.source, hello.projector))), needs_gpu=hello.options.gpu
        )
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


def start_decoding(hello: Hello) -> tuple[Decoding | None, tuple[str, ...]]:
    """Fork the process in which pictures are decoded, if the model sees them; with it a line for `mcd doctor`."""
    if not hello.projector or importlib.util.find_spec("PIL") is None:
        return None, ()
    try:
        decoding = Decoding.start()
    except OSError as fault:
        return None, (f"pictures: failed, no process for them can be started: {fault.strerror}",)
    limits = f"{decoder.DECODE_CPU_S:.0f} s and {decoder.MEMORY_BYTES // 2**20} MiB"
    return decoding, (f"pictures: holds, each decoded in a process of its own, confined as this one: {limits}",)


def start_compiling(hello: Hello) -> tuple[Compiling | None, tuple[str, ...]]:
    """Fork the process in which schemas become grammars, if the backend needs one; with it a line for `mcd doctor`."""
    if hello.backend != "llama":
        return None, ()
    try:
        compiling = Compiling.start()
    except OSError as fault:
        return None, (f"schemas: failed, no process for them can be started: {fault.strerror}",)
    limits = f"{compiler.COMPILE_CPU_S:.0f} s and {compiler.MEMORY_BYTES // 2**20} MiB"
    return compiling, (
        f"schemas: holds, those of each request in a process of its own, confined as this one: {limits}",
    )


def limit_memory(max_bytes: int) -> None:
    """Bound what this process may allocate, so that a model that takes more than was reckoned harms itself alone."""
    if max_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def open_backend(
    hello: Hello,
    options: EngineOptions,
    rendering: Rendering | None,
    compiling: Compiling | None,
    decoding: Decoding | None = None,
) -> Backend:
    """Import and load what computes.

    Raises:
        StartError: It cannot, for a reason that stays.
    """
    limit_memory(options.max_bytes)
    try:
        return _open(hello, options, rendering, compiling, decoding)
    except MemoryError:
        raise StartError(FailureCode.OUT_OF_MEMORY) from None


def _open(
    hello: Hello,
    options: EngineOptions,
    rendering: Rendering | None,
    compiling: Compiling | None,
    decoding: Decoding | None,
) -> Backend:
    if hello.backend == "scripted":
        return _scripted(hello.source, options)
    if hello.backend == "llama":
        if rendering is None or compiling is None:
            raise StartError(FailureCode.OUT_OF_MEMORY)
        return open_llama(hello.source, options, rendering, compiling, decoding, hello.projector)
    from mcd.engine.openai import OpenAIBackend

    return OpenAIBackend(hello.source, options)


def open_llama(
    path: str,
    options: EngineOptions,
    rendering: Rendering,
    compiling: Compiling,
    decoding: Decoding | None = None,
    projector: str = "",
) -> Backend:
    """Load a GGUF behind the backend that suits it; takes as long as reading the weights.

    ``projector`` is the file through which it sees; it needs ``decoding``.

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
        compiling.close()
        if decoding is not None:
            decoding.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0):  # our only children: else their entries would stay as long as we do
                pass
        return EmbedBackend(model, role, options)
    from mcd.engine.llama import LlamaBackend
    from mcd.engine.prompts import Prompts

    vision = _open_vision(model, options, decoding, projector) if projector else None
    return LlamaBackend(model, options, Prompts(model, rendering, decoding, vision), compiling)


def _open_vision(model: Model, options: EngineOptions, decoding: Decoding | None, projector: str) -> Vision:
    from mcd.engine import measure
    from mcd.engine.vision import Vision

    if decoding is None:
        raise StartError(FailureCode.PICTURES_MISSING)
    try:
        kind = projector_kind(check_projector(projector))
    except ModelFileError:
        raise StartError(FailureCode.PROJECTOR_INVALID) from None
    n_threads = measure.compute_threads(options.n_threads)
    return Vision(model, projector, kind, use_gpu=options.gpu, n_threads=n_threads)


def _scripted(source: str, options: EngineOptions) -> Backend:
    from mcd.engine.scripted import ScriptedBackend

    try:
        play = script.parse(Path(source).read_bytes(), "the script")
    except (OSError, ConfigError):
        raise StartError(FailureCode.SCRIPT_INVALID) from None
    return ScriptedBackend(play, options.n_slots, options.n_ctx)
