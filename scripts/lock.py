"""Write requirements/*.lock from requirements/*.in: pinned, hash-checked, naming no index host.

Run it with pip-tools installed (it is in dev.lock): ``make lock``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
COMPILED = ("fastecdsa",)
"""Left out of base.lock: compiles against GMP, and libp2p uses it for ECDSA keys only, which no peer of ours has
(mcd/mesh/unused.py stands in for it)."""
ORDER = ("base", "serve", "llama", "dev")
QUIET = ("--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host", "--strip-extras", "--allow-unsafe")


def compile_lock(name: str) -> None:
    """Resolve one file; later files are constrained by earlier ones."""
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--no-header", *QUIET]
    subprocess.run([*command, "-o", f"{name}.lock", f"{name}.in"], cwd=FOLDER, check=True)


def keep_entries(name: str, wanted: Callable[[str], bool]) -> None:
    """Cut a lock down to the packages whose name is wanted."""
    path = FOLDER / f"{name}.lock"
    head, *entries = re.split(r"(?m)^(?=[a-z0-9])", path.read_text())
    path.write_text(head + "".join(entry for entry in entries if wanted(entry.partition("==")[0])))


def main() -> None:
    """Compile every lock in order."""
    for name in ORDER:
        print(f"resolving {name}.in ...", flush=True)
        compile_lock(name)
    keep_entries("base", lambda package: package not in COMPILED)
    keep_entries("llama", lambda package: package == "llama-cpp-python")  # its needs stand in serve.lock


if __name__ == "__main__":
    main()
