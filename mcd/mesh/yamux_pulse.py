"""Whether the peer is alive and how far away it is: the muxer's pings, as arithmetic on ``now``."""

from __future__ import annotations

from typing import Final, Literal

PING_EVERY_S: Final = 2.5
DEAD_AFTER_S: Final = 8.0
"""No byte for so long: the peer is frozen or unreachable. Three lost pings; seen within 10 s."""
WRITE_STALL_S: Final = 20.0
"""16 KiB that the network does not take in so long: the peer sends but does not read."""
RTT_GAIN: Final = 0.125
"""Weight of a new sample, as TCP's (RFC 6298)."""

Verdict = Literal["wait", "ping", "dead"]


class Pulse:
    """One connection's pulse. All instants are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self.heard_at_s = now_s
        """When the last byte came, of whatever kind."""
        self.rtt_s: float | None = None
        """Smoothed round trip; None before the first answer."""
        self.ping_id = 0
        """Of the last ping; its answer carries it."""
        self._next_ping_s = now_s
        self._sent_at_s: float | None = None

    def wake_at_s(self) -> float:
        """When ``judge`` should next be asked."""
        return min(self._next_ping_s, self.heard_at_s + DEAD_AFTER_S)

    def judge(self, now_s: float) -> Verdict:
        """What to do now; ``ping`` means: send a ping with the new ``ping_id``."""
        if now_s - self.wake_at_s() > PING_EVERY_S:
            # We were the frozen one (suspended, starved): what the peer sent is still unread. Ask again first.
            self.heard_at_s = max(self.heard_at_s, now_s - DEAD_AFTER_S + PING_EVERY_S)
        if now_s >= self.heard_at_s + DEAD_AFTER_S:
            return "dead"
        if now_s < self._next_ping_s:
            return "wait"
        self._next_ping_s = now_s + PING_EVERY_S
        self.ping_id = (self.ping_id + 1) & 0xFFFF_FFFF
        self._sent_at_s = now_s
        return "ping"

    def answered(self, ping_id: int, now_s: float) -> None:
        """A ping's answer came; only the last ping's counts, and once."""
        if ping_id != self.ping_id or self._sent_at_s is None:
            return
        sample_s, self._sent_at_s = now_s - self._sent_at_s, None
        self.rtt_s = sample_s if self.rtt_s is None else self.rtt_s + RTT_GAIN * (sample_s - self.rtt_s)


class Stall:
    """Whether the peer takes what we write, as far as a look at each pulse can tell."""

    def __init__(self, now_s: float) -> None:
        self._n_written = 0
        self._moved_at_s = now_s

    def judge(self, n_written: int, is_writing: bool, now_s: float) -> bool:
        """True when the write in progress, after ``n_written`` others, is the one of WRITE_STALL_S ago."""
        if n_written != self._n_written or not is_writing:
            self._n_written, self._moved_at_s = n_written, now_s
        return now_s - self._moved_at_s > WRITE_STALL_S
