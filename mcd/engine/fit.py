"""How much of a model goes where: layers, context and cells for the memory there is. Pure.

What is given up, and in which order. Memory is weights, then the KV memory, which grows with the context, then what
one step computes in. When not all of it fits, first the room for several long requests at once goes (cells beyond one
context), then slots, where each costs memory of its own (windows and states), then the context itself, down to
FLOOR_CTX; then layers go to the processor. Layers come last because each one there costs every token of every request:
a tenth of a model on the processor halves its speed, while a context of 8k instead of 32k is missed by the few
requests longer than that. Where there is only the processor the context goes on shrinking to MIN_CTX, for lack of
anything else to give up.

The sums are checked against llama.cpp's own figures in tests: weights and KV memory exactly, what one step computes in
from above. Layers with a window keep that of each sequence and one step more, recurrent ones a state of each sequence
(`Layer`); models that have such layers get checkpoints besides (`mcd.engine.checkpoints`), in the machine's memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

MIB = 1024 * 1024
GIB = 1024 * MIB
WANTED_CTX = 32_768
"""A model that claims more gets this: KV memory is reserved, and few requests are longer."""
FLOOR_CTX = 8_192
"""Below it agents' prompts no longer fit; layers leave the GPU before the context goes under."""
MIN_CTX = 512
STEP_CELLS = 256
"""llama.cpp rounds the KV memory to this."""
STEP_ROWS = 512
"""Rows of one computation (n_ubatch)."""
SCRATCH_CELLS = 768
"""Cells beyond those of the slots, for a sequence of our own: a step of the most rows, and padding."""
CHECKPOINT_SHARE = 4
"""Checkpoints may take a quarter of what the KV memory does."""
LEAST_SLOTS = 2
"""Fewer are not tried: one request would wait for the other's end."""
LEAST_CHECKPOINTS = 2
"""Or so many, if that is more: the end of a prompt, and the place where it parted from the one before."""
KV_SHARE = 0.25
"""Of the machine's memory, what one model's KV memory may take: other programs need the rest."""
PROCESS_BYTES = 192 * MIB
"""An inference process without a model: Python, llama.cpp, templates, requests under way."""
MAX_DEVICE_RESERVE_BYTES = GIB
DEVICE_RESERVE_SHARE = 8
"""Left free on a GPU: a gigabyte or an eighth, whichever is less, for the driver's context, the libraries' work space
and the desktop."""
SHRINK = 0.7
"""After an allocation failed, the next try believes in this much of the memory."""
F16_BYTES = 2
F32_BYTES = 4


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One block: its weights, and what it keeps of the tokens it has read."""

    weight_bytes: int
    cell_bytes: int = 0
    """KV memory of one token."""
    window: int = 0
    """It keeps so many tokens of each sequence; 0: all."""
    state_bytes: int = 0
    """What a recurrent one keeps of each sequence, however long it is."""

    def kept_cells(self, n_cells: int, n_slots: int) -> int:
        """Its cells, where the slots have so many together; those of our own sequence included."""
        kept = n_cells + SCRATCH_CELLS
        if self.window:
            kept = min(kept, self.window * (n_slots + 1) + STEP_ROWS)
        return -(-kept // STEP_CELLS) * STEP_CELLS

    def kv_bytes(self, n_cells: int, n_slots: int) -> int:
        """Memory of these cells, and of the states of all sequences."""
        return self.cell_bytes * self.kept_cells(n_cells, n_slots) + self.state_bytes * (n_slots + 1)

    def checkpoint_bytes(self, n_cells: int) -> int:
        """What a copy of one sequence holds of it: nothing of a layer that keeps every token."""
        return self.cell_bytes * min(self.window, n_cells) + self.state_bytes


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What of a model costs memory."""

    layers: tuple[Layer, ...]
    input_bytes: int
    """Token embeddings; they stay in the machine's memory."""
    output_bytes: int
    """Output head and what belongs to no block; on the GPU with the first layer there."""
    n_embd: int
    n_ff: int
    """Width inside a block."""
    n_vocab: int
    n_ctx_train: int

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return sum(layer.weight_bytes for layer in self.layers) + self.input_bytes + self.output_bytes

    @property
    def n_layers(self) -> int:
        """Blocks, and the output head, which llama.cpp counts as one more."""
        return len(self.layers) + 1

    def kv_bytes(self, n_cells: int, n_slots: int) -> int:
        """KV memory of so many cells of so many slots."""
        return sum(layer.kv_bytes(n_cells, n_slots) for layer in self.layers)

    def checkpoint_bytes(self, n_cells: int, n_slots: int) -> int:
        """What checkpoints may take; 0 where every layer keeps every token, so that none are needed."""
        one = sum(layer.checkpoint_bytes(n_cells) for layer in self.layers)
        return max(self.kv_bytes(n_cells, n_slots) // CHECKPOINT_SHARE, LEAST_CHECKPOINTS * one) if one else 0

    def compute_bytes(self, n_cells: int, n_slots: int) -> int:
        """What one step needs besides: logits, activations, attention masks (one for each window, one for none)."""
        masks = {layer.window: layer.kept_cells(n_cells, n_slots) for layer in self.layers if layer.cell_bytes}
        row = F32_BYTES * (self.n_vocab + 3 * self.n_ff + 8 * self.n_embd) + F16_BYTES * sum(masks.values())
        return STEP_ROWS * row


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, as llama.cpp names it."""

    name: str
    """``CUDA0``, ``ROCm0``, ``Vulkan0``, ``Metal``."""
    description: str
    """The card's own name."""
    kind: Literal["gpu", "igpu"]
    free_bytes: int
    total_bytes: int

    @property
    def usable_bytes(self) -> int:
        """Free memory less the reserve."""
        reserve = min(MAX_DEVICE_RESERVE_BYTES, self.total_bytes // DEVICE_RESERVE_SHARE)
        return max(0, self.free_bytes - reserve)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What `mcd.engine.devices` prints."""

    gpus: tuple[Device, ...] = ()
    backends: tuple[str, ...] = ()
    """What the build can compute with, by ggml's names; only ``CPU`` in a build without GPU support."""
    problem: str = ""
    """Name of a FailureCode."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, and why."""

    n_ctx: int
    """Most tokens of one request."""
    n_cells: int
    """KV memory of all slots together, tokens."""
    n_slots: int
    checkpoint_bytes: int = 0
    """Of the machine's memory, what checkpoints may take."""
    n_gpu_layers: int = 0
    """Layers on GPUs, the output head counted as one."""
    split: tuple[int, ...] = ()
    """Layers on each GPU, in order."""
    host_bytes: int
    """What it takes of the machine's memory."""
    device_bytes: tuple[int, ...] = ()
    """What it takes of each GPU's memory."""
    why: str
    """For the operator, one line."""

    @property
    def n_bytes(self) -> int:
        """All it takes."""
        return self.host_bytes + sum(self.device_bytes)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the model should get where there is room. 0: as much as it can use."""

    n_ctx: int = 0
    n_slots: int = 8
    least_slots: int = LEAST_SLOTS
    max_kv_bytes: int = 0

    def choices(self, shape: Shape) -> tuple[Wish, ...]:
        """The same with fewer and fewer slots, where each costs memory of its own."""
        choices = [self]
        has_own = any(layer.window or layer.state_bytes for layer in shape.layers)
        while has_own and choices[-1].n_slots > self.least_slots:
            n_slots = max(self.least_slots, choices[-1].n_slots // 2)
            choices.append(msgspec.structs.replace(self, n_slots=n_slots))
        return tuple(choices)

    def cells(self, shape: Shape) -> tuple[int, int, int]:
        """(context wanted, context not to go below without need, cells wanted)."""
        wanted = self.n_ctx or min(shape.n_ctx_train, WANTED_CTX)
        floor, most = min(wanted, FLOOR_CTX), wanted * self.n_slots
        if self.max_kv_bytes:
            n_cells = _most_cells(lambda n: shape.kv_bytes(n, self.n_slots) <= self.max_kv_bytes, floor, most)
            most = floor if n_cells is None else n_cells
        return wanted, floor, most


def least_bytes(shape: Shape, wish: Wish) -> int:
    """What a model takes at the shortest context that it is served with by choice."""
    _, floor, _ = wish.cells(shape)
    return _host_bytes(shape, floor, wish.choices(shape)[-1].n_slots)


def fit_host(shape: Shape, room_bytes: int, wish: Wish) -> Fit | None:
    """Fit a model into the machine's memory; None when it does not go in at all."""
    return _best([_fit_host(shape, room_bytes, choice) for choice in wish.choices(shape)])


def _fit_host(shape: Shape, room_bytes: int, wish: Wish) -> Fit | None:
    wanted, floor, most = wish.cells(shape)
    n_slots = wish.n_slots
    n_cells = _most_cells(lambda n: _host_bytes(shape, n, n_slots) <= room_bytes, min(MIN_CTX, floor), most)
    if n_cells is None:
        return None
    n_ctx = min(wanted, n_cells)
    host_bytes = _host_bytes(shape, n_cells, n_slots)
    return Fit(
        n_ctx=n_ctx,
        n_cells=n_cells,
        n_slots=n_slots,
        checkpoint_bytes=shape.checkpoint_bytes(n_cells, n_slots),
        host_bytes=host_bytes,
        why=_words(n_ctx, wanted, n_cells, f"{size(host_bytes)} of {size(room_bytes)} memory"),
    )


def fit_gpu(shape: Shape, devices: Sequence[Device], room_bytes: int, wish: Wish) -> Fit | None:
    """Fit a model onto GPUs and, for layers that do not go there, into the machine's memory; None for neither.

    Args:
        shape: The model.
        devices: GPUs to use, in llama.cpp's order.
        room_bytes: What it may take of the machine's memory.
        wish: What it should get.
    """
    return _best([_fit_gpu(shape, devices, room_bytes, choice) for choice in wish.choices(shape)])


def _fit_gpu(shape: Shape, devices: Sequence[Device], room_bytes: int, wish: Wish) -> Fit | None:
    wanted, floor, most = wish.cells(shape)

    def spread(n_cells: int, n_layers: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        return _spread(shape, devices, n_cells, n_layers, wish.n_slots)

    n_cells = _most_cells(lambda n: spread(n, shape.n_layers) is not None, floor, most)
    n_layers = shape.n_layers
    if n_cells is None:
        n_cells = floor
        n_layers = next((n for n in range(shape.n_layers - 1, 0, -1) if spread(floor, n) is not None), 0)
    found = spread(n_cells, n_layers)
    if n_layers == 0 or found is None:
        return None
    counts, taken = found
    host_bytes = _host_rest(shape, n_cells, n_layers, wish.n_slots)
    if host_bytes > room_bytes:
        return None
    n_ctx = min(wanted, n_cells)
    used = [device for device, count in zip(devices, counts, strict=True) if count]
    where = f"{size(sum(taken))} of {size(sum(d.usable_bytes for d in used))} on {', '.join(label(d) for d in used)}"
    layers = "all" if n_layers == shape.n_layers else f"{n_layers} of"
    rest = "" if n_layers == shape.n_layers else f"; the other layers compute on the processor ({size(host_bytes)})"
    return Fit(
        n_ctx=n_ctx,
        n_cells=n_cells,
        n_slots=wish.n_slots,
        checkpoint_bytes=shape.checkpoint_bytes(n_cells, wish.n_slots),
        n_gpu_layers=n_layers,
        split=counts,
        host_bytes=host_bytes,
        device_bytes=taken,
        why=f"{layers} {shape.n_layers} layers, " + _words(n_ctx, wanted, n_cells, where) + rest,
    )


def shrunk(devices: Sequence[Device], n_failures: int) -> tuple[Device, ...]:
    """The same GPUs, believed to have less free memory after each allocation that failed."""
    believed = SHRINK**n_failures
    return tuple(msgspec.structs.replace(d, free_bytes=int(d.free_bytes * believed)) for d in devices)


def capped(devices: Sequence[Device], n_bytes: int) -> tuple[Device, ...]:
    """The same GPUs, of whose usable memory this model may take so much in all."""
    usable = sum(device.usable_bytes for device in devices)
    if usable <= n_bytes:
        return tuple(devices)
    return tuple(
        msgspec.structs.replace(d, free_bytes=d.free_bytes - d.usable_bytes + int(d.usable_bytes * n_bytes / usable))
        for d in devices
    )


def least_device_bytes(shape: Shape, wish: Wish) -> int:
    """The same on GPUs, all layers there."""
    _, floor, _ = wish.cells(shape)
    n_slots = wish.choices(shape)[-1].n_slots
    kv_bytes = shape.kv_bytes(floor, n_slots)
    return shape.weight_bytes - shape.input_bytes + kv_bytes + shape.compute_bytes(floor, n_slots)


def label(device: Device) -> str:
    """A GPU in a few words fit for a record: ``RTX 4090 24G``."""
    words = _PARENTHESES.sub("", device.description).replace("/", " ").split()
    kept = [word for word in words if word.lower() not in _VENDORS] or [device.name]
    name = "".join(c for c in " ".join(kept) if c.isascii() and (c.isalnum() or c in " ._()+-")).strip(" ._()+-")
    return f"{(name or device.name)[:_MAX_LABEL_CHARS].strip()} {max(1, round(device.total_bytes / GIB))}G"


_PARENTHESES = re.compile(r"\([^)]*\)?")
_VENDORS = {"nvidia", "geforce", "amd", "radeon", "intel", "apple", "graphics", "corporation"}
_MAX_LABEL_CHARS = 22
"""A record's device field has 32 characters."""


def size(n_bytes: int) -> str:
    """Bytes for people, in thousands as disks and `mcd show` have them."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _best(choices: Sequence[Fit | None]) -> Fit | None:
    found = [fit for fit in choices if fit is not None]
    return max(found, key=lambda fit: (fit.n_gpu_layers, fit.n_ctx, fit.n_slots, fit.n_cells), default=None)


def _words(n_ctx: int, wanted: int, n_cells: int, where: str) -> str:
    context = f"context {n_ctx}" if n_ctx == wanted else f"context {n_ctx} instead of {wanted}"
    return f"{context}, room for {n_cells} tokens at once, {where}"


def _host_bytes(shape: Shape, n_cells: int, n_slots: int) -> int:
    """Everything in the machine's memory."""
    memory = shape.kv_bytes(n_cells, n_slots) + shape.checkpoint_bytes(n_cells, n_slots)
    return PROCESS_BYTES + shape.weight_bytes + memory + shape.compute_bytes(n_cells, n_slots)


def _host_rest(shape: Shape, n_cells: int, n_layers: int, n_slots: int) -> int:
    """What stays in the machine's memory when the last ``n_layers`` are on GPUs."""
    blocks = shape.layers[: shape.n_layers - n_layers]
    taken = sum(layer.weight_bytes + layer.kv_bytes(n_cells, n_slots) for layer in blocks)
    compute = shape.compute_bytes(n_cells, n_slots) if blocks else 0
    return PROCESS_BYTES + shape.input_bytes + taken + compute + shape.checkpoint_bytes(n_cells, n_slots)


def _spread(
    shape: Shape, devices: Sequence[Device], n_cells: int, n_layers: int, n_slots: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Put the last layers onto GPUs in order, each filled before the next: (layers, bytes) of each; None: no room."""
    blocks = [layer.weight_bytes + layer.kv_bytes(n_cells, n_slots) for layer in shape.layers]
    layers = [*blocks, shape.output_bytes][shape.n_layers - n_layers :]
    compute = shape.compute_bytes(n_cells, n_slots)
    counts, taken = [0] * len(devices), [0] * len(devices)
    at = 0
    for index, device in enumerate(devices):
        room = device.usable_bytes - compute
        while at < len(layers) and layers[at] <= room:
            room -= layers[at]
            taken[index] += layers[at]
            counts[index] += 1
            at += 1
        taken[index] += compute if counts[index] else 0
    return (tuple(counts), tuple(taken)) if at == len(layers) else None


def _most_cells(fits: Callable[[int], bool], least: int, most: int) -> int | None:
    """The largest number of cells that fits, in llama.cpp's steps; None when not even the least does."""
    if not fits(least):
        return None
    if fits(most):
        return most
    low, high = least // STEP_CELLS, most // STEP_CELLS + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * STEP_CELLS):
            low = middle
        else:
            high = middle
    return max(least, low * STEP_CELLS)
