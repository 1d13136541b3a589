"""Hold specs, tests and code together: every MUST has a test, every id that is named exists.

Requirements are list items of specs/*.md beginning with their id (protocol/README.md). A test proves one by the mark
`@pytest.mark.spec("EX-12")`. Tests are parsed, not imported.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_ID = r"[A-Z]{2,5}-\d{2,3}"
_ITEM = re.compile(rf"- \[({_ID})\] (.*)")
_REFERENCE = re.compile(rf"\[({_ID}(?:, {_ID})*)\]")
_MUST = re.compile(r"\bMUST\b")
_WORD = re.compile(r"\b(MUST|SHOULD|MAY)\b")


@dataclass
class Coverage:
    """What was found, and what is wrong with it."""

    requirements: dict[str, str] = field(default_factory=dict)
    """Id -> text."""
    tests: dict[str, list[str]] = field(default_factory=dict)
    """Id -> where it is tested."""
    faults: list[str] = field(default_factory=list)

    @property
    def musts(self) -> list[str]:
        """Ids of requirements that need a test."""
        return [name for name, text in self.requirements.items() if _MUST.search(text)]

    def summary(self) -> str:
        """One line for people."""
        tested = sum(1 for name in self.musts if name in self.tests)
        n_marks = sum(len(places) for places in self.tests.values())
        return (
            f"spec coverage: {len(self.requirements)} requirements, {len(self.musts)} with MUST, "
            f"{tested} of them tested by {n_marks} marks, {len(self.faults)} faults"
        )


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Each requirement of a spec with its whole text; fenced examples are left out."""
    name, parts, fenced = "", [], False
    for line in [*text.splitlines(), ""]:
        if line.startswith("```"):
            fenced = not fenced
        found = None if fenced else _ITEM.fullmatch(line)
        if name and (found or not line.startswith("  ")):
            yield name, " ".join(parts)
            name = ""
        if found:
            name, parts = found[1], [found[2]]
        elif name:
            parts.append(line.strip())


def _owned(text: str) -> set[str]:
    """The prefixes that a spec's head table gives it."""
    for line in text.splitlines():
        if line.startswith("| ") and "`" in line:
            return set(re.findall(r"`([A-Z]{2,5})`", line.split("|")[3]))
    return set()


def _read_specs(folder: Path, coverage: Coverage) -> None:
    for path in sorted(folder.glob("[0-9][0-9]-*.md")):
        text = path.read_text("utf-8")
        owned = _owned(text)
        for name, requirement in _items(text):
            if name in coverage.requirements:
                coverage.faults.append(f"{path.name}: {name} is defined twice")
            if name.split("-")[0] not in owned:
                coverage.faults.append(f"{path.name}: {name} has a prefix that the head of the spec does not own")
            if not _WORD.search(requirement):
                coverage.faults.append(f"{path.name}: {name} has no MUST, SHOULD or MAY")
            coverage.requirements[name] = requirement


def _marks(tree: ast.AST) -> Iterator[tuple[int, list[ast.expr]]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if node.func.attr == "spec" and isinstance(owner, ast.Attribute) and owner.attr == "mark":
            yield node.lineno, node.args


def _read_tests(folder: Path, coverage: Coverage) -> None:
    for path in sorted(folder.rglob("*.py")):
        for line, arguments in _marks(ast.parse(path.read_text("utf-8"))):
            place = f"{path.name}:{line}"
            for argument in arguments:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    coverage.tests.setdefault(argument.value, []).append(place)
                else:
                    coverage.faults.append(f"{place}: a spec mark takes ids as plain strings")


def _vector_ids(value: Any) -> Iterator[str]:
    for vector in value if isinstance(value, list) else []:
        if isinstance(vector, dict):
            yield from vector.get("spec", [])


def _check_references(root: Path, coverage: Coverage) -> None:
    texts = [*(root / "mcd").rglob("*.py"), *(root / "specs").glob("*.md")]
    for path in sorted(texts):
        for group in _REFERENCE.findall(path.read_text("utf-8")):
            _check_known(coverage, group.split(", "), path.relative_to(root).as_posix())
    for path in sorted((root / "protocol" / "vectors").rglob("*.json")):
        _check_known(coverage, _vector_ids(json.loads(path.read_text("utf-8"))), path.name)


def _check_known(coverage: Coverage, names: Any, place: str) -> None:
    for name in dict.fromkeys(names):
        if name not in coverage.requirements:
            coverage.faults.append(f"{place}: names {name}, which no spec defines")


def measure(root: Path) -> Coverage:
    """Read specs/, tests/, mcd/ and protocol/vectors/ of a tree."""
    coverage = Coverage()
    _read_specs(root / "specs", coverage)
    _read_tests(root / "tests", coverage)
    for name, places in sorted(coverage.tests.items()):
        _check_known(coverage, [name], places[0])
    coverage.faults += [f"{name}: a MUST without a test" for name in coverage.musts if name not in coverage.tests]
    _check_references(root, coverage)
    return coverage


def main() -> int:
    """Print faults and the summary; 1 when there is a fault."""
    coverage = measure(ROOT)
    for fault in coverage.faults:
        print(f"spec_coverage: {fault}", file=sys.stderr)
    print(coverage.summary())
    return 1 if coverage.faults else 0


if __name__ == "__main__":
    sys.exit(main())
