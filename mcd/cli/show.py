"""`mcd show`: one model, here or known by name: what it is, where it comes from, what memory it takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mcd.cli import client, exits, table
from mcd.cli.exits import CommandError
from mcd.config import EMBEDDED_MODEL, PROJECTOR_SUFFIX
from mcd.engine import memory
from mcd.engine.catalogue import embedded_path
from mcd.engine.fit import FLOOR_CTX, KV_SHARE, MIB, PROCESS_BYTES, Wish, fit_host, least_bytes, size
from mcd.engine.gguf_facts import GgufFacts, facts_of, projector_bytes, shape_of, with_projector
from mcd.engine.ggufcheck import Header, check_file, check_projector
from mcd.engine.known_models import KnownModel, by_source, known_models, near
from mcd.store import models
from mcd.store.models import LocalModel

TYPICAL_COMPUTE_BYTES = 400 * MIB
"""What one step needs in models with a vocabulary of 150,000; the list does not say."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("model", metavar="MODEL", help="a name from mcd models --local or mcd pull --list")
    client.add_flags(parser)


def execute(args: argparse.Namespace) -> int:
    """Print what is known of one model."""
    local = models.read(args.home).get(args.model)
    path = None if local is None else models.path_of(args.home, local)
    if args.model == EMBEDDED_MODEL:
        path = embedded_path()
        local = LocalModel(name=EMBEDDED_MODEL, file=path.name, size_bytes=path.stat().st_size)
    known = _known(args.model, local)
    if local is None and known is None:
        raise CommandError(_unknown(args.model, args.home), exits.NOT_FOUND)
    header = None if path is None else check_file(str(path))
    facts = None if header is None else facts_of(header)
    n_bytes = _projector_needs(path)
    answer = describe(args.model, local, known, facts, path) | fits_here(header, known, memory.room_bytes(), n_bytes)
    if args.json:
        client.print_json(answer)
        return exits.OK
    print(table.paint(answer["name"], table.BOLD))
    for title, words in _lines(answer):
        print(f"  {title:12}  {table.plain(words)}")
    return exits.OK


def describe(
    name: str, local: LocalModel | None, known: KnownModel | None, facts: GgufFacts | None, path: Path | None
) -> dict[str, Any]:
    """Everything, under stable names; what the file itself says wins over what the list says."""
    size_bytes = local.size_bytes if local else known.size_bytes if known else 0
    kv_1k = known.kv_bytes_per_1k if known else facts.kv_bytes_per_1k if facts else None
    n_ctx = (facts.n_ctx if facts else None) or (known.n_ctx if known else None)
    return {
        "name": name,
        "is_local": local is not None,
        "path": None if path is None else str(path),
        "size_bytes": size_bytes,
        "digest": (local.digest if local else None) or (known.sha256 if known else None),
        "source": (local.source if local else None) or (known.source if known else None),
        "revision": local.revision if local else None,
        "licence": (local.licence if local else None) or (known.licence if known else None),
        "projector_bytes": _projector_bytes(local, known),
        "projector_digest": local.projector_digest if local else None,
        "pulled_at": local.pulled_at if local else None,
        "architecture": facts.architecture if facts else None,
        "n_params": known.n_params if known else None,
        "quantisation": (facts.quantisation if facts else None) or (known.quantisation if known else None),
        "n_ctx": n_ctx,
        "does": list(known.does if known else facts.does if facts else ()) or None,
        "has_chat_template": facts.has_chat_template if facts else None,
        "weights_bytes": size_bytes,
        "kv_bytes_per_1k": kv_1k,
        "memory_bytes": _memory_bytes(size_bytes, known, kv_1k, n_ctx),
    }


def fits_here(
    header: Header | None, known: KnownModel | None, room_bytes: int, projector_needs: int = 0
) -> dict[str, Any]:
    """Whether this machine's memory holds it, and how; a model that is not here is judged by the list."""
    if header is not None:
        shape = with_projector(shape_of(header), projector_needs)
        wish = Wish(max_kv_bytes=int(memory.total_bytes() * KV_SHARE))
        found, least = fit_host(shape, room_bytes, wish), least_bytes(shape, wish)
        does_fit, words = found is not None, found.why if found else ""
    else:
        assert known is not None
        least = known.memory_bytes(min(known.n_ctx, FLOOR_CTX)) + PROCESS_BYTES + TYPICAL_COMPUTE_BYTES
        does_fit, words = least <= room_bytes, f"about {size(least)} of {size(room_bytes)} memory with 8k of context"
    if not does_fit:
        words = f"it takes {size(least)} and {size(room_bytes)} is free; a smaller quantisation takes less"
    return {"fits": does_fit, "fit": words, "least_bytes": least, "room_bytes": room_bytes}


def _projector_needs(path: Path | None) -> int:
    """Memory that the projector beside a file takes; 0 when there is none."""
    beside = None if path is None else path.with_suffix(PROJECTOR_SUFFIX)
    return projector_bytes(check_projector(str(beside))) if beside is not None and beside.is_file() else 0


def _projector_bytes(local: LocalModel | None, known: KnownModel | None) -> int | None:
    """Of what is here, if it is; None for a model that sees nothing."""
    return local.projector_bytes if local is not None else (known.projector_bytes or None) if known else None


def _memory_bytes(size_bytes: int, known: KnownModel | None, kv_1k: int | None, n_ctx: int | None) -> int | None:
    """For one context of full length."""
    if n_ctx is None or kv_1k is None:
        return None
    return known.memory_bytes(n_ctx) if known else size_bytes + kv_1k * n_ctx // 1024


def _known(name: str, local: LocalModel | None) -> KnownModel | None:
    """By where the file came from; a file put there by hand is judged by itself alone."""
    if local is None:
        return known_models().get(name)
    repo, _, file = (local.source or "").partition(":")
    return by_source(repo, file)


def _lines(answer: dict[str, Any]) -> list[tuple[str, str]]:
    kv_1k = answer["kv_bytes_per_1k"]
    needs = f"{table.size(answer['weights_bytes'])} for the weights"
    if kv_1k:
        needs += f", {table.size(kv_1k)} for each 1k of context"
    if kv_1k and answer["memory_bytes"]:
        needs += f"; {table.size(answer['memory_bytes'])} with all of it"
    about = [answer["architecture"], _params(answer["n_params"]), answer["quantisation"]]
    template = {True: "has a chat template", False: "no chat template", None: ""}[answer["has_chat_template"]]
    lines = [
        ("here", answer["path"] or f"no; mcd pull {answer['name']}"),
        ("pulled", answer["pulled_at"]),
        ("source", answer["source"]),
        ("revision", answer["revision"]),
        ("sha256", answer["digest"]),
        ("licence", answer["licence"]),
        ("model", ", ".join(part for part in about if part)),
        ("context", None if answer["n_ctx"] is None else f"{answer['n_ctx']} tokens"),
        ("memory", needs),
        ("fits here", f"{'yes' if answer['fits'] else 'no'}, on the processor: {answer['fit']}"),
        ("sees", _sees(answer["projector_bytes"], is_local=answer["is_local"])),
        ("does", ", ".join(part for part in (" ".join(answer["does"] or ()), template) if part)),
    ]
    return [(title, words) for title, words in lines if words]


def _sees(projector_bytes: int | None, *, is_local: bool) -> str:
    if projector_bytes is None:
        return ""
    return f"pictures, through a projector of {table.size(projector_bytes)}" + (" beside it" if is_local else "")


def _params(n_params: int | None) -> str:
    if n_params is None:
        return ""
    billions = n_params / 1e9
    return f"{billions:.3g}B parameters" if billions >= 1 else f"{n_params / 1e6:.0f}M parameters"


def _unknown(name: str, home: Path) -> str:
    meant = near(name, [*models.read(home), *known_models()])
    hint = f"did you mean {' or '.join(meant)}?" if meant else "see mcd models --local and mcd pull --list"
    return f"no model is known as {table.plain(name)}; {hint}"
