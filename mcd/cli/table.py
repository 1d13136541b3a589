"""Text for people: aligned columns, short units, colour only where a terminal wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import TextIO

SHORT_ID_CHARS = 8
PRICE_DECIMALS = 6
"""Base units of the usual payment tokens: 1,000,000 of them are one dollar."""

BOLD, DIM, RED, YELLOW, GREEN = "1", "2", "31", "33", "32"


class Column:
    """One column: its title and on which side its cells are filled."""

    def __init__(self, title: str, *, is_number: bool = False) -> None:
        self.title = title
        self.is_number = is_number

    def fit(self, cell: str, width: int) -> str:
        """Fill a cell to the column's width."""
        return cell.rjust(width) if self.is_number else cell.ljust(width)


def text(*titles: str) -> list[Column]:
    """Columns of words."""
    return [Column(title) for title in titles]


def numbers(*titles: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(title, is_number=True) for title in titles]


def render(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table; the first line is its head."""
    titles = [column.title for column in columns]
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (titles, *cells)) for i in range(len(columns))]
    return [
        "  ".join(column.fit(cell, width) for column, cell, width in zip(columns, row, widths, strict=True)).rstrip()
        for row in (titles, *cells)
    ]


def without(
    hidden: Collection[str], columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> tuple[list[Column], list[list[str]]]:
    """The same table with some columns left out, by their titles."""
    kept = [i for i, column in enumerate(columns) if column.title not in hidden]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def plain(foreign: str) -> str:
    """Keep what other peers chose from steering the terminal."""
    return "".join(char if char.isprintable() else "?" for char in foreign)


def short_id(peer_id: str) -> str:
    """The end of a peer id: its start is the same for all."""
    return peer_id[-SHORT_ID_CHARS:]


def duration(seconds: float | None) -> str:
    """A time as people write it: 14ms, 3s, 5m, 2h 10m, 3d 4h."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 120:
        return f"{seconds:.3g}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours < 48 else f"{hours // 24}d {hours % 24}h"


def age(seconds: float) -> str:
    """How long ago."""
    return "now" if seconds < 1 else duration(float(int(seconds)))


def price(base_units: int | None) -> str:
    """Base units per 1M tokens as money."""
    if base_units is None:
        return "-"
    return f"{base_units / 10**PRICE_DECIMALS:.4g}" if base_units else "free"


def number(value: float | None, pattern: str = "{:.0f}") -> str:
    """A number, or a dash where it is unknown."""
    return "-" if value is None else pattern.format(value)


def context(n_tokens: int) -> str:
    """A context size: 2048 is 2k."""
    return f"{n_tokens // 1024}k" if n_tokens >= 1024 and n_tokens % 1024 == 0 else str(n_tokens)


def size(n_bytes: float) -> str:
    """Bytes as disks and hubs count them: 4.92 GB, 151 MB."""
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= bytes_each:
            return (
                f"{n_bytes / bytes_each:.3g} {unit}"
                if n_bytes < 999.5 * bytes_each
                else f"{n_bytes / bytes_each:.0f} {unit}"
            )
    return f"{n_bytes:.0f} B"


def count(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def paint(words: str, colour: str, out: TextIO | None = None) -> str:
    """Colour for a terminal, unless NO_COLOR is set or the output is read by a program."""
    stream = sys.stdout if out is None else out
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return words
    return f"\x1b[{colour}m{words}\x1b[0m"
