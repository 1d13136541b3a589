"""Write docs/models.md from mcd/engine/known_models.toml; ``--check`` fails when the page is not up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcd.cli import table  # noqa: E402 - found through the path above
from mcd.engine.known_models import KnownModel, known_models  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
SHOWN_CONTEXT = 8192

_INTRO = """# Models

<!-- Written by scripts/model_table.py from mcd/engine/known_models.toml; edit there. -->

```text
mcd pull --list              the models known by name
mcd pull qwen3-8b            fetch one of them
mcd pull REPO:FILE.gguf      fetch any other GGUF file of the Hugging Face hub
mcd models --local           what is here
mcd show qwen3-8b            what it is, where it comes from, what memory it takes
mcd run --gpu --model qwen3-8b
mcd rm qwen3-8b
```

A pull asks the hub for the file's size and SHA-256, looks whether the disk has room, fetches, compares the SHA-256 of
what came, reads the GGUF header with mcd's own reader and only then puts the file under its name into `models` in the
peer's folder (`~/.modelcloud`), beside an index that says where it came from. An interrupted pull goes on where it
stopped, also after a crash or a power cut; damaged bytes and files that are no model are removed. A file you put there
yourself as `NAME.gguf` is served as `NAME` all the same.

| what | how |
|---|---|
| models behind terms (gated) | accept them on the model's page, make a token in the hub's settings, set `HF_TOKEN` |
| a mirror or a hub of your own | set `HF_ENDPOINT` |
| another quantisation | `mcd pull REPO:FILE.gguf`; `mcd pull REPO` says which files there are |
| who learns of it | the hub sees your address and what you fetch; no other peer does, until you serve the model |

Limits: split files (`-00001-of-00003.gguf`) are refused, so choose a quantisation in one file. Files over 50 GB come
through the hub's chunk store, which this version cannot resume after a crash.

## Models that see pictures

A model sees through a second file, its projector. The rule is one: `NAME.mmproj.gguf` belongs to `NAME.gguf` in the
same folder. `mcd pull` brings it along for the models below that do `vision`, and fetches it later for one that is
here without; for any other model put the file there under that name (hubs call it `mmproj-...gguf`). It is loaded with
the model, takes its size in memory and more to compute in, and becomes part of the model's digest: with another
projector, or none, it is another model to the mesh. `mcd show` and `mcd models --local` say whether it is there; remove
it to serve the model without.

Not all projectors can be run: those for sound, HunyuanVL's and DeepSeek 4's are refused at the start, with words.

## Known by name

Where these facts come from: the hub was not asked when the list was written. Repository and file names, and a SHA-256
where the list has one, come for the most part from public catalogues and scripts of other projects that pin them.
Shapes, context, licences and most sizes are general knowledge of these models, not checked against their cards one by
one. A name can have moved since.
A pull trusts only what the hub says at that moment, and tells you when a file is no longer the one of the list.

Memory: the weights take as much as the file. Each 1k (1024 tokens) of context takes `2 x 2 bytes x layers x KV heads x
head dimension x 1024` for those layers that keep every token; layers with a sliding window keep it for each slot and
one step more, and encoders keep nothing. The column "8k" is the sum for one context of 8192 tokens, or the model's own
if that is shorter, with two slots and the cells that the engine needs itself, by the formula that models are fitted
into memory by (`mcd/engine/fit.py`). On top come llama.cpp's compute buffers, a few hundred MB; the states of recurrent
layers (Qwen 3.5 and 3.6, Granite 4), which the list does not know; and checkpoints for these and for models with
windows.

"""
_HEAD = (
    "| name | does | quantisation | size | context | per 1k | 8k | licence | repository and file |\n"
    "|---|---|---|--:|--:|--:|--:|---|---|\n"
)


def page() -> str:
    """The whole page."""
    return _INTRO + _HEAD + "".join(f"| {' | '.join(_cells(known))} |\n" for known in known_models().values())


def _cells(known: KnownModel) -> list[str]:
    return [
        f"`{known.name}`",
        " ".join(known.does),
        known.quantisation,
        table.size(known.size_bytes),
        table.context(known.n_ctx),
        table.size(known.kv_bytes_per_1k) if known.kv_bytes_per_1k else "-",
        table.size(known.memory_bytes(min(SHOWN_CONTEXT, known.n_ctx))),
        known.licence,
        f"`{known.source}`",
    ]


def run() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    wanted = page()
    if parser.parse_args().check:
        if PAGE.exists() and PAGE.read_text() == wanted:
            return 0
        print("docs/models.md is out of date; run: python scripts/model_table.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(run())
