"""What frame sizes and times tell of an answer: a closed-world attacker against the engine's own flush and padding.

    python -m tests.bench.padding

300 passages of 100 to 400 words at 40 words/s, each answered twice with fresh jitter. The attacker holds the first
traces, labelled, and names the second ones by the nearest neighbour. 0.3 % is chance.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mcd.engine.seal import FLUSH_INTERVAL_S, FlushPolicy
from mcd.wire.codec import encode_delta
from mcd.wire.padding import FINAL_PAD_BYTES, FRAME_OVERHEAD_BYTES, FRAME_PAD_BYTES, last_frame, round_up
from mcd.wire.payload import Delta

PACKET_BYTES = 79
"""What a flush takes below its frame: message 9, yamux 12, Noise 18, TCP and IPv4 40."""
END_BYTES = 80
"""A final statement."""
TOKEN_S, JITTER_S = 0.025, 0.002
Trace = list[tuple[float, int]]
"""(second, bytes of frames) of what leaves together: the muxer writes it as one message."""
View = Callable[[Trace], Sequence[float]]


def passages(n: int, seed: int = 5) -> list[list[str]]:
    """Real prose, cut at random: this project's own specs."""
    rng = random.Random(seed)
    folder = Path(__file__).parents[2] / "specs"
    text = " ".join(path.read_text("utf-8") for path in sorted(folder.glob("*.md")))
    words = [f" {word}" for word in re.findall(r"[A-Za-z']+|[.,;:!?]", text)]
    cuts = [(rng.randrange(len(words) - 400), rng.randrange(100, 401)) for _ in range(n)]
    return [words[start : start + length] for start, length in cuts]


def trace(words: list[str], rng: random.Random, *, interval_s: float, pad: int, has_end: bool) -> Trace:
    """One answer as it leaves its provider."""
    policy, seen, now = FlushPolicy(interval_s), Counter[float](), 0.3

    def send(deltas: list[Delta], at: float) -> None:
        for delta in deltas:
            seen[at] += round_up(4 + len(encode_delta(delta)), pad) + FRAME_OVERHEAD_BYTES

    for number, word in enumerate(words):
        now += max(JITTER_S, rng.gauss(TOKEN_S, JITTER_S))
        due = policy.due_at
        if due is not None and due <= now:
            send(policy.flush(due), due)
        send(policy.add(Delta(0, word, (1000 + number,)), now), now)
    send(policy.finish(), now)
    end = last_frame(seen.total(), END_BYTES) if has_end else FINAL_PAD_BYTES
    seen[now] += end + FRAME_OVERHEAD_BYTES
    return list(seen.items())


POLICIES = {
    "a frame a token": {"interval_s": 0.0, "pad": 1, "has_end": False},
    "100 ms": {"interval_s": FLUSH_INTERVAL_S, "pad": 1, "has_end": False},
    "100 ms, pad 64": {"interval_s": FLUSH_INTERVAL_S, "pad": FRAME_PAD_BYTES, "has_end": False},
    "100 ms, pad 64, end": {"interval_s": FLUSH_INTERVAL_S, "pad": FRAME_PAD_BYTES, "has_end": True},
}
VIEWS: dict[str, View] = {
    "sizes": lambda seen: [size for _, size in seen],
    "bytes": lambda seen: [sum(size for _, size in seen)],
    "traffic": lambda seen: [sum(size + PACKET_BYTES for _, size in seen)],
    "duration": lambda seen: [seen[-1][0] - seen[0][0]],
}


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Sum of differences; what one has more counts in full."""
    short = min(len(one), len(other))
    rest = sum(one[short:]) + sum(other[short:])
    return rest + sum(abs(a - b) for a, b in zip(one, other, strict=False))


def attack(texts: list[list[str]], policy: str, view: str) -> float:
    """Fraction of answers that the attacker names."""
    rngs = random.Random(1), random.Random(2)
    known, seen = ([VIEWS[view](trace(text, rng, **POLICIES[policy])) for text in texts] for rng in rngs)
    ties, named = random.Random(3), 0
    for answer, looked_at in enumerate(seen):
        distances = [distance(looked_at, other) for other in known]
        nearest = min(distances)
        named += ties.choice([i for i, d in enumerate(distances) if d == nearest]) == answer
    return named / len(texts)


def wire_ratio(texts: list[list[str]], policy: str) -> float:
    """Bytes of frames for each byte of text."""
    rng = random.Random(1)
    sent = sum(size for text in texts for _, size in trace(text, rng, **POLICIES[policy]))
    return sent / sum(len("".join(text).encode()) for text in texts)


def main() -> None:
    texts = passages(300)
    for policy in POLICIES:
        named = "  ".join(f"{view} {attack(texts, policy, view):6.1%}" for view in VIEWS)
        print(f"{policy:22} {wire_ratio(texts, policy):4.1f} x   {named}")


if __name__ == "__main__":
    main()
