"""Tables: units people read, dashes for the unknown, nothing foreign reaches the terminal raw."""

from __future__ import annotations

import io

import pytest

from mcd.cli import table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0142, "14ms"),
        (0.999, "999ms"),
        (2.914, "2.91s"),
        (11, "11s"),
        (119, "119s"),
        (300, "5m"),
        (7800, "2h 10m"),
        (273_600, "3d 4h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert table.duration(seconds) == text


@pytest.mark.parametrize(("units", "text"), [(None, "-"), (0, "free"), (180_000, "0.18"), (12_500_000, "12.5")])
def test_prices(units: int | None, text: str) -> None:
    assert table.price(units) == text


def test_small_words() -> None:
    assert table.age(0.4) == "now"
    assert table.age(3.7) == "3s"
    assert table.context(131_072) == "128k"
    assert table.context(1000) == "1000"
    assert table.count(1, "peer") == "1 peer"
    assert table.count(1284, "request") == "1,284 requests"
    assert table.number(None) == "-"
    assert table.short_id("12D3KooWxxxx9fKq2mZa") == "9fKq2mZa"


def test_columns_line_up_and_foreign_text_is_harmless() -> None:
    columns = [*table.text("NAME"), *table.numbers("RTT")]
    assert table.render(columns, [["atlas\x1b[2J", "14ms"], ["x", "3s"]]) == [
        "NAME        RTT",
        "atlas?[2J  14ms",
        "x            3s",
    ]


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert table.paint("x", table.BOLD, io.StringIO()) == "x"
    assert table.paint("x", table.BOLD, Terminal()) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert table.paint("x", table.BOLD, Terminal()) == "x"


def test_columns_can_be_left_out_by_title() -> None:
    columns = [*table.text("A", "B"), *table.numbers("C")]
    kept, rows = table.without({"B"}, columns, [["1", "2", "3"]])
    assert table.render(kept, rows) == ["A  C", "1  3"]
    assert table.without(set(), columns, [["1", "2", "3"]]) == (columns, [["1", "2", "3"]])
