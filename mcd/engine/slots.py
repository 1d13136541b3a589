"""Slot and cell policy of the engine, pure: where a prompt goes, what it may reuse, who must make room.

A cell holds one token of one sequence in the KV memory. A busy slot owns the cells of its whole request from the
moment it is admitted, so it never fails for room half-way. An idle slot keeps what it computed as a prefix cache
and gives it up to whoever needs the cells. Shared cells are counted once per sequence: more than they take, never
less, so eviction of one owner cannot overdraw the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_REUSE_TOKENS = 16
"""A shorter common prefix (a template's opening) is computed again: cheaper than losing a longer cache."""
MIN_HOLD_TOKENS = 64
"""A prompt waits for another's prefill only if that saves it at least this many tokens."""


class Slot:
    """One sequence of the KV memory. Owner: Scheduler; changed by it and by `plan`'s caller."""

    __slots__ = ("cache_key", "index", "is_busy", "last_used", "planned", "reserved", "tokens")

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_busy = False
        self.tokens: list[int] = []
        """What the KV memory holds for this slot, in order."""
        self.planned: Sequence[int] = ()
        """The prompt a busy slot is still computing; ``tokens`` becomes its prefix step by step."""
        self.cache_key = ""
        """Only requests with the same key may reuse the tokens."""
        self.reserved = 0
        """Cells a busy slot may come to use."""
        self.last_used = 0.0

    def n_cells(self) -> int:
        """Cells to count for this slot."""
        return max(self.reserved, len(self.tokens)) if self.is_busy else len(self.tokens)


class Placement:
    """Where a prompt goes. ``source`` is the slot whose first ``n_reused`` tokens it takes; it may be ``slot``."""

    __slots__ = ("evict", "n_reused", "slot", "source")

    def __init__(self, slot: Slot, source: Slot | None, n_reused: int, evict: list[Slot]) -> None:
        self.slot = slot
        self.source = source
        self.n_reused = n_reused
        self.evict = evict
        """Idle slots whose cache must be cleared first, ``slot`` itself not among them."""


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix; compares slices, which C does, instead of items."""
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    low, high = 0, limit  # first[:low] is equal, first[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def place(
    slots: Sequence[Slot], prompt: list[int], cache_key: str, n_cells_wanted: int, n_cells: int, *, can_cut: bool
) -> Placement | None:
    """Find room for a prompt; None when it must wait.

    Args:
        slots: All slots.
        prompt: Its tokens; at least the last is always computed, for its logits.
        cache_key: Whose caches it may reuse.
        n_cells_wanted: Prompt and answer.
        n_cells: Size of the KV memory.
        can_cut: False for recurrent memories: only a whole idle cache can be continued.
    """
    idle = [slot for slot in slots if not slot.is_busy]
    if not idle:
        return None
    source, n_reused = _best_source(slots, prompt, cache_key, can_cut=can_cut)
    slot = _target(idle, source, n_reused, can_cut=can_cut)
    if source is not None and source is not slot and not can_cut:
        source, n_reused = None, 0
    room = n_cells - sum(s.n_cells() for s in slots if s.is_busy) - n_cells_wanted
    if room < 0:
        return None
    evict: list[Slot] = []
    keep = [s for s in idle if s is not slot]
    # the source last: its cells are copied before it is cleared
    for victim in sorted(keep, key=lambda s: (s is source, s.last_used)):
        if sum(s.n_cells() for s in keep) <= room:
            break
        keep.remove(victim)
        evict.append(victim)
    return Placement(slot, source, n_reused, evict)


def must_hold(slots: Sequence[Slot], prompt: list[int], cache_key: str) -> bool:
    """Whether waiting for a prefill under way spares this prompt a good part of its own."""
    ahead = max((_shared(s.planned, prompt) for s in slots if s.is_busy and s.cache_key == cache_key), default=0)
    if ahead < MIN_HOLD_TOKENS:
        return False
    now = max((_shared(s.tokens, prompt) for s in slots if s.cache_key == cache_key), default=0)
    return ahead - now >= MIN_HOLD_TOKENS


def _best_source(slots: Sequence[Slot], prompt: list[int], cache_key: str, *, can_cut: bool) -> tuple[Slot | None, int]:
    best: Slot | None = None
    n_best = MIN_REUSE_TOKENS - 1
    for slot in slots:
        if slot.cache_key != cache_key or not slot.tokens:
            continue
        n_shared = _shared(slot.tokens, prompt)
        if not can_cut and (slot.is_busy or n_shared != len(slot.tokens)):
            continue
        if n_shared > n_best or (n_shared == n_best and best is not None and best.is_busy and not slot.is_busy):
            best, n_best = slot, n_shared
    return (best, n_best) if best is not None else (None, 0)


def _target(idle: list[Slot], source: Slot | None, n_reused: int, *, can_cut: bool) -> Slot:
    """The source itself when little of its cache is lost by that, else an empty slot, else the oldest cache."""
    others = sorted((s for s in idle if s is not source), key=lambda s: (bool(s.tokens), s.last_used))
    if source is not None and not source.is_busy and (not can_cut or 2 * n_reused >= len(source.tokens) or not others):
        return source
    return others[0] if others else idle[0]


def _shared(tokens: Sequence[int], prompt: list[int]) -> int:
    return min(common_prefix(tokens, prompt), len(prompt) - 1)
