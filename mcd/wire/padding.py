"""How many bytes a thing takes on the wire, so that its size says little about it.   [ENV-14] [ENV-26]"""

from __future__ import annotations

MIN_REQUEST_PLAIN_BYTES = 256
"""Shorter requests are padded to this: most one-line questions look alike."""
FRAME_PAD_BYTES = 64
MIN_ANSWER_PLAIN_BYTES = 512
"""First bucket of whole answers, four units or more so that a quarter of it is one: yes and no look alike."""
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


def end_padding_frames(total_bytes: int) -> list[int]:
    """Plaintext sizes of the empty data frames that bring an answer's length to the next bucket.   [ENV-26]

    Buckets grow by a quarter, rounded down to FRAME_PAD_BYTES.

    Args:
        total_bytes: Padded plaintext of all frames so far; a multiple of FRAME_PAD_BYTES.
    """
    bucket = MIN_ANSWER_PLAIN_BYTES
    while bucket < total_bytes:
        bucket += bucket // 4 // FRAME_PAD_BYTES * FRAME_PAD_BYTES
    n_full, rest = divmod(bucket - total_bytes, MAX_FRAME_PLAIN_BYTES)
    return [MAX_FRAME_PLAIN_BYTES] * n_full + ([rest] if rest else [])
