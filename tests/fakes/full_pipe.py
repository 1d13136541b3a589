"""A pipe that is full: whoever writes to it waits until somebody reads."""

from __future__ import annotations

import os


class FullPipe:
    """Owner: the test, which closes what it does not hand on."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.write_fd, False)
        self._n_filler = 0
        try:
            while True:
                self._n_filler += os.write(self.write_fd, bytes(4096))
        except BlockingIOError:
            os.set_blocking(self.write_fd, True)

    def read_all(self) -> str:
        """What was written behind the filler, once nobody can write any more."""
        read = bytearray()
        while part := os.read(self.read_fd, 65536):
            read += part
        return read[self._n_filler :].decode()
