"""Texts for a reader that may stall: nobody waits for it, and what is lost is told."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from mcd import spool
from mcd.spool import MAX_HELD, Spool
from tests.fakes.full_pipe import FullPipe


class Reading:
    """Reads a pipe to its end beside the test."""

    def __init__(self, pipe: FullPipe) -> None:
        self._read: list[str] = []
        self._thread = threading.Thread(target=lambda: self._read.append(pipe.read_all()))
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return self._read[0]


@pytest.fixture
def pipe() -> Iterator[tuple[FullPipe, TextIO]]:
    made = FullPipe()
    with os.fdopen(made.write_fd, "w") as out:
        yield made, out
    os.close(made.read_fd)


def told(count: int) -> str:
    return f"lost {count}\n"


def test_a_stalled_reader_costs_the_oldest_texts_and_hears_how_many(
    pipe: tuple[FullPipe, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CLOSE_S", 30.0)
    full, file = pipe
    n_texts = MAX_HELD + 500
    with Spool(file, told) as out:
        out.write("first\n")
        while out._held.qsize():
            pass  # the thread has it, and waits for the reader
        for number in range(n_texts):
            out.write(f"{number}\n")
        read = Reading(full)
    file.close()
    kept = [f"{number}" for number in range(n_texts - MAX_HELD, n_texts)]
    assert read.text().splitlines() == ["first", "lost 500", *kept]


def test_the_end_does_not_wait_for_ever_for_a_reader(
    pipe: tuple[FullPipe, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CLOSE_S", 0.01)
    full, file = pipe
    with Spool(file, told) as out:
        out.write("unread\n")
    read = Reading(full)
    out._thread.join()
    file.close()
    assert read.text() == "unread\n"


def test_what_was_written_is_out_when_the_context_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file, pytest.raises(ZeroDivisionError), Spool(file, told) as out:  # noqa: PT012 - a crash
        for number in range(MAX_HELD // 2):
            out.write(f"{number}\n")
        raise ZeroDivisionError
    assert path.read_text().splitlines() == [f"{number}" for number in range(MAX_HELD // 2)]


def test_what_a_full_disk_refused_is_told_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, n_refused = os.write, threading.Semaphore(0)

    def refuse(fd: int, data: bytes) -> int:
        n_refused.release()
        raise OSError(errno.ENOSPC, "no space")

    path = tmp_path / "log"
    with path.open("w") as file, Spool(file, told) as out:
        monkeypatch.setattr(os, "write", refuse)
        for _ in range(2):
            out.write("refused\n")
        for _ in range(2):
            n_refused.acquire()
        monkeypatch.setattr(os, "write", write)
        out.write("written\n")
    assert path.read_text() == "lost 2\nwritten\n"


def test_a_descriptor_that_others_made_non_blocking_loses_nothing(
    pipe: tuple[FullPipe, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CLOSE_S", 30.0)
    full, file = pipe
    os.set_blocking(full.write_fd, False)
    with Spool(file, told) as out:
        out.write("kept\n")
        read = Reading(full)
    file.close()
    assert read.text() == "kept\n"
