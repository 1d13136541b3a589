"""Files from the Hugging Face hub: look one up, fetch it with resume, check it. The only user of huggingface_hub.

A partial file lies under the digest it must get, so it is continued by whichever pull wants those bytes next, and
never mixed with another version. The library itself starts over after an interruption (it names each partial file
anew), so only its lookup and its streaming GET are used; files over 50 GB, which the hub gives out through its
chunk store alone, go through the library whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from mcd import __version__
from mcd.errors import DownloadError, ModelNotFoundError
from mcd.store.models import UNFINISHED_FOLDER

MAX_LISTED_FILES = 12
MAX_PLAIN_BYTES = 50 * 10**9
"""The hub's own limit for a file over plain HTTP."""
BLOCK_BYTES = 4 * 1024 * 1024
LOCK_FILE = "lock"
MAX_FILE_BYTES = 2 * 10**12
"""No single GGUF file is near it; a larger number is a mistake."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_PLAIN = re.compile(r"[^A-Za-z0-9._/ -]")


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one file, as the hub describes it."""

    repo: str
    file: str
    revision: str
    """Commit; the file is fetched at this one."""
    size_bytes: int
    sha256: str


class Progress(Protocol):
    """Told about the bytes as they arrive."""

    def start(self, at_bytes: int) -> None:
        """Bytes already here; called again if the hub starts over."""

    def advance(self, n_bytes: int) -> None:
        """More bytes; negative when some have to come again."""


def look_up(repo: str, file: str) -> HubFile:
    """Ask for a file's newest version.

    Raises:
        ModelNotFoundError: No such repository or file.
        DownloadError: Gated, unreachable, or without a checksum.
    """
    _prepare()
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _translated(repo):
        try:
            found = get_hf_file_metadata(hf_hub_url(repo, file), library_name="mcd", library_version=__version__)
        except RemoteEntryNotFoundError:
            raise ModelNotFoundError(f"{repo} has no file {file}; {_offer(repo)}") from None
    if not _SHA256.match(found.etag or ""):
        raise DownloadError(f"the hub gives no checksum for {repo}:{file}, so it cannot be checked; choose another")
    if not _COMMIT.match(found.commit_hash or "") or not 0 < (found.size or 0) <= MAX_FILE_BYTES:
        raise DownloadError(f"what answers at HF_ENDPOINT is not a hub: no commit or no size for {repo}:{file}")
    return HubFile(
        repo=repo, file=file, revision=str(found.commit_hash), size_bytes=found.size or 0, sha256=str(found.etag)
    )  # fmt: skip


def gguf_files(repo: str) -> list[str]:
    """The GGUF files of a repository.

    Raises:
        ModelNotFoundError: No such repository.
        DownloadError: Gated or unreachable.
    """
    return sorted(sibling.rfilename for sibling in _describe(repo).siblings or () if _is_gguf(sibling.rfilename))


def licence_of(repo: str) -> str | None:
    """What the repository's card says.

    Raises:
        ModelNotFoundError: No such repository.
        DownloadError: Gated or unreachable.
    """
    card = _describe(repo).card_data
    licence = card.get("license_name") or card.get("license") if card is not None else None
    return _PLAIN.sub("?", licence)[:64] if isinstance(licence, str) else None


def partial_path(models: Path, wanted: HubFile) -> Path:
    """Where the bytes gather. Ends in the file's own name, which messages about it show."""
    return models / UNFINISHED_FOLDER / wanted.sha256 / Path(wanted.file).name


def fetch(wanted: HubFile, models: Path, progress: Progress) -> Path:
    """Bring a file here, whole and checked; on interruption what has come stays for the next call.

    Raises:
        DownloadError: The hub failed, the disk did, another pull is at it, or the bytes are not those announced.
    """
    path = partial_path(models, wanted)
    with _translated(wanted.repo):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.parent, wanted):
            if not path.exists() or path.stat().st_size < wanted.size_bytes:
                _receive(wanted, path, progress)
            _check(wanted, path)
    return path


def discard(path: Path) -> None:
    """Remove what is left of a finished partial file, or of one that turned out useless."""
    shutil.rmtree(path.parent, ignore_errors=True)
    with contextlib.suppress(OSError):  # another pull has its own in there
        path.parent.parent.rmdir()


def _receive(wanted: HubFile, path: Path, progress: Progress) -> None:
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported, but not in a list

    if wanted.size_bytes > MAX_PLAIN_BYTES:
        whole = hf_hub_download(
            wanted.repo, wanted.file, revision=wanted.revision, local_dir=path.parent / "whole", library_name="mcd"
        )
        Path(whole).rename(path)
        return
    with path.open("r+b" if path.exists() else "x+b") as file:
        http_get(
            hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision),
            file,
            resume_size=file.seek(0, os.SEEK_END),
            headers=build_hf_headers(library_name="mcd", library_version=__version__),
            expected_size=wanted.size_bytes,
            tqdm_class=_bar(progress, wanted),
        )


def _check(wanted: HubFile, path: Path) -> None:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha.update(block)
    if sha.hexdigest() != wanted.sha256:
        discard(path)
        raise DownloadError(
            f"{wanted.repo}:{wanted.file} arrived damaged: its SHA-256 is {sha.hexdigest()[:12]}.. and the hub's "
            f"{wanted.sha256[:12]}..; it was removed, pull it again"
        )


def _bar(progress: Progress, wanted: HubFile) -> Any:
    """A class that the library takes for tqdm. It hands every number on and stops a flood before it is written."""

    class Bar:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self._came_bytes = initial
            progress.start(initial)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n_bytes: int) -> None:
            self._came_bytes += n_bytes
            if self._came_bytes > wanted.size_bytes:
                raise DownloadError(
                    f"the hub sends more of {wanted.file} than the {wanted.size_bytes} bytes it announced"
                )
            progress.advance(n_bytes)

    return Bar


@contextlib.contextmanager
def _alone(folder: Path, wanted: HubFile) -> Iterator[None]:
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DownloadError(f"another mcd pull is fetching {wanted.repo}:{wanted.file}; wait for it") from None
    finally:
        os.close(fd)


def _describe(repo: str) -> Any:
    _prepare()
    from huggingface_hub import HfApi

    with _translated(repo):
        return HfApi(library_name="mcd", library_version=__version__).model_info(repo)


def _offer(repo: str) -> str:
    files = gguf_files(repo)
    if not files:
        return "it has no GGUF file at all"
    more = f" and {len(files) - MAX_LISTED_FILES} more" if len(files) > MAX_LISTED_FILES else ""
    return f"it has {', '.join(_PLAIN.sub('?', file) for file in files[:MAX_LISTED_FILES])}{more}"


def _is_gguf(file: str) -> bool:
    return file.endswith(".gguf")


def _prepare() -> None:
    """Load the library with its own reports off: its warnings repeat signed addresses."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        importlib.import_module("huggingface_hub")
    except ImportError:
        raise DownloadError("mcd pull needs the package huggingface_hub; run: make setup-serve") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextlib.contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Turn the library's errors, and those of its HTTP client, into ours."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as problem:
        raise DownloadError(
            f"{repo} is gated: accept its terms at {hub}/{repo} in a browser, then make a token in the hub's settings "
            "and pull again with HF_TOKEN set to it"
        ) from problem
    except RepositoryNotFoundError as problem:
        raise ModelNotFoundError(
            f"{hub} has no repository {repo}, or shows it to nobody without a token that may read it (HF_TOKEN)"
        ) from problem
    except OfflineModeIsEnabled as problem:
        raise DownloadError("HF_HUB_OFFLINE is set, so nothing can be fetched; unset it") from problem
    except HfHubHTTPError as problem:
        raise DownloadError(_http_fault(hub, repo, problem.response.status_code)) from problem
    except httpx2.HTTPError as problem:
        raise DownloadError(
            f"cannot reach {hub} ({type(problem).__name__}); check the network. "
            "What has come is kept: pull again to go on from there"
        ) from problem
    except OSError as problem:
        raise DownloadError(_disk_fault(problem)) from problem


def _http_fault(hub: str, repo: str, status: int) -> str:
    said: dict[int, Callable[[], str]] = {
        401: lambda: f"{hub} does not accept the token in HF_TOKEN",
        403: lambda: f"{hub} does not let this token read {repo}",
        429: lambda: f"{hub} is asked too often from here; wait a few minutes and pull again",
    }
    return said.get(status, lambda: f"{hub} failed with status {status}; pull again later")()


def _disk_fault(problem: OSError) -> str:
    if problem.errno is None:  # the library's own: what came is not as long as announced
        return "the hub sent fewer or more bytes than it announced; pull again"
    return f"cannot write the file: {problem.strerror}"
