"""The progress line under a clock and a terminal of our own."""

from __future__ import annotations

import io

import pytest

from mcd.cli import table
from mcd.cli.progress import ProgressLine, line

MB = 10**6


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_line() -> None:
    assert line("8eeb52d..", 1739 * MB, 4700 * MB, 84e6) == (
        "pulling 8eeb52d..   37% [#######             ] 1.74 GB/4.7 GB  84 MB/s  35s"
    )
    assert line("x", 5, 5, None) == "pulling x  100% [####################] 5 B/5 B"
    assert "  0% [" in line("x", 0, 100, None)
    assert "100% [" in line("x", 0, 0, None)


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (33_554_432, "33.6 MB"),
        (4_920_000_000, "4.92 GB"),
        (42.52e9, "42.5 GB"),
        (999.9e6, "1000 MB"),
        (1.2345e12, "1234 GB"),
    ],
)
def test_sizes(n_bytes: float, words: str) -> None:
    assert table.size(n_bytes) == words


def test_elsewhere_than_on_a_terminal_each_tenth_is_a_plain_line() -> None:
    out, clock = io.StringIO(), Clock()
    progress = ProgressLine("x", 100 * MB, out, clock)
    progress.start(35 * MB)
    for _ in range(65):
        clock.now += 1
        progress.advance(MB)
    progress.end()
    lines = out.getvalue().splitlines()
    assert [said.split("%")[0].split()[-1] for said in lines] == ["35", "40", "50", "60", "70", "80", "90", "100"]
    assert lines[2].endswith("1 MB/s  50s")
    assert "\r" not in out.getvalue()


def test_on_a_terminal_one_line_is_redrawn_five_times_a_second() -> None:
    out, clock = Terminal(), Clock()
    progress = ProgressLine("x", 100 * MB, out, clock)
    progress.start(0)
    for _ in range(99):
        clock.now += 0.125
        progress.advance(MB)
    progress.advance(MB)
    progress.end()
    assert out.getvalue().count("\r\x1b[K") == 1 + 49 + 1
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("100 MB/100 MB  8.1 MB/s\n")


def test_bytes_that_come_again_and_a_stall() -> None:
    out, clock = io.StringIO(), Clock()
    progress = ProgressLine("x", 100 * MB, out, clock)
    progress.start(0)
    clock.now += 1
    progress.advance(50 * MB)
    progress.advance(-50 * MB)
    progress.start(0)
    clock.now += 60
    progress.advance(100 * MB)
    assert out.getvalue().splitlines()[-1].startswith("pulling x  100%")
