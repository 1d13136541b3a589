"""Numbers of several rounds as a row: median, and how far they lay apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """``median [min - max]``."""
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} [{min(values):{form}} - {max(values):{form}}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  " + "   ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
