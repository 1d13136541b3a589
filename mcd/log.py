"""Structured log: a fixed event name and typed fields from an allow-list, on stderr.

One JSON object a line for programs; for a person, who sits at a terminal, the same as words.

User text cannot be logged: a field outside the list is a programming error, and every value must be a number,
a bool or a short plain string. CONVENTIONS 41-43.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import msgspec

from mcd.spool import Spool

FIELDS = frozenset(
    {
        "address", "alias", "attempt", "code", "count", "detail", "direction", "digest", "itl_s", "key_id", "load_ms",
        "model_id", "n_output_tokens", "n_prompt_tokens", "name", "n_peers", "outcome", "path", "peer_id", "pid",
        "price_output", "queue_s", "reason", "request_id", "restarts", "rtt_s", "service", "signal", "state",
        "status", "ttft_s", "uptime_s", "version",
    }
)  # fmt: skip
"""Every field a log line may have. None of them can hold user text."""
MAX_VALUE_CHARS = 200
LEVELS = ("debug", "info", "warning", "error")
_COLOURS = {"debug": "2", "warning": "33", "error": "31"}

Value = str | int | float | bool | None


class Log:
    """Writes events at or above a level. Owner: `mcd.daemon`, which hands it to the rooms."""

    def __init__(self, level: str = "info", out: TextIO | Spool | None = None) -> None:
        self._threshold = LEVELS.index(level)
        self._out = out if out is not None else sys.stderr
        self._is_for_people = self._out.isatty()

    def event(self, name: str, level: str = "info", **fields: Value) -> None:
        """Write one line.

        Raises:
            ValueError: A field is not on the allow-list: a bug, found by the first test that logs it.
        """
        unknown = fields.keys() - FIELDS
        if unknown:
            raise ValueError(f"log fields not on the allow-list: {sorted(unknown)}")
        if LEVELS.index(level) < self._threshold:
            return
        text = _line(name, level, fields, self._is_for_people)
        with contextlib.suppress(OSError):  # the disk is full or the reader gone: no reason to stop serving
            self._out.write(text)
            self._out.flush()

    def debug(self, name: str, **fields: Value) -> None:
        """Write at debug level."""
        self.event(name, "debug", **fields)

    def info(self, name: str, **fields: Value) -> None:
        """Write at info level."""
        self.event(name, "info", **fields)

    def warning(self, name: str, **fields: Value) -> None:
        """Write at warning level."""
        self.event(name, "warning", **fields)

    def error(self, name: str, **fields: Value) -> None:
        """Write at error level."""
        self.event(name, "error", **fields)


@contextlib.contextmanager
def on_stderr(level: str) -> Iterator[Log]:
    """A log that waits for nobody: not for a terminal that is held, not for a pipe that nobody reads."""
    is_for_people = sys.stderr.isatty()
    with Spool(sys.stderr, lambda count: _line("log_lost", "warning", {"count": count}, is_for_people)) as out:
        yield Log(level, out)


def _line(name: str, level: str, fields: Mapping[str, Value], is_for_people: bool) -> str:
    line: dict[str, Value] = {"time": round(time.time(), 3), "level": level, "event": name}
    for key, value in fields.items():
        line[key] = value[:MAX_VALUE_CHARS] if isinstance(value, str) else value
    return (_words(line) if is_for_people else msgspec.json.encode(line).decode()) + "\n"


def _words(line: dict[str, Value]) -> str:
    """A line for a terminal: time of day, level unless it is info, event, fields, and the detail behind them."""
    level, detail = str(line["level"]), line.get("detail")
    fields = [f"{key}={value}" for key, value in line.items() if key not in {"time", "level", "event", "detail"}]
    said = str(line["event"]).replace("_", " ")
    if level != "info":
        said = f"{level}: {said}"
        if not os.environ.get("NO_COLOR"):
            said = f"\x1b[{_COLOURS[level]}m{said}\x1b[0m"
    rest = "  ".join([" ".join(fields), *([] if detail is None else [str(detail)])])
    foreign = "".join(char if char.isprintable() else "?" for char in rest)  # a peer's name does not steer the terminal
    return f"{time.strftime('%H:%M:%S')}  {said}  {foreign}".rstrip()
