"""The models folder of a home: pulled files and the index that says what each of them is.

The index is written whole, beside the old one, and renamed over it, so a crash leaves one or the other. Files that
the user put into the folder by hand are listed too; of them only the size is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mcd.config import PROJECTOR_SUFFIX
from mcd.errors import ConfigError

MODELS_FOLDER = "models"
INDEX_FILE = "index.json"
UNFINISHED_FOLDER = ".partial"
"""Inside the models folder: pulls that did not end yet."""
SUFFIX = ".gguf"
INDEX_VERSION = 1
MAX_INDEX_BYTES = 4 * 1024 * 1024
"""An entry has about 500 bytes; nobody keeps 8000 models."""


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """One file in the folder."""

    name: str
    """What `mcd run --model` takes."""
    file: str
    """File name inside the folder."""
    size_bytes: int
    digest: str | None = None
    """SHA-256, hex, as checked when it was pulled; None for a file put there by hand."""
    source: str | None = None
    """REPO:FILE on the hub."""
    revision: str | None = None
    """Commit of the repository."""
    licence: str | None = None
    quantisation: str | None = None
    n_ctx: int | None = None
    """Context it was trained for, by its own header."""
    pulled_at: str | None = None
    """RFC 3339, UTC."""
    projector_bytes: int | None = None
    """Size of the file through which it sees, beside its own; None when there is none."""
    projector_digest: str | None = None
    """SHA-256, hex, of that file as it was pulled."""


class _Index(msgspec.Struct, kw_only=True):
    version: int = INDEX_VERSION
    models: dict[str, LocalModel] = {}


def folder(home: Path) -> Path:
    """Where the files lie."""
    return home / MODELS_FOLDER


def path_of(home: Path, model: LocalModel) -> Path:
    """A model's file."""
    return folder(home) / model.file


def projector_of(home: Path, model: LocalModel) -> Path:
    """Where the file lies through which a model sees, if it does."""
    return path_of(home, model).with_suffix(PROJECTOR_SUFFIX)


def read(home: Path) -> dict[str, LocalModel]:
    """What is in the folder, by name: the index's entries whose file is there, and files put there by hand.

    Raises:
        ConfigError: The folder or its index cannot be read.
    """
    try:
        files = {path.name: path.stat().st_size for path in folder(home).glob(f"*{SUFFIX}") if path.is_file()}
    except OSError as problem:
        raise ConfigError(f"cannot read {folder(home)}: {problem.strerror}") from problem
    projectors = {file: size_bytes for file, size_bytes in files.items() if file.endswith(PROJECTOR_SUFFIX)}
    found = {name: entry for name, entry in _read_index(home).models.items() if entry.file in files}
    for file, size_bytes in files.items():
        name = file.removesuffix(SUFFIX)
        if file not in projectors:
            found.setdefault(name, LocalModel(name=name, file=file, size_bytes=size_bytes))
    return {name: _with_projector(entry, projectors) for name, entry in sorted(found.items())}


def _with_projector(model: LocalModel, projectors: dict[str, int]) -> LocalModel:
    size_bytes = projectors.get(model.file.removesuffix(SUFFIX) + PROJECTOR_SUFFIX)
    digest = model.projector_digest if size_bytes is not None else None
    return msgspec.structs.replace(model, projector_bytes=size_bytes, projector_digest=digest)


def unfinished_bytes(home: Path) -> int:
    """What pulls that did not end hold on the disk; one that ends meanwhile counts or not."""
    sizes = [0]
    for folder_name, _, names in os.walk(folder(home) / UNFINISHED_FOLDER):
        for name in names:
            if name.endswith(SUFFIX):
                with contextlib.suppress(OSError):
                    sizes.append(Path(folder_name, name).stat().st_size)
    return sum(sizes)


def add(home: Path, model: LocalModel, fresh: Path) -> None:
    """Give a checked file its name and its entry.

    Raises:
        ConfigError: The folder cannot be written.
    """
    with _locked(home) as index:
        _sync(fresh)  # the index must not outlive the bytes it vouches for when the power fails
        fresh.rename(path_of(home, model))
        _sync(folder(home))
        index.models[model.name] = model
        _write_index(home, index)


def add_projector(home: Path, model: LocalModel, fresh: Path) -> None:
    """Give a checked projector its name beside its model; ``model`` says what it is.

    Raises:
        ConfigError: The folder cannot be written.
    """
    with _locked(home) as index:
        _sync(fresh)
        fresh.rename(projector_of(home, model))
        _sync(folder(home))
        index.models[model.name] = model
        _write_index(home, index)


def remove(home: Path, model: LocalModel) -> None:
    """Delete a file, its projector and its entry. A daemon that has the file open keeps it until it stops.

    Raises:
        ConfigError: The folder cannot be written.
    """
    with _locked(home) as index:
        path_of(home, model).unlink(missing_ok=True)
        projector_of(home, model).unlink(missing_ok=True)
        if index.models.pop(model.name, None) is not None:
            _write_index(home, index)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[_Index]:
    """Hold the folder's lock, so that two commands ending at once both keep their entry."""
    try:
        fd = os.open(folder(home), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield _read_index(home)
        finally:
            os.close(fd)
    except OSError as problem:
        raise ConfigError(f"cannot write {folder(home)}: {problem.strerror}") from problem


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_index(home: Path) -> _Index:
    path = folder(home) / INDEX_FILE
    try:
        with path.open("rb") as file:
            index = msgspec.json.decode(file.read(MAX_INDEX_BYTES), type=_Index)
    except FileNotFoundError:
        return _Index()
    except OSError as problem:
        raise ConfigError(f"cannot read {path}: {problem.strerror}") from problem
    except msgspec.DecodeError:
        raise ConfigError(f"{path} is damaged; remove it: the files stay, and mcd pull takes them up again") from None
    if index.version != INDEX_VERSION or any(os.sep in entry.file for entry in index.models.values()):
        raise ConfigError(f"{path} was written by another version of mcd; remove it: the files stay")
    return index


def _write_index(home: Path, index: _Index) -> None:
    path = folder(home) / INDEX_FILE
    fresh = path.with_name(f"{INDEX_FILE}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(index), indent=1))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
