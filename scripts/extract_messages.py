"""Extract protocol/messages.toml from the tables of specs/*.md; `--check` only says whether it is up to date.

The form of the tables is law in protocol/README.md. Everything is resolved here (named types, named limits), so
that a reader of the TOML needs no second look-up.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = "protocol/messages.toml"

FIELD_COLUMNS = ["#", "field", "type", "default", "since", "meaning"]
COLUMNS = {
    "types": ["type", "form", "pattern"],
    "Limits": ["name", "value", "unit", "code", "why"],
    "numbers": ["number", "name", "meaning"],
    "protocols": ["id", "constant", "code", "type numbers", "spec", "a stream carries"],
    "capability versions": ["version", "date", "what is new"],
    "labels": ["label", "signer", "body", "spec"],
    "message": FIELD_COLUMNS,
    "struct": FIELD_COLUMNS,
}
_HEADING = re.compile(r"#{2,6} (.*)")
_MESSAGE = re.compile(r"message `(\w+)` = (\d+) \((\w+)\)")
_NAMED = re.compile(r"(struct|numbers) `(\w+)`")
_FORM = re.compile(r"(uint|bytes|str)(?:\((\w+)(?:\.\.(\w+))?\))?")
_LIST = re.compile(r"list\((.+?)(?:, (\w+)\.\.(\w+))?\)")
_CELL = re.compile(r"(?<!\\)\|")

Row = list[str]


class SpecError(Exception):
    """A table does not have the form of protocol/README.md."""


@dataclass
class Tables:
    """What the specs' tables say, as read; resolved by `resolve`."""

    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    types: dict[str, tuple[str, str]] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    structs: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    protocols: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


# --- reading -------------------------------------------------------------------------------------------------


def _tables(text: str) -> Iterator[tuple[str, list[Row]]]:
    """Every heading with the first table below it, fenced code left out; a heading without table yields no rows."""
    heading, rows, fenced, done = "", [], False, False
    for line in [*text.splitlines(), "## end"]:
        if line.startswith("```"):
            fenced = not fenced
        found = None if fenced else _HEADING.fullmatch(line)
        if found:
            yield heading, rows
            heading, rows, done = found[1].strip(), [], False
        elif not fenced and not done and line.startswith("|"):
            cells = _CELL.split(line)[1:-1]
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            done = True


def _kind(heading: str) -> str | None:
    for kind in COLUMNS:
        if heading == kind or heading.startswith((f"{kind} `", f"{kind} of ")):
            return kind
    return None


def _body(kind: str, heading: str, rows: list[Row]) -> list[Row]:
    if not rows:
        if kind == "message":
            return []
        raise SpecError(f"no table under {heading!r}")
    if rows[0] != COLUMNS[kind]:
        raise SpecError(f"{heading!r}: columns are {rows[0]}, not {COLUMNS[kind]}")
    for row in rows[2:]:
        if len(row) != len(COLUMNS[kind]):
            raise SpecError(f"{heading!r}: {len(row)} cells in the row of {row[0]!r}")
    return rows[2:]


def _code(cell: str) -> str:
    if not (cell.startswith("`") and cell.endswith("`") and len(cell) > 2):
        raise SpecError(f"{cell!r} is not in code font")
    return cell[1:-1]


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        raise SpecError(f"{name} is defined twice")
    table[name] = value


def _fields(rows: list[Row]) -> list[dict[str, Any]]:
    fields = []
    for at, (number, name, form, default, since, _) in enumerate(rows, start=1):
        if number != str(at):
            raise SpecError(f"field {name} is number {number}, not {at}")
        entry: dict[str, Any] = {"name": _code(name), "form": _code(form), "since": int(since)}
        if default:
            entry["default"] = json.loads(_code(default))
        elif fields and "default" in fields[-1]:
            raise SpecError(f"field {name} has no default but follows one that has")
        fields.append(entry)
    return fields


def _read_fields(tables: Tables, spec: str, kind: str, heading: str, rows: list[Row]) -> None:
    if kind == "message":
        found = _MESSAGE.fullmatch(heading)
        if found is None:
            raise SpecError(f"{heading!r} is not: message `Name` = NUMBER (protocol)")
        entry = {"number": int(found[2]), "protocol": found[3], "spec": spec, "fields": _fields(rows)}
        if entry["number"] in {other["number"] for other in tables.messages.values()}:
            raise SpecError(f"type number {entry['number']} is given twice")
        _put(tables.messages, found[1], entry)
        return
    named = _NAMED.fullmatch(heading)
    if named is None:
        raise SpecError(f"{heading!r} is not: {kind} `Name`")
    if kind == "struct":
        _put(tables.structs, named[2], {"spec": spec, "fields": _fields(rows)})
    else:
        _put(tables.numbers, named[2], {_code(name): int(number) for number, name, _ in rows})


def _read_rows(tables: Tables, spec: str, kind: str, rows: list[Row]) -> None:
    for row in rows:
        match kind:
            case "Limits":
                entry = {"value": int(row[1]), "unit": row[2], "code": _code(row[3]), "spec": spec}
                _put(tables.limits, _code(row[0]), entry)
            case "types":
                _put(tables.types, _code(row[0]), (_code(row[1]), _code(row[2]) if row[2] else ""))
            case "protocols":
                tables.protocols.append(_protocol(row))
            case "capability versions":
                tables.versions.append(int(row[0]))
            case "labels":
                tables.labels.append(_code(row[0]))


def _protocol(row: Row) -> dict[str, Any]:
    low, high = row[3].split("-")
    return {
        "id": _code(row[0]),
        "constant": _code(row[1]),
        "code": _code(row[2]),
        "low": int(low),
        "high": int(high),
        "spec": row[4],
    }


def read_specs(folder: Path) -> Tables:
    """Read every table of the numbered specs in ``folder``.

    Raises:
        SpecError: With the file's name, when a table has another form.
    """
    tables = Tables()
    for path in sorted(folder.glob("[0-9][0-9]-*.md")):
        spec = path.name[:2]
        try:
            for heading, rows in _tables(path.read_text("utf-8")):
                kind = _kind(heading)
                if kind in {"message", "struct", "numbers"}:
                    _read_fields(tables, spec, kind, heading, _body(kind, heading, rows))
                elif kind is not None:
                    _read_rows(tables, spec, kind, _body(kind, heading, rows))
        except (SpecError, ValueError) as fault:
            raise SpecError(f"{path.name}: {fault}") from fault
    return tables


# --- resolving -----------------------------------------------------------------------------------------------


def _number(tables: Tables, text: str) -> int:
    if text.isdecimal():
        return int(text)
    if text not in tables.limits:
        raise SpecError(f"no limits table names {text}")
    return int(tables.limits[text]["value"])


def resolve(tables: Tables, form: str) -> dict[str, Any]:
    """A type in full: kind, bounds, pattern, and what a list holds.

    Raises:
        SpecError: Unknown form, type or limit.
    """
    if form == "float":
        return {"type": "float"}
    basic = _FORM.fullmatch(form)
    if basic:
        entry: dict[str, Any] = {"type": basic[1]}
        if basic[2]:
            entry["min"] = _number(tables, basic[2])
            entry["max"] = _number(tables, basic[3] or basic[2])
        return entry
    listed = _LIST.fullmatch(form)
    if listed:
        entry = {"type": "list", "of": resolve(tables, listed[1])}
        if listed[2]:
            entry |= {"min": _number(tables, listed[2]), "max": _number(tables, listed[3])}
        return entry
    if form in tables.structs:
        return {"type": "struct", "name": form}
    if form not in tables.types:
        raise SpecError(f"no type, struct or form {form!r}")
    inner, pattern = tables.types[form]
    return resolve(tables, inner) | {"name": form} | ({"pattern": pattern} if pattern else {})


def _resolved(tables: Tables, owner: str, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    result = []
    for entry in fields:
        try:
            full = {"field": entry["name"]} | resolve(tables, entry["form"])
        except SpecError as fault:
            raise SpecError(f"{owner}.{entry['name']}: {fault}") from fault
        if "default" in entry:
            full["default"] = entry["default"]
        result.append(full | {"since": entry["since"]})
    return result


# --- writing -------------------------------------------------------------------------------------------------


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)  # numbers, booleans and ASCII strings are written alike in JSON and TOML


def _field_lines(tables: Tables, owner: str, fields: list[dict[str, Any]]) -> list[str]:
    if not fields:
        return ["fields = []", ""]
    return ["fields = [", *(f"  {_toml(entry)}," for entry in _resolved(tables, owner, fields)), "]", ""]


def render(tables: Tables) -> str:
    """The whole of messages.toml.

    Raises:
        SpecError: A table names what no table defines.
    """
    lines = ["# Generated from specs/*.md by scripts/extract_messages.py; change the specs instead.", ""]
    lines += [f"capability_version = {max(tables.versions, default=0)}", f"labels = {_toml(tables.labels)}", ""]
    for protocol in tables.protocols:
        lines += ["[[protocols]]", *(f"{key} = {_toml(value)}" for key, value in protocol.items()), ""]
    lines += ["[limits]", *(f"{name} = {_toml(entry)}" for name, entry in sorted(tables.limits.items())), ""]
    lines += ["[types]", *(f"{name} = {_toml(resolve(tables, name))}" for name in sorted(tables.types)), ""]
    for name, entries in sorted(tables.numbers.items()):
        lines += [f"[numbers.{name}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    for name, entry in sorted(tables.messages.items(), key=lambda item: item[1]["number"]):
        lines += [f"[messages.{name}]", *(f"{key} = {_toml(entry[key])}" for key in ("number", "protocol", "spec"))]
        lines += _field_lines(tables, name, entry["fields"])
    for name, entry in sorted(tables.structs.items()):
        lines += [f"[structs.{name}]", f"spec = {_toml(entry['spec'])}"]
        lines += _field_lines(tables, name, entry["fields"])
    return "\n".join(lines).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with `--check` compare it; 1 on any difference or fault."""
    target = ROOT / TARGET
    try:
        text = render(read_specs(ROOT / "specs"))
    except SpecError as fault:
        print(f"extract_messages: {fault}", file=sys.stderr)
        return 1
    if "--check" not in arguments:
        target.write_text(text, "utf-8")
        return 0
    if not target.exists() or target.read_text("utf-8") != text:
        print(f"extract_messages: {TARGET} differs from specs/; run scripts/extract_messages.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
