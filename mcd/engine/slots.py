"""Slot and cell policy of the engine, pure: where a prompt goes, what it may reuse, who must make room.

A cell holds one token of one sequence in the KV memory. A busy slot owns the cells of its whole request from the
moment it is admitted, so it never fails for room half-way. An idle slot keeps what it computed as a prefix cache
and gives it up to whoever needs the cells. Shared cells are counted once per sequence: more than they take, never
less, so eviction of one owner cannot overdraw the memory.

Not every memory can be cut where two prompts part. A recurrent state knows only its newest token; a sliding window
has forgotten what lies before it. Such a sequence can be continued where it ends, or where a checkpoint was taken
(`Cuts`, `reach`). Checkpoints are taken where prompts are expected to part: at the end of each prompt, where a prompt
parts from one seen before, and every CHECKPOINT_TOKENS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from mcd.engine.spans import Span, whole
from mcd.units import Seconds

MIN_REUSE_TOKENS = 16
"""A shorter common prefix (a template's opening) is computed again: cheaper than losing a longer cache."""
MIN_HOLD_TOKENS = 64
"""A prompt waits for another's prefill only if that saves it at least this many tokens."""
CHECKPOINT_TOKENS = 2048
"""Between two checkpoints of a long prompt: what a prompt that parts from it anywhere computes again at most."""
MARK_STEP = 32
"""Prompts that part at one place by intent (after a shared instruction) share a few tokens more by chance, each pair
its own number; a checkpoint at a multiple of this, a whole one earlier, serves nearly all of them."""
MAX_IDLE_CACHE_S: Seconds = 600.0
"""A prefix cache nobody came back to for so long is forgotten: most conversations have gone on or ended by then."""
MAX_MARKS = 64
"""Places of one prompt where a checkpoint is wanted; a prompt of 128k tokens has as many regular ones."""


class Cuts(msgspec.Struct, frozen=True):
    """Where a model's memory can be cut."""

    window: int = 0
    """Tokens a sliding window looks back on; 0: all of them."""
    is_recurrent: bool = False
    """Some layers keep one state instead of a cell a token."""

    @property
    def anywhere(self) -> bool:
        """Plain attention: every prefix of a sequence is still there."""
        return not self.window and not self.is_recurrent


ANYWHERE = Cuts()


class Slot:
    """One sequence of the KV memory. Owner: Scheduler; changed by it and by `plan`'s caller."""

    __slots__ = (
        "cache_key", "checkpoints", "first_kept", "index", "is_busy", "last_used", "marks", "planned", "reserved",
        "spans", "tokens",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_busy = False
        self.tokens: list[int] = []
        """What the KV memory holds for this slot, in order."""
        self.spans: Sequence[Span] = ()
        """Pictures of the prompt; all that lie in ``tokens`` are among them."""
        self.planned: Sequence[int] = ()
        """The prompt a busy slot is still computing; ``tokens`` becomes its prefix step by step."""
        self.cache_key = ""
        """Only requests with the same key may reuse the tokens."""
        self.reserved = 0
        """Cells a busy slot may come to use."""
        self.last_used = 0.0
        self.first_kept = 0
        """The oldest position whose cell a sliding window has not given away."""
        self.checkpoints: list[int] = []
        """Numbers of tokens, ascending, at which the memory's state was kept."""
        self.marks: list[int] = []
        """Numbers of tokens, ascending, at which it is to be kept."""

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


def is_live(slot: Slot, n_tokens: int, cuts: Cuts, *, is_copy: bool) -> bool:
    """Whether what the slot holds now can be continued after its first ``n_tokens``, without a checkpoint."""
    n_held = len(slot.tokens)
    if cuts.anywhere or n_tokens == n_held:
        return True
    if cuts.is_recurrent:
        return False
    # a copy of a window takes along only what its end still looks at
    first = max(slot.first_kept, n_held - cuts.window) if is_copy else slot.first_kept
    return first <= max(0, n_tokens - cuts.window)


def reach(slot: Slot, n_shared: int, cuts: Cuts, *, is_copy: bool) -> int:
    """Most of the first ``n_shared`` tokens that can be reused."""
    if is_live(slot, n_shared, cuts, is_copy=is_copy):
        return n_shared
    return max((n for n in slot.checkpoints if n <= n_shared), default=0)


def place(
    slots: Sequence[Slot], prompt: list[int], cache_key: str, n_cells_wanted: int, n_cells: int, *, cuts: Cuts
) -> Placement | None:
    """Find room for a prompt; None when it must wait.

    Args:
        slots: All slots.
        prompt: Its tokens; at least the last is always computed, for its logits.
        cache_key: Whose caches it may reuse.
        n_cells_wanted: Prompt and answer.
        n_cells: Size of the KV memory.
        cuts: What the model's memory allows.
    """
    idle = [slot for slot in slots if not slot.is_busy]
    if not idle:
        return None
    source, n_reused = _best_source(slots, prompt, cache_key, cuts)
    slot = _target(idle, source, n_reused)
    if source is not None and source is not slot:
        n_reused = reach(source, _shared(source.tokens, prompt), cuts, is_copy=True)
        if n_reused < MIN_REUSE_TOKENS:
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


def must_hold(slots: Sequence[Slot], prompt: list[int], cache_key: str, cuts: Cuts = ANYWHERE) -> bool:
    """Whether waiting for a prefill under way spares this prompt a good part of its own.

    Where memories cannot be cut, the prefill is asked to keep a checkpoint where the two prompts part.
    """
    mine = [slot for slot in slots if slot.cache_key == cache_key]
    best, n_best = None, 0
    for slot in mine:
        if slot.is_busy and (n_ahead := _promise(slot, prompt, cuts)) > n_best:
            best, n_best = slot, n_ahead
    if best is None or n_best < MIN_HOLD_TOKENS:
        return False
    n_now = max((reach(s, _shared(s.tokens, prompt), cuts, is_copy=True) for s in mine), default=0)
    if n_best - n_now < MIN_HOLD_TOKENS:
        return False
    if not cuts.anywhere:
        best.marks = sorted({*best.marks, n_best})[-MAX_MARKS:]
    return cuts.anywhere or n_best in best.marks


def share_prefill(left: Sequence[int], n_rows: int) -> list[tuple[int, int]]:
    """Divide a step's rows among prompts under way: (which, rows), the oldest first in ``left``.

    Half goes to the oldest, so that it ends; the rest to the shortest first, so that a question does not wait for a
    book. Whatever they leave goes to the oldest again.
    """
    shares = dict.fromkeys(range(len(left)), 0)
    first = min(left[0], n_rows // 2) if len(left) > 1 else min(left[0], n_rows)
    shares[0], n_rows = first, n_rows - first
    for index in (*sorted(range(1, len(left)), key=left.__getitem__), 0):
        more = min(left[index] - shares[index], n_rows)
        shares[index] += more
        n_rows -= more
    return [(index, n) for index, n in shares.items() if n]


class Claim(Protocol):
    """A request whose choices want slots."""

    id: int
    asker: int
    max_slots: int


def in_turn(waiting: Sequence[Claim], running: Sequence[Claim]) -> list[int]:
    """Indices of those of ``waiting`` that may have a slot, in the order of their turns; one claim for each choice.

    First choices in order of arrival: the daemon gave their requests a slot each. It cannot know of further ones. They
    come after these, first of whose asker holds fewest, and nobody gets more than ``max_slots``.   [EX-46]
    """
    n_slots = Counter(claim.id for claim in running)
    n_of_asker = Counter(claim.asker for claim in running)
    n_held = n_of_asker.copy()
    ranks = []
    for claim in waiting:
        ranks.append(n_of_asker[claim.asker] if n_slots[claim.id] else 0)
        n_slots[claim.id] += 1
        n_of_asker[claim.asker] += 1
    turns = []
    for index in sorted(range(len(waiting)), key=ranks.__getitem__):
        claim = waiting[index]
        if not claim.max_slots or n_held[claim.asker] < claim.max_slots:
            turns.append(index)
            n_held[claim.asker] += 1
    return turns


def _promise(slot: Slot, prompt: list[int], cuts: Cuts) -> int:
    """How much of the prompt a slot's prefill will leave to reuse."""
    n_shared = _shared(slot.planned, prompt)
    if cuts.anywhere:
        return n_shared
    mark = whole(prompt, _mark(n_shared))
    return mark if mark > len(slot.tokens) else 0


def marks_of(slots: Sequence[Slot], slot: Slot, prompt: list[int]) -> list[int]:
    """Where a prompt just placed should leave checkpoints: near its end, where others part from it, and regularly.

    The last but one token is the place from which the very same prompt can be continued.
    """
    done = len(slot.tokens)
    parted = (_mark(_shared(s.tokens, prompt)) for s in slots if s is not slot and s.cache_key == slot.cache_key)
    wanted = {len(prompt) - 1, *(n for n in parted if n >= MIN_HOLD_TOKENS)}
    wanted.update(range(CHECKPOINT_TOKENS, len(prompt), CHECKPOINT_TOKENS))
    return sorted({n for n in (whole(prompt, n) for n in wanted) if done < n < len(prompt)})[-MAX_MARKS:]


def _best_source(slots: Sequence[Slot], prompt: list[int], cache_key: str, cuts: Cuts) -> tuple[Slot | None, int]:
    best: Slot | None = None
    n_best = MIN_REUSE_TOKENS - 1
    for slot in slots:
        if slot.cache_key != cache_key or not slot.tokens:
            continue
        n_shared = reach(slot, _shared(slot.tokens, prompt), cuts, is_copy=slot.is_busy)
        if n_shared > n_best or (n_shared == n_best and best is not None and best.is_busy and not slot.is_busy):
            best, n_best = slot, n_shared
    return (best, n_best) if best is not None else (None, 0)


def _target(idle: list[Slot], source: Slot | None, n_reused: int) -> Slot:
    """The source itself when little of its cache is lost by that, else an empty slot, else the oldest cache."""
    others = sorted((s for s in idle if s is not source), key=lambda s: (bool(s.tokens), s.last_used))
    if source is not None and not source.is_busy and (2 * n_reused >= len(source.tokens) or not others):
        return source
    return others[0] if others else idle[0]


def _shared(tokens: Sequence[int], prompt: list[int]) -> int:
    return whole(prompt, min(common_prefix(tokens, prompt), len(prompt) - 1))


def _mark(n_shared: int) -> int:
    return max(0, n_shared // MARK_STEP - 1) * MARK_STEP
