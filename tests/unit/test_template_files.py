"""What our tests take from llama.cpp's source: all of it is there, and the archive is read as it should be."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from scripts import llama_files
from tests.fakes import templates

MODELS = "llama_cpp_python-1/vendor/llama.cpp/models"


def archive(folder: Path, *names: str) -> Path:
    path = folder / "source.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            made.addfile(member, io.BytesIO(b"x"))
    return path


def test_the_files_are_those_listed() -> None:
    assert (templates.found("templates"), templates.found("vocab")) == (templates.NAMES, templates.VOCABULARIES)
    assert all(templates.source(name).strip() for name in templates.NAMES)


def test_a_missing_file_fails_and_names_the_remedy() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"nobodys-model\.jinja is not in .*run: make setup-dev"):
        templates.source("nobodys-model")


def test_only_templates_and_vocabularies_leave_the_archive(tmp_path: Path) -> None:
    source = archive(
        tmp_path,
        f"{MODELS}/templates/one.jinja", f"{MODELS}/ggml-vocab-a.gguf", f"{MODELS}/ggml-vocab-a.gguf.inp",
        f"{MODELS}/templates/../../../../../out.jinja", f"{MODELS}/templates/README.md", "/etc/passwd",
    )  # fmt: skip
    assert llama_files.extract(source, tmp_path / "kept") == 2
    kept = {str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert kept == {"templates/one.jinja", "vocab/a.gguf"}


def test_an_archive_without_templates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no templates"):
        llama_files.extract(archive(tmp_path, "README.md"), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_what_vanishes_while_it_is_measured_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip moves what it unpacks: a set-up once ended there."""
    (tmp_path / "kept").write_bytes(bytes(2_000_000))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    real = os.scandir

    def scandir(folder: str | Path) -> object:
        if Path(folder).name == "moved":
            raise FileNotFoundError(folder)
        return real(folder)

    (tmp_path / "moved").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    assert llama_files.largest_mb(tmp_path) == 2.0
    assert llama_files.largest_mb(tmp_path / "nowhere") == 0.0
