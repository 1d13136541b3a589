"""The scripts that read the specs: what they accept, and that each kind of mistake is named."""

from __future__ import annotations

import importlib
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAD = "# 01 Sample\n\n| revision | status | ids | code |\n|---|---|---|---|\n| 1 | draft | `SA` | `x` |\n\n"
FIELDS = "| # | field | type | default | since | meaning |\n|---|---|---|---|---|---|\n"
LIMITS = "\n\n## Limits\n\n| name | value | unit | code | why |\n|---|---|---|---|---|\n| `MAX_X` | 9 | x | `m` | y |\n"


@pytest.fixture
def extract(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.extract_messages")


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.spec_coverage")


def specs(folder: Path, *texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts, start=1):
        (folder / f"{number:02}-sample.md").write_text(text)
    return folder


def extracted(extract: ModuleType, folder: Path) -> dict[str, Any]:
    return tomllib.loads(extract.render(extract.read_specs(folder)))


# --- extract_messages ----------------------------------------------------------------------------------------


def test_a_whole_table_is_resolved(extract: ModuleType, tmp_path: Path) -> None:
    text = (
        HEAD
        + "#### types\n\n| type | form | pattern |\n|---|---|---|\n| `Name` | `str(1..MAX_X)` | `^a\\|b$` |\n\n"
        + "#### message `Hello` = 3 (talk)\n\n"
        + FIELDS
        + "| 1 | `name` | `Name` | | 1 | who |\n| 2 | `parts` | `list(Part, 0..4)` | `[]` | 2 | what |\n\n"
        + "#### struct `Part`\n\n"
        + FIELDS
        + "| 1 | `data` | `bytes(0..MAX_X)` | | 1 | |\n| 2 | `rate` | `float` | | 1 | |\n\n"
        + "#### message `Bye` = 4 (talk)\n\nNo fields.\n"
        + LIMITS
    )
    toml = extracted(extract, specs(tmp_path, text))
    name = {"field": "name", "type": "str", "min": 1, "max": 9, "name": "Name", "pattern": "^a|b$", "since": 1}
    part = {"type": "struct", "name": "Part"}
    parts = {"field": "parts", "type": "list", "of": part, "min": 0, "max": 4, "default": [], "since": 2}
    assert toml["messages"]["Hello"] == {"number": 3, "protocol": "talk", "spec": "01", "fields": [name, parts]}
    assert toml["messages"]["Bye"]["fields"] == []
    assert toml["structs"]["Part"]["fields"][0] == {"field": "data", "type": "bytes", "min": 0, "max": 9, "since": 1}
    assert toml["limits"]["MAX_X"] == {"value": 9, "unit": "x", "code": "m", "spec": "01"}


def test_examples_in_fences_are_not_tables(extract: ModuleType, tmp_path: Path) -> None:
    text = HEAD + "```\n#### message `Hello` = 3 (talk)\n\n" + FIELDS + "| 1 | `a` | `float` | | 1 | |\n```\n"
    assert "messages" not in extracted(extract, specs(tmp_path, text))


ROW = "| 1 | `a` | `float` | | 1 | |\n"
MISTAKES = {
    "another column": ("#### struct `A`\n\n| field |\n|---|\n| `a` |\n", "columns are"),
    "a cell too few": ("#### struct `A`\n\n" + FIELDS + "| 1 | `a` | `float` | 1 | |\n", "cells in the row"),
    "a field number wrong": ("#### struct `A`\n\n" + FIELDS + "| 2 | `a` | `float` | | 1 | |\n", "is number 2, not 1"),
    "no code font": ("#### struct `A`\n\n" + FIELDS + "| 1 | a | `float` | | 1 | |\n", "not in code font"),
    "no table": ("#### struct `A`\n\nText.\n", "no table under"),
    "a number given twice": (
        "#### message `A` = 1 (x)\n\n" + FIELDS + ROW + "\n#### message `B` = 1 (x)\n\n" + FIELDS + ROW,
        "given twice",
    ),
    "a name defined twice": (
        "#### struct `A`\n\n" + FIELDS + ROW + "\n#### struct `A`\n\n" + FIELDS + ROW,
        "A is defined twice",
    ),
    "a heading of another form": ("#### message `A` (x)\n\n" + FIELDS + ROW, "is not: message"),
    "required after optional": (
        "#### struct `A`\n\n" + FIELDS + "| 1 | `a` | `float` | `0.5` | 1 | |\n| 2 | `b` | `float` | | 1 | |\n",
        "has no default",
    ),
    "an unknown type": ("#### struct `A`\n\n" + FIELDS + "| 1 | `a` | `Nope` | | 1 | |\n", "A.a: no type"),
    "an unknown limit": ("#### struct `A`\n\n" + FIELDS + "| 1 | `a` | `bytes(MAX_NOPE)` | | 1 | |\n", "MAX_NOPE"),
    "a limit that is no number": (LIMITS.replace("| 9 |", "| nine |"), "invalid literal"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_table_is_named(extract: ModuleType, tmp_path: Path, mistake: str) -> None:
    text, words = MISTAKES[mistake]
    with pytest.raises(extract.SpecError, match=words):
        extracted(extract, specs(tmp_path, HEAD + text))


def test_a_limit_in_two_specs_is_named(extract: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(extract.SpecError, match=r"02-sample.md: MAX_X is defined twice"):
        extracted(extract, specs(tmp_path, HEAD + LIMITS, HEAD + LIMITS))


def test_check_sees_a_difference(extract: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs(tmp_path / "specs", HEAD + LIMITS)
    (tmp_path / "protocol").mkdir()
    monkeypatch.setattr(extract, "ROOT", tmp_path)
    assert extract.main(["--check"]) == 1
    assert extract.main([]) == 0
    assert extract.main(["--check"]) == 0
    (tmp_path / "protocol" / "messages.toml").write_text("")
    assert extract.main(["--check"]) == 1
    (tmp_path / "specs" / "01-sample.md").write_text(HEAD + LIMITS + LIMITS)
    assert extract.main([]) == 1


def test_the_files_in_protocol_are_up_to_date(extract: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extract.main(["--check"]) == 0
    assert importlib.import_module("scripts.make_vectors").main(["--check"]) == 0


# --- spec_coverage -------------------------------------------------------------------------------------------


def tree(root: Path, requirements: str, test: str = "", code: str = "", vectors: str = "[]") -> Path:
    specs(root / "specs", HEAD + textwrap.dedent(requirements))
    for folder, name, text in (
        ("tests", "test_a.py", test),
        ("mcd", "a.py", code),
        ("protocol/vectors", "a.json", vectors),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / name).write_text(textwrap.dedent(text))
    return root


MARKED = """
import pytest
@pytest.mark.spec("SA-01")
def test_a(): ...
"""


def test_a_tested_must_is_covered(coverage: ModuleType, tmp_path: Path) -> None:
    found = coverage.measure(tree(tmp_path, "- [SA-01] A peer MUST a.\n- [SA-02] A peer MAY b.\n", MARKED))
    assert found.faults == []
    assert found.summary() == ("spec coverage: 2 requirements, 1 with MUST, 1 of them tested by 1 marks, 0 faults")


@pytest.mark.parametrize(
    ("requirements", "test", "code", "vectors", "fault"),
    [
        ("- [SA-01] A peer MUST NOT a.\n", "", "", "[]", "SA-01: a MUST without a test"),
        ("- [SA-01] A peer\n  goes on and MUST a.\n", "", "", "[]", "SA-01: a MUST without a test"),
        ("- [SA-02] A peer MAY a.\n", MARKED, "", "[]", "test_a.py:3: names SA-01, which no spec defines"),
        ("- [SA-01] A MUST b.\n- [SA-01] A MUST c.\n", MARKED, "", "[]", "01-sample.md: SA-01 is defined twice"),
        ("- [SA-01] A peer does a.\n", MARKED, "", "[]", "01-sample.md: SA-01 has no MUST, SHOULD or MAY"),
        (
            "- [XX-01] A MAY b.\n",
            "",
            "",
            "[]",
            "01-sample.md: XX-01 has a prefix that the head of the spec does not own",
        ),
        ("- [SA-01] A MUST b.\n", MARKED, '"""A. [SA-09]"""\n', "[]", "mcd/a.py: names SA-09, which no spec defines"),
        (
            "- [SA-01] A MUST b, as [SA-07].\n",
            MARKED,
            "",
            "[]",
            "specs/01-sample.md: names SA-07, which no spec defines",
        ),
        ("- [SA-01] A MUST b.\n", MARKED, "", '[{"spec":["SA-08"]}]', "a.json: names SA-08, which no spec defines"),
        (
            "- [SA-01] A MUST b.\n",
            MARKED + "@pytest.mark.spec(NAME)\ndef test_b(): ...\n",
            "",
            "[]",
            "test_a.py:5: a spec mark takes ids as plain strings",
        ),
    ],
)
def test_each_fault_is_named(
    coverage: ModuleType, tmp_path: Path, requirements: str, test: str, code: str, vectors: str, fault: str
) -> None:
    assert coverage.measure(tree(tmp_path, requirements, test, code, vectors)).faults == [fault]


def test_exit_code_follows_the_faults(coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "ROOT", tree(tmp_path / "good", "- [SA-01] A peer MUST a.\n", MARKED))
    assert coverage.main() == 0
    monkeypatch.setattr(coverage, "ROOT", tree(tmp_path / "bad", "- [SA-01] A peer MUST a.\n"))
    assert coverage.main() == 1
