"""Setting up: what is built with other options is built anew, and what was built last stays."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import install, llama_files

CUDA = "-DGGML_CUDA=on"
WHEEL = "llama_cpp_python-0-py3-none-any.whl"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[str | Path], str]]:
    """The commands by which llama.cpp was built, each with its options; what builds it is stood in for."""
    calls: list[tuple[list[str | Path], str]] = []

    class Build:
        returncode = 0
        stdout = io.StringIO("[1/1] done\n")

        def __init__(self, command: list[str | Path], *, env: dict[str, str], **_: Any) -> None:
            calls.append((command, env["CMAKE_ARGS"]))
            folder = Path(command[command.index("-w") + 1])
            folder.mkdir(parents=True)
            (folder / WHEEL).touch()

        def __enter__(self) -> Build:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MCD_WHEEL_CACHE", str(tmp_path / "wheels"))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(install.subprocess, "Popen", Build)
    return calls


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str | None], list[Path]]:
    """Install with these CMAKE_ARGS, None for unset; returns the wheels that pip was to install."""
    monkeypatch.setattr(install, "VENV", tmp_path)

    def run(options: str | None) -> list[Path]:
        installed: list[Path] = []
        monkeypatch.setattr(install, "pip", lambda *args: installed.append(args[-1]))
        if options is None:
            monkeypatch.delenv("CMAKE_ARGS", raising=False)
        else:
            monkeypatch.setenv("CMAKE_ARGS", options)
        install.install_llama()
        return installed

    return run


def test_each_set_of_options_is_built_once_and_what_was_built_last_stays(
    builds: list[tuple[list[str | Path], str]], set_up: Callable[[str | None], list[Path]]
) -> None:
    (plain,) = set_up(None)
    assert set_up(None) == set_up("") == []
    (cuda,) = set_up(CUDA)
    assert cuda.parent != plain.parent
    assert set_up(None) == set_up(CUDA) == []
    assert set_up("") == [plain]
    assert set_up(None) == []
    assert set_up(CUDA) == [cuda]
    assert [options for _, options in builds] == ["", CUDA]


def test_a_build_takes_nothing_that_pip_kept_of_another(
    builds: list[tuple[list[str | Path], str]], set_up: Callable[[str | None], list[Path]]
) -> None:
    set_up(CUDA)
    ((command, _),) = builds
    assert "--no-cache-dir" in command


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who stopped the first `make run` got a page of subprocess.py."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "main", interrupted)
    with pytest.raises(SystemExit) as caught:
        install.run()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\nstopped; run it again to go on\n"


def test_an_interrupted_build_leaves_nothing(
    builds: list[tuple[list[str | Path], str]],
    set_up: Callable[[str | None], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(install, "show_progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up(None)
    assert list((tmp_path / "wheels").iterdir()) == []
    assert len(set_up(None)) == 1
    assert len(builds) == 2


def test_interrupted_fetching_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(_: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(llama_files, "folder", lambda: tmp_path / "kept" / "files")
    monkeypatch.setattr(llama_files, "download", interrupted)
    assert llama_files.main() == 130
    assert list((tmp_path / "kept").iterdir()) == []


def test_without_npm_make_test_says_so_before_it_builds(tmp_path: Path) -> None:
    """After the build and minutes of tests it ended in errors of subprocess, and the README did not ask for npm."""
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "test"], cwd=install.ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no npm, ")
    assert "apt-get install npm" in done.stderr
    assert done.stdout == ""
