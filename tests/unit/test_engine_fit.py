"""What of a model goes where: never more than there is, never less for more memory, and the right thing given up."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine import abi, fit, ggufcheck, gpu
from mcd.engine.catalogue import embedded_path
from mcd.engine.fit import FLOOR_CTX, GIB, MIB, Device, Found, Layer, Shape, Wish, fit_gpu, fit_host, label
from mcd.engine.gguf_facts import shape_of
from mcd.engine.layers import layers_of
from mcd.engine.messages import EngineOptions
from mcd.engine.model import Context, Model
from mcd.errors import ConfigError
from tests.fakes import gguf_arch, gguf_make

EIGHT_B = Shape(
    layers=(Layer(weight_bytes=136 * MIB, cell_bytes=4096),) * 32,
    input_bytes=280 * MIB,
    output_bytes=410 * MIB,
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


layers = st.builds(
    Layer,
    weight_bytes=st.integers(1, 2 * GIB),
    cell_bytes=st.integers(0, 64 * 1024),
    window=st.sampled_from([0, 0, 128, 4096]),
    state_bytes=st.sampled_from([0, 0, 4 * MIB]),
)
shapes = st.builds(
    Shape,
    layers=st.lists(layers, min_size=1, max_size=100).map(tuple),
    input_bytes=st.integers(1, 2 * GIB),
    output_bytes=st.integers(1, 2 * GIB),
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
    assert 1 <= found.n_gpu_layers <= len(shape.layers) + 1
    _check_context(found, shape, wish)
    if found.n_gpu_layers < shape.n_layers:  # a layer leaves only when the context is already short
        assert found.n_cells == min(wish.n_ctx or shape.n_ctx_train, FLOOR_CTX)


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
    wanted = wish.n_ctx or min(shape.n_ctx_train, fit.WANTED_CTX)
    assert 0 < found.n_ctx <= wanted
    assert found.n_ctx <= found.n_cells <= wanted * found.n_slots
    assert min(wish.n_slots, wish.least_slots) <= found.n_slots <= wish.n_slots
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
        assert _rank(after) >= _rank(before)
    alone, with_more = fit_host(shape, room, wish), fit_host(shape, room + more, wish)
    if alone is not None:
        assert with_more is not None
        assert _rank(with_more) >= _rank(alone)


def _rank(found: fit.Fit) -> tuple[int, ...]:
    return found.n_gpu_layers, found.n_ctx, found.n_slots, found.n_cells


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


def test_a_model_beside_others_gets_its_part_of_each_gpu() -> None:
    devices = (card(20), card(10, 12.0, "CUDA1"), card(0.5, 12.0, "CUDA2"))
    usable = [device.usable_bytes for device in devices]
    half = [device.usable_bytes for device in fit.capped(devices, sum(usable) // 2)]
    assert half == [pytest.approx(n_bytes / 2, abs=2) for n_bytes in usable]
    assert fit.capped(devices, sum(usable)) == devices


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


WINDOWED = Shape(
    layers=(
        *(Layer(weight_bytes=70 * MIB, cell_bytes=4096, window=1024),) * 5,
        Layer(weight_bytes=70 * MIB, cell_bytes=4096),
    )
    * 5,
    input_bytes=700 * MIB,
    output_bytes=700 * MIB,
    n_embd=2560,
    n_ff=10_240,
    n_vocab=262_144,
    n_ctx_train=131_072,
)
"""Nearly Gemma 3 4B: five layers with a window, then one that keeps every token."""


def test_a_window_costs_its_own_length_and_not_the_context() -> None:
    whole = msgspec.structs.replace(WINDOWED, layers=(Layer(weight_bytes=70 * MIB, cell_bytes=4096),) * 30)
    room = 8 * GIB
    found, as_if_whole = fit_host(WINDOWED, room, Wish(n_slots=4)), fit_host(whole, room, Wish(n_slots=4))
    assert found is not None
    assert as_if_whole is not None
    assert found.n_ctx == 32_768 > as_if_whole.n_ctx
    more = WINDOWED.kv_bytes(64 * 1024, 4) - WINDOWED.kv_bytes(32 * 1024, 4)
    assert more == 5 * 4096 * 32 * 1024


def test_slots_go_before_the_context_where_each_has_a_window_or_a_state() -> None:
    found = {room: fit_host(WINDOWED, int(room * GIB), Wish(n_ctx=8192)) for room in (5, 5.5, 8)}
    assert [fit and (fit.n_ctx, fit.n_slots) for fit in found.values()] == [(8192, 2), (8192, 4), (8192, 8)]
    kept = fit_host(WINDOWED, 5 * GIB, Wish(n_ctx=8192, least_slots=8))
    assert kept is not None
    assert (kept.n_ctx < 8192, kept.n_slots) == (True, 8)
    dense = fit_host(EIGHT_B, 7 * GIB, Wish())
    assert dense is not None
    assert (dense.n_ctx < 32_768, dense.n_slots) == (True, 8)


def test_checkpoints_are_counted_where_there_will_be_some() -> None:
    assert EIGHT_B.checkpoint_bytes(32_768, 8) == 0
    assert WINDOWED.checkpoint_bytes(32_768, 8) == WINDOWED.kv_bytes(32_768, 8) // 4
    one = 25 * 4096 * 512
    assert WINDOWED.checkpoint_bytes(512, 1) == 2 * one > WINDOWED.kv_bytes(512, 1) // 4
    for found in (fit_host(WINDOWED, 16 * GIB, Wish()), fit_gpu(WINDOWED, [card(20)], 16 * GIB, Wish())):
        assert found is not None
        assert found.checkpoint_bytes > 0
        without = msgspec.structs.replace(WINDOWED, layers=(Layer(weight_bytes=70 * MIB),) * 30)
        other = fit_gpu(without, [card(20)], 16 * GIB, Wish()) if found.device_bytes else None
        if other is not None:  # nothing but checkpoints differs in the machine's memory
            assert found.host_bytes - other.host_bytes == found.checkpoint_bytes


def header(architecture: str, **values: ggufcheck.Value) -> ggufcheck.Header:
    prefixed: dict[str, ggufcheck.Value] = {f"{architecture}.{key.replace('__', '.')}": v for key, v in values.items()}
    return ggufcheck.Header({"general.architecture": architecture} | prefixed, 1, 0, 0)


HEADS = {"attention__head_count": 8, "attention__head_count_kv": 4, "attention__key_length": 256}
CELL = 2 * 2 * 4 * 256 // 2 + 2 * 4 * 64
"""Keys of 256, values of an eighth of the width."""


@pytest.mark.parametrize(
    ("architecture", "values", "kept"),
    [
        ("llama", {"attention__sliding_window": 512}, [0, 0, 0, 0]),
        ("gemma3", {"attention__sliding_window": 512}, [512] * 4),
        ("gemma3", {"attention__sliding_window": 512, "attention__sliding_window_pattern": 2}, [512, 0, 512, 0]),
        ("gemma3", {}, [0, 0, 0, 0]),
        ("gemma2", {}, [4096, 0, 4096, 0]),
        ("gpt-oss", {"attention__sliding_window": 128}, [128, 0, 128, 0]),
        ("cohere2moe", {"attention__sliding_window": 128}, [0, 128, 128, 128]),
        ("llama4", {}, [8192, 8192, 8192, 0]),
        ("llama4", {"attention__sliding_window": 0}, [0, 0, 0, 0]),
        ("exaone4", {"attention__sliding_window": 4096}, [0, 0, 0, 0]),
        (
            "mimo2",
            {"attention__sliding_window": 128, "attention__sliding_window_pattern": [0, 1, 1, 0]},
            [0, 128, 128, 0],
        ),
        ("mimo2", {"attention__sliding_window": 128, "attention__sliding_window_pattern": [1, 1]}, [0, 0, 0, 0]),
    ],
)
def test_windows_as_headers_tell_of_them(architecture: str, values: dict[str, object], kept: list[int]) -> None:
    layers = layers_of(header(architecture, embedding_length=512, **HEADS, **values), (1, 2, 3, 4))  # type: ignore[arg-type]
    assert [layer.window for layer in layers] == kept
    assert [layer.weight_bytes for layer in layers] == [1, 2, 3, 4]
    assert {layer.cell_bytes for layer in layers} == {CELL}


@pytest.mark.parametrize(
    ("architecture", "values", "cells", "states"),
    [
        ("mamba", {"ssm__conv_kernel": 4, "ssm__inner_size": 64, "ssm__state_size": 16}, "....", "++++"),
        ("rwkv7", {"wkv__head_size": 64}, "....", "++++"),
        ("lfm2", {"attention__head_count_kv": [0, 4, 0, 4], "shortconv__l_cache": 3}, ".+.+", "+.+."),
        (
            "granitehybrid",
            {"attention__head_count_kv": [0, 0, 0, 4], "ssm__state_size": 16, "ssm__inner_size": 64},
            "...+",
            "+++.",
        ),
        ("qwen3next", {"ssm__state_size": 16, "ssm__inner_size": 64}, "...+", "+++."),
        ("qwen35", {"ssm__state_size": 16, "ssm__inner_size": 64, "full_attention_interval": 2}, ".+.+", "+.+."),
        ("falcon-h1", {"ssm__state_size": 16, "ssm__inner_size": 64}, "++++", "++++"),
        (
            "nemotron_h",
            {
                "attention__head_count_kv": [0, 0, 4, 0],
                "feed_forward_length": [0, 99, 0, 99],
                "ssm__state_size": 16,
                "ssm__inner_size": 64,
            },
            "..+.",
            "+...",
        ),
        ("gemma4", {"attention__shared_kv_layers": 1}, "+++.", "...."),
    ],
)  # fmt: skip
def test_states_as_headers_tell_of_them(architecture: str, values: dict[str, object], cells: str, states: str) -> None:
    layers = layers_of(header(architecture, embedding_length=512, **HEADS | values), (1,) * 4)  # type: ignore[arg-type]
    assert "".join(".+"[layer.cell_bytes > 0] for layer in layers) == cells
    assert "".join(".+"[layer.state_bytes > 0] for layer in layers) == states


def test_memory_of_models_people_run() -> None:
    """By hand from their cards: 2 bytes a number, keys and values."""
    gpt_oss = header(
        "gpt-oss", embedding_length=2880, attention__head_count=64, attention__head_count_kv=8,
        attention__key_length=64, attention__value_length=64, attention__sliding_window=128,
    )  # fmt: skip
    assert sum(layer.kv_bytes(131_072 - 768, 7) for layer in layers_of(gpt_oss, (1,) * 24)) == (
        12 * 2048 * 131_072 + 12 * 2048 * (128 * 8 + 512)
    )
    deepseek = header(
        "deepseek2", embedding_length=2048, attention__head_count=16, attention__head_count_kv=1,
        attention__key_length=576, attention__value_length=512, attention__key_length_mla=192,
    )  # fmt: skip
    assert [layer.cell_bytes for layer in layers_of(deepseek, (1, 1))] == [2 * 576] * 2
    qwen = header(
        "qwen3next", embedding_length=2048, attention__head_count=16, attention__head_count_kv=2,
        attention__key_length=256, attention__value_length=256, ssm__conv_kernel=4, ssm__inner_size=4096,
        ssm__state_size=128, ssm__group_count=16, ssm__time_step_rank=32,
    )  # fmt: skip
    first, *_, last = layers_of(qwen, (1,) * 48)
    assert first.state_bytes == 4 * (128 * 4096 + 3 * (4096 + 2 * 16 * 128))
    assert last.cell_bytes == 2 * 2 * 2 * 256


class _Log:
    """llama.cpp's own figures: the sizes it says it allocates."""

    def __init__(self, lib: Any) -> None:
        self.sizes: defaultdict[str, float] = defaultdict(float)
        self.callback = lib.llama_log_callback(self._hear)

    def _hear(self, level: int, text: bytes | None, data: object) -> None:
        words = (text or b"").decode("utf-8", "replace")
        for kind in ("KV", "RS", "compute", "output"):
            if f"{kind} buffer size =" in words:
                self.sizes[kind] += float(words.rpartition("=")[2].replace("MiB", "")) * MIB


@pytest.mark.parametrize("which", ["nano", "tiny", *gguf_arch.KINDS])
def test_the_sums_are_what_llama_cpp_allocates(which: str, tmp_path: Path) -> None:
    """KV memory to what it prints, a hundredth of a MiB a buffer; compute memory from above, at most threefold."""
    path = tmp_path / "tiny.gguf"
    match which:
        case "nano":
            path = embedded_path()
        case "tiny":
            gguf_make.make(path)
        case kind:
            gguf_arch.make(path, kind)
    shape = shape_of(ggufcheck.check_file(str(path)))
    assert shape.weight_bytes == pytest.approx(path.stat().st_size, rel=0.2)
    lib = abi.load_library()
    heard = _Log(lib)
    lib.llama_log_set(heard.callback, ctypes.c_void_p(0))
    try:
        model = Model(lib, str(path))
        for n_cells, n_slots in ((512, 8), (2048, 3), (8192, 16)):
            heard.sizes.clear()
            options = EngineOptions(n_ctx=512, n_cells=n_cells, n_slots=n_slots)
            context = Context(model, options, n_threads=1, kv_budget_bytes=GIB)
            kept = heard.sizes["KV"] + heard.sizes["RS"]
            assert kept == pytest.approx(shape.kv_bytes(n_cells, n_slots), abs=0.02 * MIB)
            computed = heard.sizes["compute"] + heard.sizes["output"]
            assert computed <= shape.compute_bytes(n_cells, n_slots) <= 3 * computed
            context.close()
        model.close()
    finally:
        lib.llama_log_set(abi._kept[0], ctypes.c_void_p(0))
