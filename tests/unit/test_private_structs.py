"""What holds a user's text says nothing of it when printed: by a traceback, a log line or a failing test."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import msgspec

from mcd import api, engine
from mcd.wire import payload
from mcd.wire.payload import Private

TEXTLESS = {
    "Answering": "who answers", "Waiting": "times", "Model": "names", "ModelList": "names", "Usage": "counts",
    "UsagePart": "counts", "_Usage": "counts", "Broken": "nothing", "Busy": "nothing", "Ended": "nothing",
    "Opened": "nothing", "_Models": "names",
}  # fmt: skip


def test_every_struct_of_a_users_text_is_private() -> None:
    names = [f"{api.__name__}.{module.name}" for module in pkgutil.iter_modules(api.__path__)]
    names += [f"{engine.__name__}.upstream", f"{engine.__name__}.foreign", payload.__name__]
    structs = [
        struct
        for name in names
        for _, struct in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if issubclass(struct, msgspec.Struct) and struct.__module__ == name
    ]
    open_ones = {struct.__name__ for struct in structs if not issubclass(struct, Private)}
    assert open_ones == TEXTLESS.keys()
    assert len(structs) > 40
