"""How many files a peer may have open: as many as the system grants, and a clear word where that is too few."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from mcd.daemon import MAX_OPEN_FILES, MIN_OPEN_FILES


def test_the_limit_is_raised_as_far_as_it_may_be() -> None:
    code = (
        "import resource\n_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))\n"
        "from mcd.daemon import allow_open_files\nallow_open_files()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    soft, hard = (int(word) for word in done.stdout.split())
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    assert soft == most
    assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_too_few_files_are_named_before_anything_starts(tmp_path: Path) -> None:
    code = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({MIN_OPEN_FILES - 1}, {MIN_OPEN_FILES - 1}))\n"
        f"from mcd.cli.main import main\nraise SystemExit(main(['run', '--home', {str(tmp_path / 'home')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()
