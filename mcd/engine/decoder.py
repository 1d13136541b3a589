"""Where pictures are decoded: a process of its own for each, and killed after it (`killable`).

A picture is the most hostile input there is: file formats of forty years, read by libraries in C. Whatever one does to
its process, it meets nobody else's picture there and no prompt. It may cost DECODE_CPU_S of processor time and
MEMORY_BYTES; its size is looked at before its pixels are.

A request is the longest side wanted (2 bytes) and the file; an answer a status byte, width and height (2 bytes each)
and the pixels, RGB.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcd.engine import killable
from mcd.engine.killable import Child, Status, framed, receive, send

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_SIDE = 2048
"""A larger picture is made smaller; no projector looks at more in one tile, and few look at as much."""
LOW_SIDE = 512
"""The same for ``detail: low``."""
MAX_PIXELS = 2 * 1024 * 1024
"""Of what is handed on: 6 MiB."""
MAX_SOURCE_PIXELS = 100_000_000
"""Of the file; the largest cameras of telephones reach 200 million, a JPEG of which is decoded at a quarter."""
MAX_LOSSLESS_PIXELS = 40_000_000
"""Of a file that can only be decoded whole: with its transparency it takes 160 MB, thrice."""
MAX_RATIO = 50
"""Between the sides; beyond it a picture made smaller has no second side."""
DECODE_CPU_S = 5.0
DECODE_WALL_S = 30.0
MEMORY_BYTES = 768 * 1024 * 1024
MAX_REQUEST_BYTES = 8 * 1024 * 1024 + 2
MAX_ANSWER_BYTES = 5 + 3 * MAX_PIXELS
SIDE_BYTES = 2


class _UnfitError(Exception):
    """The picture is not one we take; says why, of our own words."""


def start() -> tuple[int, int]:
    """Fork the process; see `killable.start`."""
    return killable.start(b"mcd-pictures", _keep)


def _keep(requests: int, answers: int, size_bytes: int) -> None:
    from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401

    Image.preinit()  # the other formats; otherwise each child would
    killable.freeze()
    keeper, ceiling = os.getpid(), size_bytes and size_bytes + MEMORY_BYTES
    while _serve_one(requests, answers, ceiling, keeper):
        pass


def _serve_one(requests: int, answers: int, ceiling: int, keeper: int) -> bool:
    """Answer one request and forget it; False when the worker has gone."""
    request = receive(requests, MAX_REQUEST_BYTES)
    if request is None:
        return False
    child = Child(lambda inward, outward: _work(inward, outward, ceiling, keeper), MAX_ANSWER_BYTES)
    answer = child.exchange(framed(request), DECODE_WALL_S)
    end = child.bury()  # also one that answered: it has seen a stranger's bytes
    send(answers, answer if answer is not None else bytes([end]))
    return True


def _work(requests: int, answers: int, ceiling: int, keeper: int) -> None:
    killable.limit_child(keeper, b"mcd-picture", ceiling)
    request = receive(requests, MAX_REQUEST_BYTES)
    if request is not None:
        with killable.processor_time(DECODE_CPU_S):
            send(answers, _decode(int.from_bytes(request[:SIDE_BYTES], "big"), request[SIDE_BYTES:]))


def _decode(max_side: int, data: bytes) -> bytes:
    try:
        image = _pixels(max_side, data)
    except _UnfitError as error:
        return bytes([Status.REFUSED]) + str(error).encode()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise a dozen types about bytes made to confuse them; all mean this
        return bytes([Status.REFUSED]) + b"is damaged, or no PNG, JPEG, WebP or GIF"
    return bytes([Status.DONE]) + b"".join(side.to_bytes(SIDE_BYTES, "big") for side in image.size) + image.tobytes()


def _pixels(max_side: int, data: bytes) -> Image:
    import io

    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # ours come first, and are errors instead of warnings
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    limit = MAX_SOURCE_PIXELS * 2 if image.format == "JPEG" else MAX_LOSSLESS_PIXELS
    if width * height > limit:
        raise _UnfitError(f"has more than {limit // 1_000_000} million pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _UnfitError(f"is more than {MAX_RATIO} times as long as wide")
    image.draft("RGB", (max_side, max_side))
    image = _opaque(ImageOps.exif_transpose(image))
    image.thumbnail(_fitting(image.size, max_side), Image.Resampling.BICUBIC)
    return image


def _opaque(image: Image) -> Image:
    """As RGB; what is transparent shows white, as on a page."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, (255, 255, 255))
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _fitting(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The largest size of the same shape within both limits."""
    width, height = size
    scale = min(1.0, max_side / max(size), (MAX_PIXELS / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))
