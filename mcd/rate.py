"""How often somebody may have something that costs us, pure."""

from __future__ import annotations

from mcd.units import Seconds


class Rate:
    """A token bucket for each key, ``per_s`` a second and ``burst`` at once; who leaves his full is forgotten."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, now_s: Seconds) -> bool:
        """True when one more may begin now; ask again in a moment otherwise."""
        n_tokens, at_s = self._buckets.pop(key, (self._burst, now_s))
        n_tokens = min(self._burst, n_tokens + (now_s - at_s) * self._per_s)
        is_granted = n_tokens >= 1
        self._buckets[key] = (n_tokens - is_granted, now_s)
        self._forget_the_idle(now_s)
        return is_granted

    def _forget_the_idle(self, now_s: Seconds) -> None:
        """Drop the least recently used buckets while they are full again; two a call keep up with any flood."""
        for _ in range(2):
            oldest = next(iter(self._buckets))
            n_tokens, at_s = self._buckets[oldest]
            if n_tokens + (now_s - at_s) * self._per_s < self._burst:
                return
            del self._buckets[oldest]
            if not self._buckets:
                return
