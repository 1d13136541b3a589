"""`mcd pull`: a model from the Hugging Face hub into the models folder, resumed, checked and indexed."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mcd.cli import client, exits, interrupt, table
from mcd.cli.exits import CommandError
from mcd.cli.progress import ProgressLine
from mcd.config import EMBEDDED_MODEL
from mcd.engine.catalogue import sanitise_alias
from mcd.engine.gguf_facts import facts_of
from mcd.engine.ggufcheck import check_file, check_projector
from mcd.engine.known_models import KnownModel, by_source, known_models, near
from mcd.errors import ModelFileError
from mcd.store import hub, models
from mcd.store.hub import HubFile
from mcd.store.models import LocalModel

SPARE_BYTES = 256 * 1024 * 1024
"""Left free on the disk: a full one breaks more than this pull."""
SHORT_DIGEST_CHARS = 7

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE = re.compile(r"(?:[A-Za-z0-9][\w.+-]*/)*[A-Za-z0-9][\w.+-]*\.gguf", re.ASCII)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_COLUMNS = (
    *table.text("MODEL", "QUANT"),
    *table.numbers("SIZE", "CTX", "MEMORY/1K"),
    *table.text("LICENCE", "DOES", "HERE"),
)


class Wanted(msgspec.Struct, frozen=True):
    """What was asked for."""

    name: str
    """Under which it will be served."""
    repo: str
    file: str
    known: KnownModel | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name from --list, or REPO:FILE on the hub")
    parser.add_argument("--list", action="store_true", help="show the models known by name")
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Fetch one model, or list the known ones."""
    interrupt.heed()
    if args.list:
        return _list(args)
    if args.model is None:
        raise CommandError("which model? mcd pull --list shows those known by name", exits.USAGE)
    wanted = choose(args.model)
    here = models.read(args.home).get(wanted.name)
    if here is not None:
        _already(args.home, here, wanted)
        return _pull_projector(args.home, wanted, here)
    _open(args.home)
    offered = hub.look_up(wanted.repo, wanted.file)
    if wanted.known is not None and wanted.known.sha256 not in {None, offered.sha256}:
        print(f"note: {wanted.file} was replaced on the hub since mcd's list was written", file=sys.stderr)
    _check_room(models.folder(args.home), offered)
    licence = wanted.known.licence if wanted.known else hub.licence_of(wanted.repo)
    path = _fetch(args.home, wanted, offered)
    entry = _examine(wanted, offered, licence, path)
    models.add(args.home, entry, path)
    hub.discard(path)
    _pull_projector(args.home, wanted, entry)
    print(f"{entry.name} is here: {models.path_of(args.home, entry)}")
    print(f"serve it: mcd run --gpu --model {entry.name} (or --cpu)")
    return exits.OK


def choose(text: str) -> Wanted:
    """What a name or REPO:FILE means.

    Raises:
        CommandError: Nothing of that name is known, or it cannot be a GGUF file on the hub.
    """
    repo, colon, file = text.partition(":")
    if not colon or "/" not in repo:
        return _by_name(text)
    if not _REPO.fullmatch(repo) or not _FILE.fullmatch(file):
        raise CommandError(f"{text} is not OWNER/REPOSITORY:FILE.gguf", exits.USAGE)
    if _PART.search(file):
        raise CommandError(f"{file} is one part of a split model; choose a quantisation in one file", exits.USAGE)
    known = by_source(repo, file)
    name = known.name if known else sanitise_alias(Path(file).stem).replace("/", "-").replace(":", "-")
    if not name or name == EMBEDDED_MODEL:
        raise CommandError(
            f"{file} would be called {name or 'nothing'}, which cannot be; fetch it by hand", exits.USAGE
        )
    return Wanted(name, repo, file, known)


def _by_name(text: str) -> Wanted:
    known = known_models().get(text)
    if known is not None:
        return Wanted(known.name, known.repo, known.file, known)
    if _REPO.fullmatch(text):
        files = hub.gguf_files(text)
        offer = f"it has {', '.join(files[: hub.MAX_LISTED_FILES])}" if files else "it has no GGUF file"
        raise CommandError(f"which file of {text}? write {text}:FILE; {table.plain(offer)}", exits.USAGE)
    if text == EMBEDDED_MODEL:
        raise CommandError(f"{text} comes with mcd; serve it with: mcd run --cpu", exits.USAGE)
    meant = near(text, known_models())
    hint = f"did you mean {' or '.join(meant)}?" if meant else "mcd pull --list shows those that are."
    raise CommandError(
        f"no model is known as {table.plain(text)}; {hint} Any other is pulled as REPO:FILE", exits.NOT_FOUND
    )


def _already(home: Path, here: LocalModel, wanted: Wanted) -> None:
    source = f"{wanted.repo}:{wanted.file}"
    if here.source not in {None, source}:
        raise CommandError(f"{here.name} is here from {here.source}; remove it first with: mcd rm {here.name}")
    print(f"{here.name} is here already: {models.path_of(home, here)}")


def _pull_projector(home: Path, wanted: Wanted, here: LocalModel) -> int:
    """Fetch the file through which a known model sees, unless it is here or there is none."""
    if wanted.known is None or wanted.known.projector is None or models.projector_of(home, here).exists():
        return exits.OK
    offered = hub.look_up(wanted.repo, wanted.known.projector)
    _check_room(models.folder(home), offered)
    path = _fetch(home, msgspec.structs.replace(wanted, file=wanted.known.projector), offered)
    try:
        check_projector(str(path))
    except ModelFileError:
        hub.discard(path)
        raise
    seeing = msgspec.structs.replace(here, projector_bytes=offered.size_bytes, projector_digest=offered.sha256)
    models.add_projector(home, seeing, path)
    hub.discard(path)
    print(f"it sees pictures, through {models.projector_of(home, here)}")
    return exits.OK


def _open(home: Path) -> None:
    from mcd.store.keys import open_home  # loads cryptography, which listing has no use for

    open_home(home)
    models.folder(home).mkdir(mode=0o700, exist_ok=True)


def _check_room(folder: Path, offered: HubFile) -> None:
    partial = hub.partial_path(folder, offered)
    have_bytes = partial.stat().st_size if partial.exists() else 0
    need_bytes = offered.size_bytes - have_bytes + SPARE_BYTES
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise CommandError(
            f"not enough room in {folder}: {table.size(need_bytes)} are needed and {table.size(free_bytes)} are free; "
            "mcd models --local shows what could go"
        )


def _fetch(home: Path, wanted: Wanted, offered: HubFile) -> Path:
    progress = ProgressLine(f"{offered.sha256[:SHORT_DIGEST_CHARS]}..", offered.size_bytes)
    print(f"{wanted.name}: {wanted.repo}:{wanted.file}, {table.size(offered.size_bytes)}", file=sys.stderr)
    try:
        return hub.fetch(offered, models.folder(home), progress)
    except KeyboardInterrupt:
        print("\nstopped; the same mcd pull goes on from here", file=sys.stderr)
        raise
    finally:
        progress.end()


def _examine(wanted: Wanted, offered: HubFile, licence: str | None, path: Path) -> LocalModel:
    """Check the header with our own reader before any other code opens the file."""
    try:
        facts = facts_of(check_file(str(path)))
    except ModelFileError:
        hub.discard(path)
        raise
    return LocalModel(
        name=wanted.name,
        file=f"{wanted.name}{models.SUFFIX}",
        size_bytes=offered.size_bytes,
        digest=offered.sha256,
        source=f"{wanted.repo}:{wanted.file}",
        revision=offered.revision,
        licence=licence,
        quantisation=facts.quantisation or (wanted.known.quantisation if wanted.known else None),
        n_ctx=facts.n_ctx,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _list(args: argparse.Namespace) -> int:
    here = models.read(args.home)
    if args.json:
        client.print_json(
            [msgspec.to_builtins(known) | {"is_local": known.name in here} for known in known_models().values()]
        )
        return exits.OK
    head, *rows = table.render(_COLUMNS, [_row(known, is_here=known.name in here) for known in known_models().values()])
    print(table.paint(head, table.BOLD))
    for row in rows:
        print(row)
    return exits.OK


def _row(known: KnownModel, *, is_here: bool) -> list[str]:
    return [
        known.name,
        known.quantisation,
        table.size(known.size_bytes),
        table.context(known.n_ctx),
        table.size(known.kv_bytes_per_1k) if known.kv_bytes_per_1k else "-",
        known.licence,
        " ".join(known.does),
        "yes" if is_here else "-",
    ]
