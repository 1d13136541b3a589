"""The models folder and its index."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mcd.errors import ConfigError
from mcd.store import models
from mcd.store.models import LocalModel


def entry(name: str, **more: str | int) -> LocalModel:
    return LocalModel(name=name, file=f"{name}.gguf", size_bytes=4, **more)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    models.folder(tmp_path).mkdir()
    return tmp_path


def put(home: Path, name: str) -> Path:
    path = models.folder(home) / name
    path.write_bytes(b"GGUF")
    return path


def test_a_home_without_a_folder_has_no_models(tmp_path: Path) -> None:
    assert models.read(tmp_path) == {}
    assert models.unfinished_bytes(tmp_path) == 0


def test_add_read_remove(home: Path) -> None:
    b, a = entry("b", digest="00" * 32, source="o/r:f.gguf"), entry("a", n_ctx=4096)
    models.add(home, b, put(home, "fresh"))
    models.add(home, a, put(home, "fresh"))
    assert list(models.read(home).items()) == [("a", a), ("b", b)]
    index = models.folder(home) / models.INDEX_FILE
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert sorted(json.loads(index.read_bytes())) == ["models", "version"]
    models.remove(home, b)
    assert list(models.read(home)) == ["a"]
    assert sorted(path.name for path in models.folder(home).iterdir()) == ["a.gguf", "index.json"]


def test_nobody_else_changes_the_index_between_its_reading_and_its_writing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two commands that end at once, the second must read what the first wrote: else an entry is lost."""
    seen: list[str] = []

    def watch(name: str) -> None:
        call = getattr(models, name)

        def watched(*given: Any) -> Any:
            fd = os.open(models.folder(home), os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
            seen.append(name)
            return call(*given)

        monkeypatch.setattr(models, name, watched)

    watch("_read_index")
    watch("_write_index")
    models.add(home, entry("a"), put(home, "fresh"))
    models.add_projector(home, entry("a"), put(home, "fresh"))
    models.remove(home, entry("a"))
    assert seen == ["_read_index", "_write_index"] * 3


def test_files_rule_over_the_index(home: Path) -> None:
    models.add(home, entry("gone", digest="00" * 32), put(home, "fresh"))
    (models.folder(home) / "gone.gguf").unlink()
    put(home, "mine.gguf")
    put(home, "notes.txt")
    assert models.read(home) == {"mine": entry("mine")}
    models.remove(home, entry("mine"))
    assert models.read(home) == {}


def test_a_link_is_removed_and_its_target_kept(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.gguf"
    target.write_bytes(b"GGUF")
    (models.folder(home) / "linked.gguf").symlink_to(target)
    models.remove(home, models.read(home)["linked"])
    assert target.exists()
    assert models.read(home) == {}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"version": 2, "models": {}}',
        b'{"version": 1, "models": {"x": {"name": "x", "file": "../../etc/x.gguf", "size_bytes": 1}}}',
        b'{"version": 1, "models": {"x": 3}}',
    ],
)
def test_a_damaged_index_is_said_and_never_written_over(home: Path, text: bytes) -> None:
    path = models.folder(home) / models.INDEX_FILE
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="remove it"):
        models.read(home)
    fresh = put(home, "fresh")
    with pytest.raises(ConfigError, match="remove it"):
        models.add(home, entry("x"), fresh)
    assert path.read_bytes() == text
    assert fresh.exists()


def test_a_folder_that_cannot_be_written(home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        models.add(home, entry("x"), models.folder(home) / "never-came")
    with pytest.raises(ConfigError, match="cannot write"):
        models.remove(home / "nowhere", entry("x"))
