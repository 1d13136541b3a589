"""Who stays in memory: which models are loaded at the start, and who makes room for another. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mcd.units import Seconds


class Resident(msgspec.Struct, frozen=True):
    """A loaded model."""

    index: int
    n_bytes: int
    """What its unloading gives back."""
    must_stay: bool
    """Requests run or wait there, or it has only just come: it is not unloaded now."""
    used_at: Seconds


def start_plan(leasts: Sequence[int], room_bytes: int) -> tuple[int, ...]:
    """Indices of the models that are loaded at the start: each in the operator's order that still fits.

    Args:
        leasts: What each takes at least.
        room_bytes: What all together may take.
    """
    chosen: list[int] = []
    for index, least in enumerate(leasts):
        if least <= room_bytes:
            chosen.append(index)
            room_bytes -= least
    return tuple(chosen)


def shares(leasts: Sequence[int], room_bytes: int) -> tuple[int, ...]:
    """What each of several models that are loaded together may take: its least, and a like part of the rest."""
    spare = max(0, room_bytes - sum(leasts)) // max(1, len(leasts))
    return tuple(least + spare for least in leasts)


def make_room(least: int, room_bytes: int, residents: Sequence[Resident]) -> tuple[int, ...] | None:
    """Whom to unload, the one used longest ago first, until ``least`` fits; None when that is not enough now."""
    victims: list[int] = []
    for resident in sorted(residents, key=lambda resident: resident.used_at):
        if least <= room_bytes:
            break
        if not resident.must_stay:
            victims.append(resident.index)
            room_bytes += resident.n_bytes
    return tuple(victims) if least <= room_bytes else None
