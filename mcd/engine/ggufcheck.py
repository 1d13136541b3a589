"""Read a GGUF file's header and refuse what cannot be right, before llama.cpp's C++ meets it.

Known ways of a file to end the process rather than the load: block_count 0 or 100000, a NaN epsilon (an assert at
the first sampled token), an empty metadata key. Others were memory errors in the past, so every count, length,
dimension and offset has a limit here. Nothing larger than the limits is ever allocated.
"""

from __future__ import annotations

import bisect
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

from mcd.errors import OUT_OF_FILES, EngineDeadError, EngineError, ModelFileError, system_reason

MAX_METADATA_PAIRS = 4096
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 256
"""GGUF itself allows 65535; no real key has more than 80."""
MAX_STRING_BYTES = 16 * 1024 * 1024
"""A chat template has up to 100 kB; a token list is many small strings."""
MAX_ARRAY_ITEMS = 4 * 1024 * 1024
"""Token lists and merges: the largest vocabularies have 262 144 tokens and 600 000 merges."""
MAX_VOCABULARY = 1_048_576
MAX_BLOCKS = 1024
MAX_DIMENSIONS = 4
MAX_DIMENSION = 1 << 40
MAX_ALIGNMENT = 65_536
MAX_HEADER_BYTES = 1 << 30
MAX_NESTED_ARRAYS = 1
PROJECTOR = "clip"
"""Architecture of every projector."""
MAX_PATCHES = 65_536
"""Of one picture; the largest encoders take 16 384."""
_PROJECTOR_RANGES = (
    ("image_size", 1, 16_384), ("patch_size", 1, 1024), ("embedding_length", 1, 65_536), ("block_count", 1, MAX_BLOCKS),
    ("feed_forward_length", 0, 1 << 20), ("attention.head_count", 1, 1024), ("projection_dim", 0, 65_536),
    ("projector.scale_factor", 0, 64), ("spatial_merge_size", 0, 64),
)  # fmt: skip
"""(key, least, most); least 0: may be absent. A zero in some of them ends the process by a division."""

VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}

_BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""ggml type -> (elements a block, bytes a block). A type not listed here only skips the size check."""
MAX_TENSOR_TYPE = 255

Value = int | float | str | bytes | list[object] | bool


class Header:
    """What the check learned. Owner: the caller."""

    __slots__ = ("data_at", "metadata", "n_tensors", "size_bytes", "tensors")

    def __init__(self, metadata: dict[str, Value], n_tensors: int, data_at: int, size_bytes: int) -> None:
        self.metadata = metadata
        self.n_tensors = n_tensors
        self.data_at = data_at
        self.size_bytes = size_bytes
        self.tensors: dict[str, int] = {}
        """Bytes of each tensor in the file, padding included."""

    def text(self, key: str) -> str:
        """A string value; empty when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        """A numeric value; None when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def n_items(self, key: str) -> int:
        """Items of an array; 0 when absent or of another type."""
        return len(_list(self.metadata.get(key)))

    def per_layer(self, key: str, n_layers: int) -> tuple[int, ...]:
        """One number for each layer, from an array or one value for all; empty when absent or of another shape."""
        value = self.metadata.get(key)
        values = value if isinstance(value, list) else [value] * n_layers
        found = tuple(max(0, int(each)) for each in values[:n_layers] if isinstance(each, int))
        return found if len(found) == n_layers else ()


def check_file(path: str) -> Header:
    """Read and check a whole header.

    Raises:
        ModelFileError: Says what is wrong with the file.
        EngineDeadError: No file can be opened now.
    """
    with _open(path) as file:
        return check(file, os.fstat(file.fileno()).st_size, Path(path).name)


def check(file: BinaryIO, size_bytes: int, name: str) -> Header:
    """The same of an open file; ``name`` is what the messages call it.

    Raises:
        ModelFileError: Says what is wrong with the file.
    """
    reader = _Reader(file, size_bytes, name)
    header = _read_header(reader)
    _check_values(reader, header)
    return header


def check_projector(path: str) -> Header:
    """Read and check the header of a projector, through which a model sees.

    Raises:
        ModelFileError: Says what is wrong with the file.
        EngineDeadError: No file can be opened now.
    """
    with _open(path) as file:
        reader = _Reader(file, os.fstat(file.fileno()).st_size, Path(path).name)
        header = _read_header(reader)
        if header.text("general.architecture") != PROJECTOR:
            raise reader.fault("it is no projector")
        _check_finite(reader, header)
        _check_projector_values(reader, header)
        return header


def read_name(path: str) -> str:
    """``general.name`` of a file that passes the check; empty when it has none.

    Raises:
        ModelFileError: Says what is wrong with the file.
    """
    return check_file(path).text("general.name")


def _open(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str, error: OSError) -> EngineError:
    """A file that cannot be opened: the file's fault for ever, or ours for now, having too many open."""
    said = f"cannot read {Path(path).name}: {system_reason(error)}"
    return EngineDeadError(said) if error.errno in OUT_OF_FILES else ModelFileError(said)


class _Reader:
    """Reads little-endian values and never past the file. Owner: one check."""

    def __init__(self, file: BinaryIO, size_bytes: int, name: str) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self.name = name
        self.at = 0

    def fault(self, why: str) -> ModelFileError:
        return ModelFileError(f"{self.name} is not a usable GGUF file: {why}")

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > min(self.size_bytes, MAX_HEADER_BYTES) - self.at:
            raise self.fault("it ends inside the header")
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise self.fault("it ends inside the header")
        self.at += n_bytes
        return data

    def skip(self, n_bytes: int) -> None:
        if n_bytes > min(self.size_bytes, MAX_HEADER_BYTES) - self.at:
            raise self.fault("it ends inside the header")
        self._file.seek(n_bytes, os.SEEK_CUR)
        self.at += n_bytes

    def skip_strings(self, n_strings: int) -> None:
        """In one loop, not call by call: a vocabulary is a quarter of a million of them."""
        read, end, at = self._file.read, min(self.size_bytes, MAX_HEADER_BYTES), self.at
        for _ in range(n_strings):
            length = read(8)
            size = int.from_bytes(length, "little")
            at += 8 + size
            if len(length) == 8 and size > MAX_STRING_BYTES:
                raise self.fault("a text in an array is too long")
            if at > end or len(read(size)) != size:
                raise self.fault("it ends inside the header")
        self.at = at

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def string(self, limit: int, what: str) -> str:
        size = self.u64()
        if size > limit:
            raise self.fault(f"{what} of {size} bytes; at most {limit} are allowed")
        return self.take(size).decode("utf-8", "replace")


def _read_header(reader: _Reader) -> Header:
    if reader.size_bytes < 24 or reader.take(4) != b"GGUF":
        raise reader.fault("it does not begin with GGUF")
    version = reader.u32()
    if version not in VERSIONS:
        raise reader.fault(f"version {version & 0xFFFF}; versions 2 and 3 are known")
    n_tensors, n_pairs = reader.u64(), reader.u64()
    if n_tensors > MAX_TENSORS:
        raise reader.fault(f"{n_tensors} tensors; at most {MAX_TENSORS} are allowed")
    if n_pairs > MAX_METADATA_PAIRS:
        raise reader.fault(f"{n_pairs} metadata entries; at most {MAX_METADATA_PAIRS} are allowed")
    metadata: dict[str, Value] = {}
    for _ in range(n_pairs):
        key = reader.string(MAX_KEY_BYTES, "a metadata key")
        if not key or key in metadata:
            raise reader.fault("an empty or repeated metadata key")
        metadata[key] = _read_value(reader, reader.u32(), 0)
    header = Header(metadata, n_tensors, 0, reader.size_bytes)
    _read_tensors(reader, header)
    return header


def _read_value(reader: _Reader, kind: int, depth: int) -> Value:
    if kind == _STRING:
        return reader.string(MAX_STRING_BYTES, "a text")
    if kind == _ARRAY:
        return _read_array(reader, depth)
    layout = _SCALARS.get(kind)
    if layout is None:
        raise reader.fault(f"metadata of unknown type {kind}")
    (value,) = struct.unpack(layout, reader.take(struct.calcsize(layout)))
    return bool(value) if kind == 7 else value


def _read_array(reader: _Reader, depth: int) -> list[object]:
    """The numbers of an array with one for each layer; of any other its length, as a list without the items."""
    if depth > MAX_NESTED_ARRAYS:
        raise reader.fault("arrays nested too deeply")
    kind, n_items = reader.u32(), reader.u64()
    if n_items > MAX_ARRAY_ITEMS:
        raise reader.fault(f"an array of {n_items} items; at most {MAX_ARRAY_ITEMS} are allowed")
    if kind == _STRING:
        reader.skip_strings(n_items)
    elif kind == _ARRAY:
        for _ in range(n_items):
            _read_array(reader, depth + 1)
    elif kind in _SCALARS and n_items <= MAX_BLOCKS:
        layout = f"<{n_items}{_SCALARS[kind][1]}"
        return list(struct.unpack(layout, reader.take(struct.calcsize(layout))))
    elif kind in _SCALARS:
        reader.skip(n_items * struct.calcsize(_SCALARS[kind]))
    else:
        raise reader.fault(f"an array of unknown type {kind}")
    return [None] * n_items


def _read_tensors(reader: _Reader, header: Header) -> None:
    alignment = header.number("general.alignment") or 32
    if not 1 <= alignment <= MAX_ALIGNMENT or int(alignment) & (int(alignment) - 1):
        raise reader.fault("general.alignment is no power of two")
    spans: list[tuple[str, int, int]] = []
    names: set[str] = set()
    for _ in range(header.n_tensors):
        name = reader.string(MAX_KEY_BYTES, "a tensor name")
        if not name or name in names:
            raise reader.fault("an empty or repeated tensor name")
        names.add(name)
        spans.append((name, *_read_tensor(reader, name)))
    data_at = -(-reader.at // int(alignment)) * int(alignment)
    header.data_at = data_at
    room = header.size_bytes - data_at
    for name, offset, size_bytes in spans:
        if offset % int(alignment) or offset + size_bytes > room:
            raise reader.fault(f"tensor {_plain(name)} lies outside the file; it is cut off or damaged")
    if not spans:
        raise reader.fault("it holds no tensors")
    header.tensors = _sizes(spans, room)


def _sizes(spans: list[tuple[str, int, int]], room: int) -> dict[str, int]:
    """From one tensor's beginning to the next: right also for types whose size is not known here."""
    starts = [*sorted(offset for _, offset, _ in spans), room]
    return {
        name: starts[bisect.bisect_right(starts, offset)] - offset if offset < room else 0 for name, offset, _ in spans
    }


def _read_tensor(reader: _Reader, name: str) -> tuple[int, int]:
    """(offset, size in bytes; 0 for a type whose size is not known here)."""
    n_dims = reader.u32()
    if not 1 <= n_dims <= MAX_DIMENSIONS:
        raise reader.fault(f"tensor {_plain(name)} has {n_dims} dimensions")
    dims = [reader.u64() for _ in range(n_dims)]
    if any(not 1 <= dim <= MAX_DIMENSION for dim in dims):
        raise reader.fault(f"tensor {_plain(name)} has an impossible dimension")
    kind, offset = reader.u32(), reader.u64()
    if kind > MAX_TENSOR_TYPE:
        raise reader.fault(f"tensor {_plain(name)} has the unknown type {kind}")
    per_block, block_bytes = _BLOCKS.get(kind, (1, 0))
    if block_bytes and dims[0] % per_block:
        raise reader.fault(f"tensor {_plain(name)} has rows that are no whole blocks")
    return offset, math.prod(dims) // per_block * block_bytes


def _check_values(reader: _Reader, header: Header) -> None:
    architecture = header.text("general.architecture")
    if not architecture:
        raise reader.fault("it does not name its architecture")
    if architecture == PROJECTOR or header.text("general.type") in {"adapter", "mmproj"}:
        raise reader.fault("it is a part of a model (adapter or projector), not a model")
    blocks = header.number(f"{architecture}.block_count")
    if blocks is None or not 1 <= blocks <= MAX_BLOCKS:
        raise reader.fault(f"block_count must be 1 to {MAX_BLOCKS}")
    n_ctx = header.number(f"{architecture}.context_length")
    if n_ctx is None or n_ctx < 1:
        raise reader.fault("context_length is missing or zero")
    _check_finite(reader, header)
    n_tokens = len(_list(header.metadata.get("tokenizer.ggml.tokens")))
    if n_tokens > MAX_VOCABULARY:
        raise reader.fault(f"{n_tokens} tokens; at most {MAX_VOCABULARY} are allowed")
    _check_token_ids(reader, header, n_tokens)
    if header.number("split.count") not in {None, 0, 1}:
        raise reader.fault("it is one part of a split model; join the parts with llama-gguf-split --merge")


def _check_finite(reader: _Reader, header: Header) -> None:
    for key, value in header.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise reader.fault(f"{_plain(key)} is not a finite number")


def _check_projector_values(reader: _Reader, header: Header) -> None:
    if header.metadata.get("clip.has_vision_encoder") is not True:
        raise reader.fault("it sees no pictures; projectors for sound are not supported")
    for name, least, most in _PROJECTOR_RANGES:
        key = f"clip.vision.{name}"
        value = header.number(key)
        if value is None and least:
            raise reader.fault(f"{key} is missing")
        if value is not None and not max(least, 1) <= value <= most:
            raise reader.fault(f"{key} must be {max(least, 1)} to {most}")
    side, patch = (header.number(f"clip.vision.{name}") or 1 for name in ("image_size", "patch_size"))
    if patch > side or (side / patch) ** 2 > MAX_PATCHES:
        raise reader.fault("its pictures have an impossible number of patches")
    if (header.number("clip.vision.embedding_length") or 0) % (header.number("clip.vision.attention.head_count") or 1):
        raise reader.fault("clip.vision.embedding_length is no multiple of its heads")


def _check_token_ids(reader: _Reader, header: Header, n_tokens: int) -> None:
    if not n_tokens:
        return
    for key, value in header.metadata.items():
        is_token = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if is_token and not (isinstance(value, int) and 0 <= value < n_tokens):
            raise reader.fault(f"{_plain(key)} is outside the vocabulary")


def _list(value: Value | None) -> list[object]:
    return value if isinstance(value, list) else []


def _plain(name: str) -> str:
    """A name out of a stranger's file, fit for one line of text."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "?" for c in name)[:64]
