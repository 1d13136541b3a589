"""How many bytes a thing takes on the wire, so that its size says little about it.   [ENV-14] [ENV-26]"""

from __future__ import annotations

MIN_REQUEST_PLAIN_BYTES = 256
"""Shorter requests are padded to this: most one-line questions look alike."""
FRAME_PAD_BYTES = 64
MIN_ANSWER_PLAIN_BYTES = 512
"""First bucket of whole answers: yes and no look alike."""
MIN_ANSWER_FRAMES = 4
"""First bucket of their number of data frames; less than four has no whole quarter to grow by."""
FINAL_PAD_BYTES = 256
"""The final statement without audit logprobs fits, so its size says nothing."""
MAX_FRAME_PLAIN_BYTES = 65_536
"""Largest plaintext of a response frame, padding included."""


def padme(size_bytes: int) -> int:
    """Round up so that at most O(log log size) bits of the length show; costs at most 12 %.   [ENV-14]

    Nikitin et al., "Reducing Metadata Leakage from Encrypted Files", PETS 2019.
    """
    if size_bytes < 2:
        return size_bytes
    exponent = size_bytes.bit_length() - 1
    n_zero_bits = exponent - exponent.bit_length()
    mask = (1 << n_zero_bits) - 1
    return (size_bytes + mask) & ~mask


def round_up(size_bytes: int, unit_bytes: int) -> int:
    """The next multiple of ``unit_bytes``."""
    return -(-size_bytes // unit_bytes) * unit_bytes


def bucket(value: int, first: int) -> int:
    """The least of first, first + a quarter, that + a quarter of it, ... (rounded down) that holds ``value``."""
    size = first
    while size < value:
        size += size // 4
    return size


def end_padding_frames(padded_bytes: int, n_frames: int) -> list[int]:
    """Plaintext sizes of the empty data frames that bring an answer to the next bucket.   [ENV-26]

    Both the bytes and the number of frames are brought to a bucket: each frame has overhead of its own on every
    layer below, so a total of bytes tells the number of frames, hence how long the engine computed (measured: with
    bytes alone the padding hid nothing).

    Args:
        padded_bytes: Padded plaintext of all data frames so far; a multiple of FRAME_PAD_BYTES.
        n_frames: How many there were.
    """
    units, first_units = padded_bytes // FRAME_PAD_BYTES, MIN_ANSWER_PLAIN_BYTES // FRAME_PAD_BYTES
    max_units = MAX_FRAME_PLAIN_BYTES // FRAME_PAD_BYTES
    total = bucket(n_frames, MIN_ANSWER_FRAMES)
    n_new = total - n_frames
    n_units = bucket(units + n_new, first_units) - units
    while n_units > n_new * max_units:
        total = bucket(total + 1, MIN_ANSWER_FRAMES)
        n_new = total - n_frames
        n_units = bucket(units + n_new, first_units) - units
    each, rest = divmod(n_units, n_new) if n_new else (0, 0)
    return [(each + (at < rest)) * FRAME_PAD_BYTES for at in range(n_new)]
