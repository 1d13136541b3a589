"""protocol/messages.toml, extracted from the specs, says exactly what the structs and constants in `mcd` say."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT
from msgspec import inspect as shape

import mcd.wire
from mcd.wire import messages
from mcd.wire.messages import CAPABILITY_VERSION, Message

ROOT = Path(__file__).resolve().parents[2]
TOML: dict[str, Any] = tomllib.loads((ROOT / "protocol" / "messages.toml").read_text("utf-8"))
ROOMS = [importlib.import_module(f"mcd.wire.{found.name}") for found in pkgutil.iter_modules(mcd.wire.__path__)]


def wire_structs() -> dict[str, type[msgspec.Struct]]:
    """Every struct of the wire room that is an array on the wire."""
    found = {}
    for room in ROOMS:
        for name, kind in vars(room).items():
            is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            if (
                is_struct
                and kind is not Message
                and kind.__module__ == room.__name__
                and kind.__struct_config__.array_like
            ):
                found[name] = kind
    return found


STRUCTS = wire_structs()


def bounds(low: int | None, high: int | None) -> dict[str, int]:
    """Lengths as messages.toml spells them: none, or both."""
    return {} if high is None else {"min": low or 0, "max": high}


def described(kind: Any) -> dict[str, Any]:
    """A field's type as messages.toml spells it."""
    match kind:
        case shape.IntType(ge=low, le=high):
            entry: dict[str, Any] = {"type": "uint", "min": low, "max": high}
        case shape.FloatType():
            entry = {"type": "float"}
        case shape.StructType(cls=struct):
            entry = {"type": "struct", "name": struct.__name__}
        case shape.VarTupleType(item_type=item, min_length=low, max_length=high):
            entry = {"type": "list", "of": described(item)} | bounds(low, high)
        case shape.BytesType(min_length=low, max_length=high):
            entry = {"type": "bytes"} | bounds(low, high)
        case shape.StrType(pattern=pattern) if pattern is not None:
            entry = {"type": "str", "pattern": pattern.replace(r"\Z", "$")}
        case shape.StrType(min_length=low, max_length=high):
            entry = {"type": "str"} | bounds(low, high)
        case _:
            raise AssertionError(f"no spelling for {kind}")
    return entry


def comparable(entry: dict[str, Any]) -> dict[str, Any]:
    """A type of messages.toml without names and without what a pattern implies."""
    result = {key: entry[key] for key in ("type", "min", "max", "pattern") if key in entry}
    if "pattern" in entry:
        del result["min"], result["max"]
    if entry["type"] == "struct":
        result["name"] = entry["name"]
    if "of" in entry:
        result["of"] = comparable(entry["of"])
    return result


def default_of(field: shape.Field) -> Any:
    """A default as messages.toml spells it; NODEFAULT when there is none."""
    value = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.spec("WIRE-07", "WIRE-11", "WIRE-13")
@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_as_specified(name: str) -> None:
    entry = TOML["messages"].get(name) or TOML["structs"].get(name)
    assert entry is not None, f"no spec has a table for {name}"
    info = shape.type_info(STRUCTS[name])
    assert isinstance(info, shape.StructType)
    assert [field["field"] for field in entry["fields"]] == [field.name for field in info.fields]
    for specified, field in zip(entry["fields"], info.fields, strict=True):
        assert comparable(specified) == described(field.type), f"{name}.{field.name}"
        assert specified.get("default", NODEFAULT) == default_of(field), f"{name}.{field.name}"
    assert info.forbid_unknown_fields is False
    assert info.tag == entry.get("number")


def test_every_specified_message_and_struct_exists() -> None:
    assert {*TOML["messages"], *TOML["structs"]} == set(STRUCTS)


@pytest.mark.spec("WIRE-20")
def test_protocols_and_their_numbers() -> None:
    for protocol in TOML["protocols"]:
        assert getattr(importlib.import_module(protocol["code"]), protocol["constant"]) == protocol["id"]
    ranges = {entry["id"].split("/")[2]: range(entry["low"], entry["high"] + 1) for entry in TOML["protocols"]}
    for name, entry in TOML["messages"].items():
        assert entry["number"] in ranges[entry["protocol"]], name
    numbers = [entry["number"] for entry in TOML["messages"].values()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", TOML["limits"])
def test_limit_is_the_constant_in_code(name: str) -> None:
    entry = TOML["limits"][name]
    assert getattr(importlib.import_module(entry["code"]), name) == entry["value"]


def test_every_limit_of_the_wire_is_specified() -> None:
    constants = {
        name
        for room in ROOMS
        for name, value in vars(room).items()
        if name.startswith("MAX_") and isinstance(value, int)
    }
    assert constants <= set(TOML["limits"])


@pytest.mark.parametrize("name", TOML["numbers"])
def test_numbers_are_the_enum_in_code(name: str) -> None:
    kind = getattr(messages, name)
    assert issubclass(kind, IntEnum)
    assert {member.name: member.value for member in kind} == TOML["numbers"][name]


@pytest.mark.spec("WIRE-23")
def test_later_fields_are_appended_with_defaults() -> None:
    assert TOML["capability_version"] == CAPABILITY_VERSION
    for name, entry in (*TOML["messages"].items(), *TOML["structs"].items()):
        since = [field["since"] for field in entry["fields"]]
        assert since == sorted(since), name
        assert all(1 <= version <= CAPABILITY_VERSION for version in since), name
        assert all("default" in field for field in entry["fields"] if field["since"] > since[0]), name


@pytest.mark.spec("ID-11")
def test_labels_are_distinct_and_none_begins_another() -> None:
    """Every label the wire room signs under is in the table of 02, which no two purposes share."""
    used = {
        value.decode().replace("\0", "\\0")
        for room in ROOMS
        for name, value in vars(room).items()
        if name.endswith("_LABEL") and isinstance(value, bytes) and name not in {"REQUEST_LABEL", "RESPONSE_LABEL"}
    }
    assert used == set(TOML["labels"])
    assert len(set(TOML["labels"])) == len(TOML["labels"])
    assert all(label.endswith("\\0") and label.count("\\0") == 1 for label in TOML["labels"])
