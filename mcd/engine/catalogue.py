"""From what an operator typed to the engines to start: names, GGUF paths, scripts and upstream URLs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mcd.config import EMBEDDED_MODEL, PROJECTOR_SUFFIX, default_home
from mcd.engine import ggufcheck, script
from mcd.engine.known_models import known_models
from mcd.errors import ConfigError, ModelFileError

MAX_ALIAS_CHARS = 96
MODELS_FOLDER = "models"
"""Inside the home folder: where GGUF files may lie under their plain names."""

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._:/-]{0,95}\Z")
_NOT_ALIAS = re.compile(r"[^a-z0-9._:/-]+")


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine to start."""

    alias: str
    """What users type; matches the wire's alias pattern."""
    backend: str
    """``llama``, ``scripted`` or ``openai``."""
    source: str
    """GGUF path, script path, or base URL and model name (``URL#MODEL``)."""
    digest: bytes = b""
    """Identity of the model; empty for a GGUF until its file has been read."""
    projector: str = ""
    """GGUF through which the model sees pictures; empty: it does not."""


def resolve(names: Sequence[str], home: Path, engine: str) -> list[EngineSpec]:
    """The engines that ``--model`` and ``--engine`` ask for, in order; the embedded model when no name is given.

    Raises:
        ConfigError: A name, path, script or URL cannot be used; says what to do.
    """
    kind, _, argument = engine.partition(":")
    if kind == "llama" and not argument:
        specs = [_gguf(name, home) for name in (names or (EMBEDDED_MODEL,))]
    elif kind == "scripted" and argument:
        specs = _scripted(names, Path(argument))
    elif kind == "openai" and argument:
        specs = _openai(names, argument)
    else:
        raise ConfigError(f"--engine {engine!r} is none of llama, scripted:FILE and openai:URL")
    seen: set[str] = set()
    for spec in specs:
        if spec.alias in seen:
            raise ConfigError(f"two models would both be called {spec.alias}; serve one of them")
        seen.add(spec.alias)
    return specs


def sanitise_alias(text: str) -> str:
    """The nearest alias: lower case, anything else a hyphen; empty when nothing is left."""
    alias = _NOT_ALIAS.sub("-", text.lower()).strip("-._:/")
    return alias[:MAX_ALIAS_CHARS].rstrip("-._:/")


def embedded_path() -> Path:
    """Where the embedded model lies."""
    return Path(__file__).parent / "models" / f"{EMBEDDED_MODEL}.gguf"


def _gguf(name: str, home: Path) -> EngineSpec:
    if name == EMBEDDED_MODEL:
        return EngineSpec(alias=name, backend="llama", source=str(embedded_path()))
    if name.endswith(".gguf") or "/" in name:
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"--model {name}: there is no such file")
        if path.name.endswith(PROJECTOR_SUFFIX):
            raise ConfigError(f"--model {name}: that is a projector; name the model beside it")
        return _file(_file_alias(path), path)
    if _ALIAS.match(name):
        path = home / MODELS_FOLDER / f"{name}.gguf"
        if path.is_file():
            return _file(name, path.absolute())
    if name in known_models():
        elsewhere = "" if home == default_home() else f" --home {home}"
        raise ConfigError(f"--model {name}: it is not on this machine yet; fetch it first: mcd pull {name}{elsewhere}")
    raise ConfigError(
        f"--model {name}: no model of that name is here; fetch it with mcd pull, give the path of a GGUF file,"
        f" or put it into {home / MODELS_FOLDER} as {sanitise_alias(name) or 'NAME'}.gguf"
    )


def _file(alias: str, path: Path) -> EngineSpec:
    """A GGUF file, with the projector beside it: ``NAME.mmproj.gguf`` belongs to ``NAME.gguf``."""
    projector = path.with_suffix(PROJECTOR_SUFFIX)
    return EngineSpec(
        alias=alias, backend="llama", source=str(path), projector=str(projector) if projector.is_file() else ""
    )


def _file_alias(path: Path) -> str:
    try:
        title = ggufcheck.read_name(str(path))
    except ModelFileError as error:
        raise ConfigError(f"--model {path.name}: {error.message}") from None
    return sanitise_alias(title) or sanitise_alias(path.stem) or "model"


def _scripted(names: Sequence[str], path: Path) -> list[EngineSpec]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--engine scripted:{path}: {error.strerror}") from None
    play = script.parse(data, str(path))
    return [
        EngineSpec(
            alias=_checked(name),
            backend="scripted",
            source=str(path.absolute()),
            # By alias, not by content: two scripts of one name stand for two providers of one model.
            digest=hashlib.sha256(b"modelcloud scripted model\0" + name.encode()).digest(),
        )
        for name in (names or (play.alias,))
    ]


def _openai(names: Sequence[str], url: str) -> list[EngineSpec]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--engine openai:{url}: write http://HOST:PORT/v1 of an OpenAI-compatible server")
    if not names:
        raise ConfigError("--engine openai:URL needs --model NAME, as the server calls it")
    return [
        EngineSpec(
            alias=_checked(sanitise_alias(name)),
            backend="openai",
            source=f"{url.rstrip('/')}#{name}",
            digest=hashlib.sha256(b"modelcloud openai model\0" + name.encode()).digest(),
        )
        for name in names
    ]


def _checked(alias: str) -> str:
    if not _ALIAS.match(alias):
        raise ConfigError(f"--model {alias!r}: a model name is lower-case letters, digits and . _ : / - , at most 96")
    return alias
