"""The picture process: what hostile files do to it, and that nobody else notices."""

from __future__ import annotations

import io
import os
import random
import select
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import psutil
import pytest
from PIL import Image

from mcd.engine import decoder, killable
from mcd.engine.decoder import LOW_SIDE, MAX_PIXELS, MAX_SIDE
from mcd.engine.decoding import DecoderGoneError, Decoding, EncodedPicture, Picture
from mcd.errors import InvalidRequestError, UserError
from tests.fakes.pictures import picture, pixels

N_MUTANTS = 1000
MIB = 1024 * 1024


@pytest.fixture
def decoding() -> Iterator[Decoding]:
    started = Decoding.start()
    yield started
    started.close()


@pytest.fixture
def small_decoding() -> Iterator[Decoding]:
    """In a program as small as a worker: to fork a whole test run a thousand times takes half a minute."""
    requests, answers = os.pipe(), os.pipe()
    program = "import sys; from mcd.engine import decoder; decoder._keep(*map(int, sys.argv[1:]))"
    inner = (requests[0], answers[1])
    command = [sys.executable, "-c", program, *map(str, inner), str(killable._data_bytes())]
    with subprocess.Popen(command, pass_fds=inner):
        for end in inner:
            os.close(end)
        started = Decoding((requests[1], answers[0]))
        yield started
        started.close()


def decode(decoding: Decoding, *files: bytes, is_low: bool = False) -> tuple[Picture, ...]:
    """As a request has it."""
    decoding.submit(1, [EncodedPicture(data, is_low, f"messages[{i}].content") for i, data in enumerate(files)])
    taken = None
    while taken is None:
        assert select.select([decoding.fileno()], [], [], 120)[0]
        taken = decoding.take()
    assert taken[0] == 1
    if isinstance(taken[1], UserError):
        raise taken[1]
    return taken[1]


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(n_mib: int) -> bytes:
    """What zlib makes of so many MiB of zeros, one of them compressed and repeated."""
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    one = press.compress(bytes(MIB)) + press.flush(zlib.Z_FULL_FLUSH)
    adler32 = struct.pack(">HH", n_mib * MIB % 65_521, 1)
    return b"\x78\x9c" + one * n_mib + b"\x03\x00" + adler32


def huge_png(width: int, height: int, packed: bytes, extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_pixels_come_out_as_they_went_in(decoding: Decoding) -> None:
    shapes = [(1, 1), (40, 24), (33, 57), (640, 480)]
    files = [picture(i, *shape, kind=("PNG", "WEBP")[i % 2]) for i, shape in enumerate(shapes)]
    for (width, height), came, file in zip(shapes, decode(decoding, *files), files, strict=True):
        assert (came.width, came.height) == (width, height)
        assert came.rgb == Image.open(io.BytesIO(file)).convert("RGB").tobytes()
    assert decode(decoding, picture(1))[0].rgb == pixels(1).tobytes()


def test_every_mode_becomes_rgb(decoding: Decoding) -> None:
    base = Image.fromarray(pixels(5))
    clear = base.convert("RGBA")
    clear.putalpha(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "grey": saved(base.convert("L"), "PNG"), "palette": saved(base.convert("P"), "GIF"),
        "one bit": saved(base.convert("1"), "PNG"), "cmyk": saved(base.convert("CMYK"), "JPEG"),
        "sixteen bit": saved(Image.new("I;16", (40, 24), 65_535), "PNG"), "clear": saved(clear, "PNG"),
        "grey and clear": saved(clear.convert("LA"), "PNG"),
        "moving": saved(base, "GIF", save_all=True, append_images=[Image.new("RGB", base.size)] * 3),
        "turned": saved(base, "JPEG", exif=turned),
    }  # fmt: skip
    came = dict(zip(files, decode(decoding, *files.values()), strict=True))
    sizes = {name: (seen.width, seen.height) for name, seen in came.items()}
    assert sizes == {name: (24, 40) if name == "turned" else (40, 24) for name in files}
    for name in ("sixteen bit", "clear", "grey and clear"):
        assert came[name].rgb == b"\xff" * (3 * 40 * 24), name
    assert came["moving"].rgb != bytes(3 * 40 * 24)


def test_large_pictures_are_made_smaller(decoding: Decoding) -> None:
    wide, square, low = (
        decode(decoding, saved(Image.new("RGB", size, (9, 99, 199)), "JPEG"), is_low=is_low)[0]
        for size, is_low in (((4096, 512), False), ((3000, 3000), False), ((3000, 1500), True))
    )
    assert (wide.width, wide.height) == (MAX_SIDE, MAX_SIDE // 8)
    assert square.width == square.height
    assert 0.99 * MAX_PIXELS < square.width * square.height <= MAX_PIXELS
    assert (low.width, low.height) == (LOW_SIDE, LOW_SIDE // 2)


BOMBS = {
    "a claim of 4 billion pixels": huge_png(65_535, 65_535, zlib.compress(b"")),
    "a claim of 2 billion by 1": huge_png(2_000_000_000, 1, zlib.compress(b"")),
    "41 million pixels of nothing": huge_png(6_404, 6_404, zlib.compress(bytes(1000))),
    "three megabytes that unpack to 3 GB": huge_png(1000, 1000, zeros(3000)),
    "a comment that unpacks to 200 MB": huge_png(
        8, 8, zlib.compress(bytes(8 * 25)), chunk(b"zTXt", b"a\0\0" + zeros(200))
    ),
    "a line": picture(1, 600, 2),
    "no bytes of it": b"\xff\xd8\xff\xe0",
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a tiff": saved(Image.new("RGB", (9, 9)), "TIFF"),
    "a bmp": saved(Image.new("RGB", (9, 9)), "BMP"),
}


@pytest.mark.spec("ENV-45")
def test_each_bomb_costs_its_own_request_alone(decoding: Decoding) -> None:
    usual = decode(decoding, picture(1))
    errors: dict[str, InvalidRequestError] = {}
    for name, bomb in BOMBS.items():
        try:
            decode(decoding, picture(2), bomb)
        except InvalidRequestError as error:
            errors[name] = error
        assert decode(decoding, picture(1)) == usual, name
    assert len(errors) >= len(BOMBS) - 2  # libpng skips what it has no room for
    assert {error.param for error in errors.values()} == {"messages[1].content"}
    assert all(error.message.startswith("a picture ") for error in errors.values())


@pytest.mark.slow
@pytest.mark.spec("ENV-45")
def test_a_thousand_damaged_files_damage_nothing(small_decoding: Decoding) -> None:
    choose = random.Random(7)
    kinds = ("PNG", "JPEG", "WEBP", "GIF")
    wholes = [picture(i, 90, 70, kind=kind) for i, kind in enumerate(kinds)]
    n_decoded = 0
    for number in range(N_MUTANTS):
        data = bytearray(wholes[number % len(wholes)])
        for _ in range(choose.choice((1, 2, 8, 40))):
            data[choose.randrange(choose.choice((64, len(data))))] = choose.randrange(256)
        if choose.random() < 0.2:
            del data[choose.randrange(len(data)) :]
        try:
            (came,) = decode(small_decoding, bytes(data))
        except InvalidRequestError:
            continue
        n_decoded += 1
        assert came.width * came.height <= MAX_PIXELS
    assert 0 < n_decoded < N_MUTANTS
    assert decode(small_decoding, picture(1))[0].rgb == pixels(1).tobytes()


def test_time_is_limited_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "DECODE_CPU_S", 0.05)
    monkeypatch.setattr(decoder, "_pixels", lambda side, data: sum(range(10**10)))
    decoding = Decoding.start()
    with pytest.raises(InvalidRequestError, match="takes more than 0 s to decode"):
        decode(decoding, picture(1))
    decoding.close()


def test_each_picture_has_a_process_of_its_own_and_none_stays(decoding: Decoding) -> None:
    keeper = max(psutil.Process().children(), key=lambda child: child.create_time())
    decode(decoding, picture(1), picture(2))
    assert keeper.children() == []


def test_cancelled_requests_leave_no_answer_behind(decoding: Decoding) -> None:
    for cancelled in ((1,), (2,), (1, 2), (2, 1)):
        for job_id in (1, 2, 3):
            decoding.submit(job_id, [EncodedPicture(picture(job_id), False, ""), EncodedPicture(picture(9), False, "")])
        for job_id in cancelled:
            decoding.cancel(job_id)
        taken: dict[int, object] = {}
        while 3 not in taken:
            assert select.select([decoding.fileno()], [], [], 60)[0]
            done = decoding.take()
            if done is not None:
                taken[done[0]] = done[1]
        assert set(taken) == {1, 2, 3} - set(cancelled)
        for job_id, pictures in taken.items():
            assert isinstance(pictures, tuple)
            assert pictures[0].rgb == pixels(job_id).tobytes()


def test_a_keeper_that_ends_is_noticed(decoding: Decoding) -> None:
    keeper = max(psutil.Process().children(), key=lambda child: child.create_time())
    keeper.kill()
    keeper.wait(10)
    with pytest.raises(DecoderGoneError):
        decode(decoding, picture(1))
