"""Bad model files: the daemon's process lives, the operator reads what is wrong, nothing is announced."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mcd.engine import abi
from mcd.engine.catalogue import EngineSpec
from mcd.engine.devices import find
from mcd.engine.fit import Found
from mcd.engine.gpu import gpus
from mcd.engine.messages import EngineOptions
from mcd.errors import ConfigError, EngineDeadError, RefusedError
from mcd.ports import EngineRequest
from tests.fakes import gguf_make
from tests.fakes.engine_entry import EntrySide, chat, running


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return gguf_make.make(tmp_path_factory.mktemp("models") / "good.gguf").read_bytes()


def after(data: bytes, key: str, offset: int, value: bytes) -> bytes:
    """Overwrite bytes behind a metadata key or tensor name."""
    at = data.index(key.encode()) + len(key) + offset
    return data[:at] + value + data[at + len(value) :]


U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
NAN = struct.pack("<f", float("nan"))

# Behind a metadata key: type u32, value. Behind a tensor name: n_dims u32, dims u64 each, type u32, offset u64.
CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "four bytes": lambda d: d[:4],
    "no magic": lambda d: b"GGML" + d[4:],
    "version 1": lambda d: d[:4] + U32(1) + d[8:],
    "version 99": lambda d: d[:4] + U32(99) + d[8:],
    "other byte order": lambda d: d[:4] + bytes(3) + b"\x03" + d[8:],
    "no tensors": lambda d: d[:8] + U64(0) + d[16:],
    "too many tensors": lambda d: d[:8] + U64(2**60) + d[16:],
    "one tensor more": lambda d: d[:8] + U64(struct.unpack("<Q", d[8:16])[0] + 1) + d[16:],
    "too many metadata": lambda d: d[:16] + U64(2**60) + d[24:],
    "metadata one more": lambda d: d[:16] + U64(struct.unpack("<Q", d[16:24])[0] + 1) + d[24:],
    "huge key": lambda d: d[:24] + U64(2**62) + d[32:],
    "empty key": lambda d: d[:24] + U64(0) + d[32:],
    "unknown value type": lambda d: after(d, "llama.block_count", 0, U32(77)),
    "no blocks": lambda d: after(d, "llama.block_count", 4, U32(0)),
    "too many blocks": lambda d: after(d, "llama.block_count", 4, U32(100_000)),
    "blocks without tensors": lambda d: after(d, "llama.block_count", 4, U32(40)),
    "no context": lambda d: after(d, "llama.context_length", 4, U32(0)),
    "heads do not divide": lambda d: after(d, "llama.attention.head_count", 4, U32(7)),
    "no heads": lambda d: after(d, "llama.attention.head_count", 4, U32(0)),
    "wrong width": lambda d: after(d, "llama.embedding_length", 4, U32(65)),
    "wrong rope": lambda d: after(d, "llama.rope.dimension_count", 4, U32(1024)),
    "epsilon NaN": lambda d: after(d, "layer_norm_rms_epsilon", 4, NAN),
    "end token outside": lambda d: after(d, "tokenizer.ggml.eos_token_id", 4, U32(99_999)),
    "array too long": lambda d: after(d, "tokenizer.ggml.tokens", 8, U64(2**50)),
    "array of arrays": lambda d: after(d, "tokenizer.ggml.tokens", 4, U32(9)),
    "fewer tokens": lambda d: after(d, "tokenizer.ggml.tokens", 8, U64(10)),
    "no dimensions": lambda d: after(d, "token_embd.weight", 0, U32(0)),
    "nine dimensions": lambda d: after(d, "token_embd.weight", 0, U32(9)),
    "dimension zero": lambda d: after(d, "token_embd.weight", 4, U64(0)),
    "dimension huge": lambda d: after(d, "token_embd.weight", 4, U64(2**62)),
    "dimension 2^40": lambda d: after(d, "token_embd.weight", 4, U64(2**40)),
    "tensor type": lambda d: after(d, "token_embd.weight", 20, U32(2**31)),
    "tensor type quantised": lambda d: after(d, "token_embd.weight", 20, U32(8)),
    "offset beyond": lambda d: after(d, "token_embd.weight", 24, U64(2**40)),
    "offset odd": lambda d: after(d, "token_embd.weight", 24, U64(3)),
    "other architecture": lambda d: d.replace(b"llama", b"lloma"),
    "cut in the data": lambda d: d[: len(d) // 2],
    "cut by one byte": lambda d: d[:-1],
    "cut in the header": lambda d: d[:200],
    "cut behind the counts": lambda d: d[:24],
    "cut in the first key's length": lambda d: d[:31],
    "cut in the first key": lambda d: d[:36],
    "cut in the token list": lambda d: d[: d.index(b"tokenizer.ggml.tokens") + 500],
    "cut in the tensor list": lambda d: d[: d.index(b"token_embd.weight") + 20],
    "cut behind the tensor list": lambda d: d[: d.rindex(b"ffn_down.weight") + 47],
    "one byte of data": lambda d: d[: d.rindex(b"ffn_down.weight") + 80],
    "negative tensors": lambda d: d[:8] + U64(2**64 - 1) + d[16:],
    "no metadata": lambda d: d[:16] + U64(0) + d[24:],
    "negative metadata": lambda d: d[:16] + U64(2**64 - 1) + d[24:],
    "negative value type": lambda d: after(d, "llama.block_count", 0, U32(2**32 - 1)),
    "huge text": lambda d: after(d, "general.name", 4, U64(2**62)),
    "no heads for keys": lambda d: after(d, "llama.attention.head_count_kv", 4, U32(3)),
    "wrong feed forward": lambda d: after(d, "llama.feed_forward_length", 4, U32(127)),
    "odd rope": lambda d: after(d, "llama.rope.dimension_count", 4, U32(3)),
    "epsilon infinite": lambda d: after(d, "layer_norm_rms_epsilon", 4, struct.pack("<f", float("inf"))),
    "begin token outside": lambda d: after(d, "tokenizer.ggml.bos_token_id", 4, U32(99_999)),
    "negative array": lambda d: after(d, "tokenizer.ggml.tokens", 8, U64(2**64 - 1)),
    "more token types than tokens": lambda d: after(d, "tokenizer.ggml.token_type", 8, U64(2**40)),
    "two tokens alike": lambda d: d.replace(U64(10) + b"<|im_end|>", U64(5) + b"<|im_" + b"end|>", 1),
    "dimension negative": lambda d: after(d, "token_embd.weight", 4, U64(2**64 - 1)),
    "dimensions without end": lambda d: after(d, "token_embd.weight", 0, U32(2**32 - 1)),
    "tensor type beyond all": lambda d: after(d, "token_embd.weight", 20, U32(255)),
    "offset negative": lambda d: after(d, "token_embd.weight", 24, U64(2**64 - 32)),
    "a tensor twice": lambda d: d.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight", 1),
    "a projector": lambda d: after(d, "general.architecture", 4, U64(4) + b"clip"),
}
SURVIVABLE = {"tensor type quantised"}
"""Whatever llama.cpp makes of these, the daemon lives; they may even load."""


@pytest.mark.parametrize("name", CORRUPTIONS)
async def test_corruption_is_named_and_survived(good: bytes, tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(CORRUPTIONS[name](good))
    side = EntrySide(EngineSpec(alias="bad", backend="llama", source=str(path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.engine.run)
        await side.wait_until("failed", "ready", timeout_s=30)
        status = side.engine.status()
        if name not in SURVIVABLE:
            assert status.state == "failed"
        if status.state == "failed":
            assert len(status.detail) > 20
            assert side.engine.keys().configs == ()
            with pytest.raises((EngineDeadError, RefusedError)):
                async with side.engine.submit(EngineRequest(bytes(136), b"x", 1)) as events:
                    await anext(events)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["weights", "missing"])
async def test_what_only_loading_can_tell(tmp_path: Path, how: str) -> None:
    path = tmp_path / "bad.gguf"
    if how == "weights":
        gguf_make.make(path, nan_tensor=True)
    async with running(EngineSpec(alias="bad", backend="llama", source=str(path)), state="failed") as side:
        assert ("NaN" if how == "weights" else "cannot read") in side.engine.status().detail


async def test_two_daemons_can_serve_one_file(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(good)
    spec = EngineSpec(alias="good", backend="llama", source=str(path))
    async with running(spec) as first, running(spec) as second:
        assert first.engine.status().digest == second.engine.status().digest
        assert first.engine.keys().certificate != second.engine.keys().certificate
        for side in (first, second):
            assert len((await side.ask(chat("hi", max_tokens=3, temperature=0.0))).tokens) <= 3


def test_gpus_are_asked_for_in_a_child_and_answered_with_a_remedy() -> None:
    """On a machine with a GPU build the same call names its GPUs."""
    lib = abi.load_library()
    if lib.llama_supports_gpu_offload():
        assert all(device.total_bytes > 0 for device in gpus())
        return
    with pytest.raises(ConfigError, match="built without GPU support") as problem:
        gpus()
    assert "--cpu" in problem.value.message
    assert "CMAKE_ARGS" in problem.value.message
    assert find(lib) == Found(gpus=(), backends=("CPU",))


async def test_gpu_without_a_gpu_build_fails_with_words(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(good)
    spec = EngineSpec(alias="good", backend="llama", source=str(path))
    async with running(spec, EngineOptions(n_threads=1, gpu=True)) as side:
        status = side.engine.status()
        if abi.load_library().llama_supports_gpu_offload():
            assert status.state == "ready"
        else:
            assert "without GPU support" in status.detail
