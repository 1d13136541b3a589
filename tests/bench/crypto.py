"""What MCS/1's cryptography alone costs an entry for one small request: the floor under the path's CPU time.

python -m tests.bench.crypto
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from mcd.wire.envelope import SealKey, Terms, open_request, seal_request
from mcd.wire.frames import Opener
from mcd.wire.header import SUITE_XWING
from mcd.wire.keyconfig import KeyConfig
from mcd.wire.receipt import Receipt
from mcd.wire.signing import SigningKey, check_receipt, sign_receipt

N_REQUESTS = 200
BODY = b'{"request":{"model":"bench","messages":[{"role":"user","content":"bench 1 0"}]},"resume":[],"cache_salt":""}'
DELTA = b"d" * 40
FINAL = b"f" * 100


class SmallRequest:
    """One engine's key and, made beforehand, what it answers; the entry's part is `parts`."""

    def __init__(self) -> None:
        key = SealKey.generate(SUITE_XWING)
        self._engine = SigningKey(os.urandom(32))
        self._config = KeyConfig(SUITE_XWING, bytes(32), self._engine.public_key, 0, 1 << 40, 1, key.public_key)
        header, sealed, self._opener = self._seal()
        _, sealer = open_request(header, sealed, lambda _: key)
        self._response_key = sealer.response_key
        self._frames = [sealer.seal_data(DELTA), sealer.seal_final(FINAL)]
        receipt = Receipt(self._opener.transcript_hash, 4, 0, 1, sealer.output_digest())
        self._receipt = sign_receipt(receipt, self._engine)

    def parts(self) -> dict[str, float]:
        """CPU seconds of each thing an entry must do: mean of N_REQUESTS."""
        openers = [self._seal()[2] for _ in range(N_REQUESTS)]
        started = [self._start() for _ in range(N_REQUESTS)]
        return {
            "seal: X-Wing, ephemeral X25519, AEAD": _mean_s([self._seal] * N_REQUESTS),
            "answer keys: X25519, HKDF": _mean_s([partial(o.start, self._response_key) for o in openers]),
            f"open {len(self._frames)} frames": _mean_s([partial(self._open, o) for o in started]),
            "receipt: Ed25519": _mean_s([lambda: check_receipt(self._receipt, self._engine.public_key)] * N_REQUESTS),
        }

    def _seal(self) -> tuple[bytes, bytes, Opener]:
        return seal_request(BODY, self._config, Terms(os.urandom(16), bytes(32), time.time_ns() // 1_000_000, 120_000))

    def _start(self) -> Opener:
        opener = Opener(self._opener.transcript_hash, self._opener._k, self._opener._ephemeral)  # the same answer again
        opener.start(self._response_key)
        return opener

    def _open(self, opener: Opener) -> None:
        for frame in self._frames:
            opener.open_frame(frame)


def _mean_s(calls: Sequence[Callable[[], object]]) -> float:
    began = time.process_time_ns()
    for call in calls:
        call()
    return (time.process_time_ns() - began) / 1e9 / len(calls)


def main() -> None:
    """Print the parts and their sum."""
    parts = SmallRequest().parts()
    for name, cost_s in {**parts, "together": sum(parts.values())}.items():
        print(f"  {name:<38} {1e6 * cost_s:>5.0f} us")


if __name__ == "__main__":
    main()
