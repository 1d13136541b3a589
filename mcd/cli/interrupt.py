"""Ctrl-C: it ends a command at once and without a word, but where one has something to say about it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def end_quietly() -> None:
    """From here on it ends the process; shells report 130.

    Loading takes up to two seconds; a KeyboardInterrupt among imports is a page of traceback, or lost in a callback.
    """
    _replace(signal.default_int_handler, signal.SIG_DFL)


def heed() -> None:
    """From here on it is a KeyboardInterrupt again."""
    _replace(signal.SIG_DFL, signal.default_int_handler)


def _replace(before: Handler, after: Handler) -> None:
    if signal.getsignal(signal.SIGINT) is before:  # what a shell runs in the background is to ignore it
        signal.signal(signal.SIGINT, after)
