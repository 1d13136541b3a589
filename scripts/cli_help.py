"""Write docs/cli.md from what `mcd COMMAND --help` says; ``--check`` fails when the page is not up to date."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "100"
os.environ["NO_COLOR"] = "1"

from mcd.cli.main import COMMANDS, main  # noqa: E402 - the width of help text is read from the environment above

PAGE = ROOT / "docs" / "cli.md"

_INTRO = """# Command line

<!-- Written by scripts/cli_help.py from the program's own help; edit there. -->

`run` starts a peer; `pull` and `rm` change the models folder, which `show` and `models --local` read. Every other
command asks the running daemon over `control.sock` in the peer's folder. All but `run` load nothing heavy and answer at
once. Data go to stdout, messages to stderr; colours appear only on a terminal and never when `NO_COLOR` is set.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | an error; the message says what to do |
| 2 | wrong usage, or a flag that cannot be used |
| 3 | no daemon runs in this folder |
| 4 | no such model, or no peer can serve it now |

With `--json` a command prints one JSON value whose names are stable. Units are part of the names (`rtt_s`, `load_ms`),
prices are integers in token base units per 1M tokens, digests and keys are hex, `null` means not known.

In the table of `mcd models`, LOADED counts the PEERS that have the model in memory; READY is how long the quickest of
the others would load it when nobody has, as it measured the last time (`load_s`).
"""


def page() -> str:
    """The whole page."""
    parts = [_INTRO, _block("mcd", ["--help"])]
    parts += [_block(f"mcd {name}", [name, "--help"]) for name in COMMANDS]
    return "\n".join(parts)


def _block(title: str, words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    return f"## {title}\n\n```text\n{out.getvalue().rstrip()}\n```\n"


def run() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    wanted = page()
    if parser.parse_args().check:
        if PAGE.exists() and PAGE.read_text() == wanted:
            return 0
        print("docs/cli.md is out of date; run: python scripts/cli_help.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(run())
