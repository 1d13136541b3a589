"""What of a model goes where: never more than there is, never less for more memory, and the right thing given up."""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine import abi, fit, ggufcheck, gpu
from mcd.engine.catalogue import embedded_path
from mcd.engine.fit import FLOOR_CTX, GIB, MIB, Device, Found, Shape, Wish, fit_gpu, fit_host, label
from mcd.engine.gguf_facts import shape_of
from mcd.errors import ConfigError
from tests.fakes import gguf_make

EIGHT_B = Shape(
    layer_bytes=(136 * MIB,) * 32,
    input_bytes=280 * MIB,
    output_bytes=410 * MIB,
    kv_layer_bytes=4096,
    n_embd=4096,
    n_ff=14_336,
    n_vocab=128_256,
    n_ctx_train=131_072,
)
"""Llama 3.1 8B at Q4_K_M: 4.9 GB, 128 KiB of KV memory a token."""


def card(free_gb: float, total_gb: float = 24.0, name: str = "CUDA0", description: str = "NVIDIA GeForce RTX 4090"):
    return Device(
        name=name,
        description=description,
        kind="gpu",
        free_bytes=int(free_gb * GIB),
        total_bytes=int(total_gb * GIB),
    )


shapes = st.builds(
    Shape,
    layer_bytes=st.lists(st.integers(1, 2 * GIB), min_size=1, max_size=100).map(tuple),
    input_bytes=st.integers(1, 2 * GIB),
    output_bytes=st.integers(1, 2 * GIB),
    kv_layer_bytes=st.integers(0, 64 * 1024),
    n_embd=st.integers(32, 16_384),
    n_ff=st.integers(0, 65_536),
    n_vocab=st.integers(2, 262_144),
    n_ctx_train=st.integers(1, 1_048_576),
)
cards = st.builds(card, st.floats(0, 80), st.floats(1, 80))
rooms = st.integers(0, 256 * GIB)
wishes = st.builds(
    Wish,
    n_ctx=st.sampled_from([0, 0, 4096, 100_000]),
    n_slots=st.integers(1, 64),
    max_kv_bytes=st.integers(0, 64 * GIB),
)


@settings(max_examples=200, deadline=None)
@given(shapes, st.lists(cards, min_size=1, max_size=4), rooms, wishes)
def test_gpus_never_get_more_than_they_have(shape: Shape, devices: list[Device], room: int, wish: Wish) -> None:
    found = fit_gpu(shape, devices, room, wish)
    if found is None:
        return
    for device, taken in zip(devices, found.device_bytes, strict=True):
        assert taken <= device.usable_bytes < max(1, device.free_bytes)
    assert found.host_bytes <= room
    assert sum(found.split) == found.n_gpu_layers
    assert 1 <= found.n_gpu_layers <= len(shape.layer_bytes) + 1
    _check_context(found, shape, wish)
    if found.n_gpu_layers < shape.n_layers:  # a layer leaves only when the context is already short
        assert found.n_cells == min(wish.n_ctx or max(fit.MIN_CTX, min(shape.n_ctx_train, fit.WANTED_CTX)), FLOOR_CTX)


@settings(max_examples=200, deadline=None)
@given(shapes, rooms, wishes)
def test_the_machine_never_gives_more_than_it_has(shape: Shape, room: int, wish: Wish) -> None:
    found = fit_host(shape, room, wish)
    if found is None:
        assert fit_host(shape, 1 << 60, wish) is not None
        return
    assert found.n_bytes == found.host_bytes <= room
    _check_context(found, shape, wish)


def _check_context(found: fit.Fit, shape: Shape, wish: Wish) -> None:
    wanted = wish.n_ctx or max(fit.MIN_CTX, min(shape.n_ctx_train, fit.WANTED_CTX))
    assert 0 < found.n_ctx <= wanted
    assert found.n_ctx <= found.n_cells <= wanted * wish.n_slots
    assert found.why.isprintable()


@settings(max_examples=200, deadline=None)
@given(shapes, st.lists(cards, min_size=1, max_size=3), rooms, wishes, st.integers(0, 3 * GIB))
def test_more_memory_never_makes_it_worse(
    shape: Shape, devices: list[Device], room: int, wish: Wish, more: int
) -> None:
    richer = [msgspec.structs.replace(device, free_bytes=device.free_bytes + more) for device in devices]
    before, after = fit_gpu(shape, devices, room, wish), fit_gpu(shape, richer, room + more, wish)
    if before is not None:
        assert after is not None
        assert (after.n_gpu_layers, after.n_cells) >= (before.n_gpu_layers, before.n_cells)
    alone, with_more = fit_host(shape, room, wish), fit_host(shape, room + more, wish)
    if alone is not None:
        assert with_more is not None
        assert with_more.n_cells >= alone.n_cells


@pytest.mark.parametrize(
    ("free_gb", "n_layers", "n_ctx", "says"),
    [
        (23.0, 33, 32_768, "all 33 layers, context 32768, room for"),
        (9.0, 33, 24_064, "all 33 layers, context"),
        (5.0, 18, 8_192, "of 33 layers, context 8192 instead of 32768"),
    ],
)
def test_cells_go_first_then_context_then_layers(free_gb: float, n_layers: int, n_ctx: int, says: str) -> None:
    found = fit_gpu(EIGHT_B, [card(free_gb)], 64 * GIB, Wish())
    assert found is not None
    assert found.n_gpu_layers == pytest.approx(n_layers, abs=4)
    assert found.n_ctx == pytest.approx(n_ctx, rel=0.05)
    assert says in found.why
    assert ("on the processor" in found.why) == (found.n_gpu_layers < 33)


def test_two_gpus_are_filled_in_order() -> None:
    found = fit_gpu(EIGHT_B, [card(5, 8), card(5, 8, "CUDA1", "NVIDIA GeForce GTX 1080")], 64 * GIB, Wish())
    assert found is not None
    assert found.n_gpu_layers == 33
    assert found.split[0] > 0 < found.split[1]
    assert "RTX 4090 8G, GTX 1080 8G" in found.why


def test_nothing_is_offered_where_nothing_fits() -> None:
    assert fit_gpu(EIGHT_B, [card(1.0)], 64 * GIB, Wish()) is None
    assert fit_gpu(EIGHT_B, [card(5.0)], GIB, Wish()) is None
    assert fit_host(EIGHT_B, 4 * GIB, Wish()) is None


def test_what_failed_is_tried_smaller() -> None:
    once = fit.shrunk([card(9.0)], 1)
    first, second = fit_gpu(EIGHT_B, [card(9.0)], 64 * GIB, Wish()), fit_gpu(EIGHT_B, once, 64 * GIB, Wish())
    assert first is not None
    assert second is not None
    assert sum(second.device_bytes) < 0.75 * sum(first.device_bytes)


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24G"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3 24G"),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "RX 7900 XTX 24G"),
        ("Apple M3 Max", "M3 Max 24G"),
        ("Intel(R) Graphics", "CUDA0 24G"),
        ("\u202eevil\n<b>", "evil b 24G"),
    ],
)
def test_labels_fit_a_record(description: str, shown: str) -> None:
    said = label(card(1, description=description))
    assert said == shown
    assert len(said) <= 32


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        (b"", "crashed"),
        (b'{"problem":"LIBRARY_MISSING"}', "not installed"),
        (b'{"problem":"LIBRARY_MISMATCH"}', "make setup-serve"),
        (b'{"problem":"COMPUTE"}', "cannot be used"),
        (b'{"backends":["CPU"]}', "CMAKE_ARGS"),
        (b'{"backends":["CUDA","CPU"]}', "nvidia-smi"),
    ],
)
def test_why_there_is_no_gpu_names_the_remedy(printed: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as problem:
        gpu.judge(printed)
    assert "--cpu" in problem.value.message or "make setup" in problem.value.message


def test_gpus_survive_the_way_from_the_child() -> None:
    devices = (card(20.0), card(3.0, 8.0, "Vulkan0", "AMD Radeon Graphics"))
    assert gpu.judge(msgspec.json.encode(Found(gpus=devices, backends=("CUDA", "CPU")))) == devices


class _Log:
    """llama.cpp's own figures: the sizes it says it allocates."""

    def __init__(self, lib) -> None:
        self.lib = lib
        self.sizes: dict[str, float] = {}
        self.callback = lib.llama_log_callback(self._hear)

    def _hear(self, level, text, data) -> None:
        words = (text or b"").decode("utf-8", "replace")
        for kind in ("KV", "compute", "output"):
            if f"{kind} buffer size =" in words:
                self.sizes[kind] = float(words.rpartition("=")[2].replace("MiB", "")) * MIB


@pytest.mark.parametrize("which", ["nano", "tiny"])
def test_the_sums_are_upper_bounds_of_what_llama_cpp_allocates(which: str, tmp_path: Path) -> None:
    path = embedded_path() if which == "nano" else gguf_make.make(tmp_path / "tiny.gguf")
    shape = shape_of(ggufcheck.check_file(str(path)))
    assert shape.weight_bytes == pytest.approx(path.stat().st_size, rel=0.2)
    lib = abi.load_library()
    heard = _Log(lib)
    lib.llama_log_set(heard.callback, ctypes.c_void_p(0))
    try:
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        for n_cells in (512, 8192):
            params = lib.llama_context_default_params()
            params.n_ctx, params.n_seq_max, params.kv_unified, params.n_threads = n_cells, 8, True, 1
            context = lib.llama_init_from_model(model, params)
            lib.llama_free(context)
            assert heard.sizes["KV"] == pytest.approx(shape.kv_bytes * n_cells, abs=0.01 * MIB)
            computed = heard.sizes["compute"] + heard.sizes["output"]
            assert computed <= shape.compute_bytes(n_cells) <= 4 * computed
        lib.llama_model_free(model)
    finally:
        lib.llama_log_set(abi._kept[0], ctypes.c_void_p(0))
