"""The standard streams of a command, which may be closed, cut off by their reader, or no text at all."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> None:
    """Have all three there, and none of them end a command by what passes through it.

    Who closed standard output gets the error of a write to it, as from a full disk; an input that was closed is at its
    end. Bytes of the input that are no text come as halves of characters, like those of the command line; characters
    that the output cannot show go out as question marks.
    """
    for fd, name, mode, flags in (
        (0, "stdin", "r", os.O_RDONLY),
        (1, "stdout", "w", os.O_RDONLY),
        (2, "stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def complain(text: str) -> None:
    """Say on stderr what went wrong; that nobody reads it changes nothing."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def settle() -> None:
    """Write what is left; what cannot be written goes nowhere, or Python would complain when it flushes at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
