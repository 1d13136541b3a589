"""How many bytes a thing takes on the wire, so that its size says little about it.   [ENV-14] [ENV-26]"""

from __future__ import annotations

MIN_REQUEST_PLAIN_BYTES = 256
"""Shorter requests are padded to this: most one-line questions look alike."""
FRAME_PAD_BYTES = 64
MIN_RESPONSE_BYTES = 1024
"""First bucket of whole answers: yes and no look alike."""
MAX_BUCKET_STEP_BYTES = 49_152
"""Widest bucket: one frame can fill it, and the time that such long answers take tells more than their bytes."""
FINAL_PAD_BYTES = 256
"""The final statement without audit logprobs fits, so its size says nothing."""
MAX_FRAME_PLAIN_BYTES = 65_536
"""Largest plaintext of a response frame, padding included."""
FRAME_OVERHEAD_BYTES = 21
"""What a response frame has beside its plaintext: type, length and tag."""


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


def bucket(size_bytes: int) -> int:
    """The first bucket that holds ``size_bytes``; each is a quarter larger than the one before, or a whole step."""
    total = MIN_RESPONSE_BYTES
    while total < size_bytes:
        total += min(total // 4, MAX_BUCKET_STEP_BYTES)
    return total


def last_frame(sent_bytes: int, data_bytes: int) -> int:
    """Plaintext size of the frame that ends an answer, so that all of its frames together fill a bucket.   [ENV-26]

    Whole frames are counted: a total that left out what each has beside its plaintext would tell their number, hence
    how long the engine computed (measured: so counted, the padding hid nothing).

    Args:
        sent_bytes: Frames so far.
        data_bytes: What the last frame has to say; where that fits no frame, neither does the result.
    """
    least_bytes = round_up(4 + data_bytes, FINAL_PAD_BYTES)
    total = bucket(sent_bytes + least_bytes + FRAME_OVERHEAD_BYTES)
    return max(least_bytes, min(total - sent_bytes - FRAME_OVERHEAD_BYTES, MAX_FRAME_PLAIN_BYTES))
