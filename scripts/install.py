"""Set up .venv: the peer, and on request what serves models and what developers use. Standard library only.

    python3 scripts/install.py            an entry peer; nothing is compiled
    python3 scripts/install.py --serve    also llama.cpp, built for this processor once and then kept
    python3 scripts/install.py --dev      also checks, tests and benchmarks

Every package is pinned and hash-checked (requirements/*.lock). Running it again costs a second.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST = (3, 11)
BUILD_MINUTES = "5 to 15 minutes"
INTERRUPTED = 130
"""What shells report after Ctrl-C."""
STEP = re.compile(r"\[(\d+)/(\d+)\]")
"""How ninja counts: [done/all]."""


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to whatever runs after us."""
    print(text, file=sys.stderr, flush=True)


def stop(text: str) -> None:
    """End with a message that names the remedy."""
    say(f"error: {text}")
    sys.exit(1)


def digest(*parts: bytes) -> str:
    """A short name for some content."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def make_venv() -> None:
    """Create .venv unless it works already."""
    if (
        PYTHON.exists()
        and subprocess.run([PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    ):
        return
    say(f"creating {VENV.name} ...")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        stop("python3 cannot create virtual environments; on Debian or Ubuntu run: apt-get install python3-venv")


def pip(*args: str | Path) -> None:
    """Run the venv's pip; what it prints is shown only when it fails."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(done.stdout[-4000:] + done.stderr[-4000:])
        stop(f"pip failed (pip {' '.join(str(a) for a in args[:3])} ...); check the network connection and run again")


def install_lock(name: str) -> None:
    """Install one lock file unless exactly it was installed before."""
    lock = LOCKS / f"{name}.lock"
    stamp = VENV / f".{name}.{digest(lock.read_bytes())}"
    if stamp.exists():
        return
    say(f"installing {name} packages (about a minute) ...")
    pip("install", "--require-hashes", "--no-deps", "-r", lock)
    stamp.touch()


def install_checkout() -> None:
    """Put the `mcd` command into the venv, running from this checkout."""
    stamp = VENV / f".checkout.{digest((ROOT / 'pyproject.toml').read_bytes(), str(ROOT).encode())}"
    if stamp.exists() and (VENV / "bin" / "mcd").exists():
        return
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    stamp.touch()


def compile_checkout() -> None:
    """Keep our modules compiled: an engine may write no file, and would compile its own at each start."""
    subprocess.run([PYTHON, "-m", "compileall", "-qq", ROOT / "mcd"], check=False)  # who may not write goes without


def processor() -> bytes:
    """What a native build depends on: architecture and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line.encode() for line in lines if line.startswith(("flags", "Features"))), b"")


def wheel_folder(options: str) -> Path:
    """Where the built wheel is kept; one folder a (version, processor, build options)."""
    base = os.environ.get("MCD_WHEEL_CACHE") or Path.home() / ".cache" / "modelcloud" / "wheels"
    system = f"{platform.system()} {platform.machine()} {'.'.join(platform.libc_ver())}".encode()
    return Path(base) / digest((LOCKS / "llama.lock").read_bytes(), system, processor(), options.encode())


def build_llama(folder: Path, options: str) -> None:
    """Build llama-cpp-python from its hash-checked source, showing how far it is."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        stop(f"no C++ compiler ({compiler}); on Debian or Ubuntu run: apt-get install build-essential")
    say(f"building llama.cpp for this processor: {BUILD_MINUTES} on two cores, once; the result is kept in {folder}")
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "wheel", "-v", "--no-deps", "--no-build-isolation"]
    # pip keeps wheels too, but knows them by their source alone: it would hand out one that was built without CUDA
    command += ["--no-cache-dir", "--require-hashes", "--no-binary", ":all:", "-r", LOCKS / "llama.lock", "-w", fresh]
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    began = time.monotonic()
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PATH": path, "CMAKE_ARGS": options},
        ) as build:
            assert build.stdout is not None
            tail = show_progress(build.stdout, began)
        if build.returncode != 0:
            say("\n".join(tail))
            stop("llama.cpp did not build; the lines above say why. An entry without models needs none: make run-entry")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    say(f"built in {time.monotonic() - began:.0f} s")


def show_progress(lines: object, began: float) -> list[str]:
    """Follow a build's output; returns its last lines for an error report."""
    tail: list[str] = []
    shown = -10.0
    for line in lines:  # type: ignore[attr-defined]  # a text stream
        tail = [*tail[-40:], line.rstrip()]
        step = STEP.search(line)
        elapsed = time.monotonic() - began
        if step is None or (elapsed - shown < 10.0 and step[1] != step[2]):
            continue
        shown = elapsed
        done, total = int(step[1]), int(step[2])
        left = elapsed / max(done, 1) * (total - done)
        say(f"  {done:>4}/{total} files  {100 * done // total:>3} %  {elapsed:>4.0f} s  about {left:.0f} s left")
    return tail


def install_llama() -> None:
    """Install llama-cpp-python from the kept wheel, building it first if need be.

    CMAKE_ARGS says how to build; unset, as it was built last: who built for a GPU once need not say so each time.
    """
    stamp = VENV / ".llama"
    installed, _, built_with = stamp.read_text().partition("\n") if stamp.exists() else ("", "", "")
    options = os.environ.get("CMAKE_ARGS", built_with)
    folder = wheel_folder(options)
    if installed == folder.name:
        return
    if not list(folder.glob("llama_cpp_python-*.whl")):
        build_llama(folder, options)
    stamp.unlink(missing_ok=True)
    pip("install", "--no-deps", "--force-reinstall", *folder.glob("llama_cpp_python-*.whl"))
    stamp.write_text(f"{folder.name}\n{options}")


def fetch_test_files() -> None:
    """Keep what our tests take from llama.cpp's source."""
    if subprocess.run([PYTHON, ROOT / "scripts" / "llama_files.py"], check=False).returncode != 0:
        sys.exit(1)


def main() -> None:
    """Parse what is wanted and bring .venv there."""
    parser = argparse.ArgumentParser(description="Set up .venv for ModelCloud.")
    parser.add_argument("--serve", action="store_true", help="also what serves models: builds llama.cpp once")
    parser.add_argument("--dev", action="store_true", help="also checks, tests and benchmarks")
    wanted = parser.parse_args()
    if sys.version_info < OLDEST:
        stop(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {platform.python_version()}")
    make_venv()
    install_lock("base")
    if wanted.serve:
        install_lock("serve")
    if wanted.dev:
        install_lock("dev")
    if wanted.serve:
        install_llama()
    if wanted.serve and wanted.dev:  # pip asks the source for its name with what builds it
        fetch_test_files()
    install_checkout()
    compile_checkout()


def run() -> None:
    """As typed: Ctrl-C in a build of many minutes is no fault, and what stands by then is kept."""
    try:
        main()
    except KeyboardInterrupt:
        say("\nstopped; run it again to go on")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
