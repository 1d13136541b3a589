"""`--gpu` on a build without GPU support: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_gpu_without_a_gpu_build_names_the_remedy(tmp_path: Path) -> None:
    # a llama_cpp that reports no GPU, whatever this machine's build can do
    fake = tmp_path / "fake" / "llama_cpp"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError\n")
    run = [sys.executable, "-m", "mcd", "run", "--gpu", "--home", str(tmp_path / "home")]
    done = subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "fake")},
    )
    assert done.returncode == 2
    assert "CMAKE_ARGS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()
