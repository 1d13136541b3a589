"""The worker's end of the picture process: the pictures of one request after another, each request's in order."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Sequence

from mcd.engine import decoder, killable
from mcd.engine.decoder import LOW_SIDE, MAX_SIDE, SIDE_BYTES
from mcd.engine.killable import Status
from mcd.errors import InvalidRequestError, McdError, UserError
from mcd.wire.payload import Private


class DecoderGoneError(McdError):
    """The keeper of the picture process ended, which only the end of this machine's memory explains; we end as well."""

    code = "engine_decoder_gone"


class EncodedPicture(Private, frozen=True):
    """A picture as it came."""

    data: bytes
    is_low: bool
    where: str
    """The request's member it stands in, for its error."""


class Picture(Private, frozen=True):
    """A picture as pixels."""

    width: int
    height: int
    rgb: bytes


class Decoding:
    """Owner: Preparing, of the channel to the picture process that the worker started."""

    def __init__(self, channel: tuple[int, int]) -> None:
        """Take over the channel; nothing is sent yet."""
        self._requests, self._answers = channel
        self._waiting: deque[_Album] = deque()
        self._is_asked = False
        """An answer is to come; of the first album, or of one that was cancelled."""
        self._is_stale = False

    @classmethod
    def start(cls) -> Decoding:
        """Fork the process; call while the worker is confined, and before it has keys.

        Raises:
            OSError: No process can be made.
        """
        return cls(decoder.start())

    def fileno(self) -> int:
        """Readable when an answer is there, or the process has gone."""
        return self._answers

    def submit(self, job_id: int, pictures: Sequence[EncodedPicture]) -> None:
        """Queue a request's pictures; `take` will have them all at once.

        Raises:
            InvalidRequestError: One is larger than any file we take.
            DecoderGoneError: The process has ended.
        """
        for picture in pictures:
            if len(picture.data) + SIDE_BYTES > decoder.MAX_REQUEST_BYTES:
                raise _unfit(picture, "is too large")
        self._waiting.append(_Album(job_id, deque(pictures)))
        self._advance()

    def cancel(self, job_id: int) -> None:
        """Forget a request's pictures; one being decoded goes on, and nobody will have it."""
        if self._is_asked and self._waiting and self._waiting[0].job_id == job_id:
            self._is_stale = True
        self._waiting = deque(album for album in self._waiting if album.job_id != job_id)

    def take(self) -> tuple[int, tuple[Picture, ...] | UserError] | None:
        """A request's pictures once all are decoded, or why there are none.

        Raises:
            DecoderGoneError: The process has ended.
        """
        if not select.select([self._answers], [], [], 0)[0]:
            return None
        answer = killable.receive(self._answers, decoder.MAX_ANSWER_BYTES)
        if answer is None or not self._is_asked:
            raise DecoderGoneError("the picture process has ended")
        self._is_asked = False
        done = None if self._is_stale else self._put(answer)
        self._is_stale = False
        self._advance()
        return done

    def close(self) -> None:
        """End the process: it ends when its channel does."""
        os.close(self._requests)
        os.close(self._answers)

    def _put(self, answer: bytes) -> tuple[int, tuple[Picture, ...] | UserError] | None:
        album = self._waiting[0]
        try:
            album.done.append(_picture(answer, album.left.popleft()))
        except UserError as error:
            self._waiting.popleft()
            return album.job_id, error.with_traceback(None)  # whose frames hold the request, and so it them
        if album.left:
            return None
        self._waiting.popleft()
        return album.job_id, tuple(album.done)

    def _advance(self) -> None:
        if self._is_asked or not self._waiting:
            return
        picture = self._waiting[0].left[0]
        side = LOW_SIDE if picture.is_low else MAX_SIDE
        try:
            killable.send(self._requests, side.to_bytes(SIDE_BYTES, "big") + picture.data)
        except OSError:
            raise DecoderGoneError("the picture process has ended") from None
        self._is_asked = True


class _Album:
    """The pictures of one request."""

    def __init__(self, job_id: int, left: deque[EncodedPicture]) -> None:
        self.job_id = job_id
        self.left = left
        self.done: list[Picture] = []


def _picture(answer: bytes, asked: EncodedPicture) -> Picture:
    match answer[0]:
        case Status.DONE:
            width, height = (int.from_bytes(answer[at : at + SIDE_BYTES], "big") for at in (1, 1 + SIDE_BYTES))
            rgb = answer[1 + 2 * SIDE_BYTES :]
            if width > 0 and height > 0 and len(rgb) == 3 * width * height:
                return Picture(width, height, rgb)
            raise _unfit(asked, "cannot be decoded")
        case Status.REFUSED:
            raise _unfit(asked, answer[1:].decode("ascii", "replace")[:100])
        case Status.TOO_SLOW:
            raise _unfit(asked, f"takes more than {decoder.DECODE_CPU_S:.0f} s to decode")
        case Status.TOO_LARGE:
            raise _unfit(asked, f"takes more than {decoder.MEMORY_BYTES // 2**20} MiB to decode")
        case _:
            raise _unfit(asked, "cannot be decoded")


def _unfit(picture: EncodedPicture, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"a picture {why}; send a PNG, JPEG, WebP or GIF file", param=picture.where)
