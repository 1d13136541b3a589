"""What a picture leaves in the memory of the inference process: nothing, in any form it had there."""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio

from mcd.engine import supervise, tidy
from mcd.engine.catalogue import EngineSpec
from mcd.ports import EngineStarted
from tests.e2e.memory import engine_pids, search
from tests.fakes import gguf_mmproj
from tests.fakes.engine_entry import Answer, EntrySide, running
from tests.fakes.pictures import picture, pixels, seeing
from tests.integration.test_engine_residue import READABLE

SIDE = gguf_mmproj.IMAGE_SIDE
"""Of the picture: what the tiny projectors look at, so that no pixel changes on the way."""
ROW = 11
LATEST_S = tidy.WIPE_PICTURES_AFTER_S + 20


@pytest.fixture(params=["llava", "gemma3"])
def spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    (tmp_path / "sitecustomize.py").write_text(READABLE)
    environment: Callable[[], dict[str, str]] = supervise._environment
    monkeypatch.setattr(
        supervise,
        "_environment",
        lambda: (given := environment()) | {"PYTHONPATH": f"{tmp_path}:{given['PYTHONPATH']}"},
    )
    path = gguf_mmproj.make(tmp_path, request.param, seed=3)
    projector = str(path.with_suffix(".mmproj.gguf"))
    return EngineSpec(alias="tiny", backend="llama", source=str(path), projector=projector)


def forms(seed: int) -> dict[str, bytes]:
    """A row of the picture in every form, and the file it came in."""
    file, row = picture(seed, SIDE, SIDE), pixels(seed, SIDE, SIDE)[ROW]
    floats = row.astype(np.float32) / np.float32(255.0)
    return {
        "file": file[200:240],
        "base64": base64.b64encode(file)[300:340],
        "pixels": row.tobytes()[:48],
        "numbers": floats.tobytes()[:96],
        "numbers of one colour": np.ascontiguousarray(floats[:, 0]).tobytes()[:96],
    }


async def found(side: EntrySide, needles: dict[str, bytes]) -> set[str]:
    assert side.engine.pid is not None
    return set().union(*(search(pid, needles) for pid in engine_pids(side.engine.pid)))


@pytest.mark.slow
async def test_nothing_of_a_picture_is_left(spec: EngineSpec) -> None:
    async with running(spec) as side:
        for salt in ("", "a salt"):
            seed = secrets.randbits(60)
            print("the picture's seed:", seed)
            needles = forms(seed)
            answer, seen = Answer(), set[str]()
            request, opener = side.seal(seeing("see ", picture(seed, SIDE, SIDE), " now", max_tokens=30), salt=salt)
            assert side.engine.pid is not None
            async with side.engine.submit(request) as events:
                async for event in events:
                    side.take(answer, opener, event)
                    if isinstance(event, EngineStarted):
                        os.kill(side.engine.pid, signal.SIGSTOP)
                        seen = search(side.engine.pid, needles)
                        os.kill(side.engine.pid, signal.SIGCONT)
            assert answer.final is not None
            assert {"numbers", "numbers of one colour"} & seen, "the positive control failed"
            with trio.fail_after(LATEST_S):
                while await found(side, needles):  # noqa: ASYNC110
                    await trio.sleep(1.0)
