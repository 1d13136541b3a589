"""What a picture costs: decoding its file in a process of its own, and encoding it, for which all others wait.

    python -m tests.bench.pictures

The encoder is of random weights and of a usual shape (ViT-B: 12 layers of 768, patches of 14), on one thread. Larger
ones cost in proportion to their weights: SigLIP-So400m, which Gemma 3 has, is 4.6 times as large.
"""

from __future__ import annotations

import select
import tempfile
import time
from pathlib import Path

from mcd.engine import abi
from mcd.engine.decoding import Decoding, EncodedPicture, Picture
from mcd.engine.messages import EngineOptions
from mcd.engine.model import Context, Model
from mcd.engine.vision import Vision
from tests.bench.engine_tables import spread, table
from tests.fakes import gguf_mmproj
from tests.fakes.pictures import picture, pixels

SIDES = (224, 448)
N_ENCODED, N_DECODED = 5, 20
FILES = {"JPEG 640 x 480": (640, 480), "JPEG 4000 x 3000": (4000, 3000)}


def encoding(folder: Path, side: int) -> tuple[str, str, str]:
    """One row: patches, tokens, milliseconds."""
    encoder = gguf_mmproj.Encoder(768, 3072, 12, 12, side, 14)
    path = gguf_mmproj.make(folder, "llava", n_ctx=2048, encoder=encoder)
    model = Model(abi.load_library(), str(path))
    context = Context(model, EngineOptions(n_slots=1), 1, 1 << 28)
    vision = Vision(model, str(path.with_suffix(".mmproj.gguf")), "mlp", use_gpu=False, n_threads=1)
    took: list[float] = []
    for seed in range(N_ENCODED):
        _, pictures = vision.tokenize((Picture(side, side, pixels(seed, side, side).tobytes()),), add_special=False)
        began = time.thread_time()
        assert vision.compute(context, pictures.spans[0], 0, 0)
        took.append((time.thread_time() - began) * 1e3)
        n_tokens = pictures.n_tokens
        pictures.close()
        model.lib.llama_memory_clear(context.memory, True)
    vision.close()
    context.close()
    model.close()
    return f"{side} x {side}", str(n_tokens), spread(took)


def decoding(name: str, size: tuple[int, int]) -> tuple[str, str, str]:
    """One row: file, its kilobytes, milliseconds from file to pixels."""
    data = picture(1, *size, kind="JPEG")
    process = Decoding.start()
    took: list[float] = []
    for _ in range(N_DECODED):
        began = time.perf_counter()
        process.submit(1, (EncodedPicture(data, False, ""),))
        select.select([process.fileno()], [], [])
        process.take()
        took.append((time.perf_counter() - began) * 1e3)
    process.close()
    return name, str(len(data) // 1000), spread(took)


def main() -> None:
    """Print both tables."""
    rows = [decoding(name, size) for name, size in FILES.items()]
    table(("file", "kB", "decoding, ms"), rows)
    with tempfile.TemporaryDirectory() as folder:
        rows = [encoding(Path(folder), side) for side in SIDES]
    table(("picture", "tokens", "encoding, processor ms"), rows)


if __name__ == "__main__":
    main()
