"""The header check: real files pass, whatever else comes is refused with words and without much memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from mcd.engine import ggufcheck
from mcd.engine.catalogue import embedded_path
from mcd.engine.gguf_facts import projector_bytes, projector_kind, shape_of, with_projector
from mcd.errors import ModelFileError
from tests.fakes import gguf_make, gguf_mmproj


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_make.make(tmp_path_factory.mktemp("models") / "good.gguf")


def test_real_files_pass(good: Path) -> None:
    header = ggufcheck.check_file(str(good))
    assert header.text("general.architecture") == "llama"
    assert header.number("llama.block_count") == gguf_make.N_LAYER
    assert ggufcheck.read_name(str(embedded_path())) == "modelcloud-nano"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="cannot read"):
            ggufcheck.check_file(str(path))


def fault(path: Path) -> str:
    try:
        ggufcheck.check_file(str(path))
    except ModelFileError as error:
        return error.message
    return ""


def test_mutated_headers_never_surprise(good: Path, tmp_path: Path) -> None:
    """400 mutants: each passes or is refused by a ModelFileError that names the file and fits one line."""
    data = good.read_bytes()
    n_header = ggufcheck.check_file(str(good)).data_at
    choose = random.Random(5)
    path = tmp_path / "mutant.gguf"
    refused = 0
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(choose.randint(1, 8)):
            at = choose.randrange(n_header)
            size = choose.choice([1, 1, 4, 8])
            mutant[at : at + size] = choose.choice([b"\xff" * size, bytes(size), choose.randbytes(size)])
        if choose.random() < 0.2:
            del mutant[choose.randrange(n_header) :]
        path.write_bytes(mutant)
        said = fault(path)
        assert said == "" or said.startswith("mutant.gguf is not a usable GGUF file: ")
        assert said.isprintable()
        refused += bool(said)
    assert refused > 100


def test_announced_lengths_are_not_allocated(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    at = data.index(b"general.name") + 12 + 4
    data[at : at + 8] = (2**40).to_bytes(8, "little")
    path = tmp_path / "long.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="at most"):
        ggufcheck.check_file(str(path))
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("general.type", "adapter", "part of a model"),
        ("split.count", 3, "split model"),
        ("general.alignment", 24, "alignment"),
    ],
)
def test_files_that_are_no_whole_model(tmp_path: Path, key: str, value: object, says: str) -> None:
    path = gguf_make.make(tmp_path / "part.gguf", metadata={key: value})
    with pytest.raises(ModelFileError, match=says):
        ggufcheck.check_file(str(path))


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_mmproj.make_projector(tmp_path_factory.mktemp("models") / "good.mmproj.gguf", "gemma3")


def test_a_projector_is_known_and_no_model(projector: Path, good: Path) -> None:
    header = ggufcheck.check_projector(str(projector))
    assert projector_kind(header) == "gemma3"
    assert projector_bytes(header) > projector.stat().st_size
    shape = shape_of(ggufcheck.check_file(str(good)))
    assert with_projector(shape, 1000).weight_bytes == shape.weight_bytes + 1000
    assert "not a model" in fault(projector)
    with pytest.raises(ModelFileError, match="it is no projector"):
        ggufcheck.check_projector(str(good))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("clip.has_vision_encoder", False, "projectors for sound"), ("clip.has_vision_encoder", None, "pictures"),
        ("clip.vision.patch_size", 0, "patch_size must be 1"),
        ("clip.vision.image_size", None, "image_size is missing"),
        ("clip.vision.image_size", 99_999, "image_size must be"), ("clip.vision.patch_size", 64, "number of patches"),
        ("clip.vision.image_size", 16_384, "number of patches"), ("clip.vision.attention.head_count", 5, "no multiple"),
        ("clip.vision.block_count", 0, "block_count must be"),
        ("clip.vision.block_count", 10**6, "block_count must be"),
        ("clip.vision.projector.scale_factor", 0, "scale_factor must be 1"),
        ("clip.vision.attention.layer_norm_epsilon", float("nan"), "not a finite number"),
    ],
)  # fmt: skip
def test_a_projector_with_an_impossible_value_is_refused(tmp_path: Path, key: str, value: object, words: str) -> None:
    path = gguf_mmproj.make_projector(tmp_path / "bad.mmproj.gguf", "gemma3", metadata={key: value})
    with pytest.raises(ModelFileError, match=words):
        ggufcheck.check_projector(str(path))


def test_mutated_projectors_never_surprise(projector: Path, tmp_path: Path) -> None:
    data, n_header = projector.read_bytes(), ggufcheck.check_projector(str(projector)).data_at
    choose = random.Random(6)
    path = tmp_path / "mutant.mmproj.gguf"
    refused = 0
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(choose.randint(1, 8)):
            at = choose.randrange(n_header)
            mutant[at : at + 4] = choose.choice([b"\xff" * 4, bytes(4), choose.randbytes(4)])
        path.write_bytes(mutant)
        try:
            ggufcheck.check_projector(str(path))
        except ModelFileError as error:
            refused += error.message.startswith("mutant.mmproj.gguf is not a usable GGUF file: ")
    assert 200 < refused < 400
