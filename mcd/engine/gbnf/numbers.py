"""Numbers within bounds, digit by digit.   Pure."""

from __future__ import annotations

from typing import Any

from mcd.engine.gbnf.rules import Rules

MAX_DIGITS = 16
"""More are not exact in a double, which most clients read numbers into."""
_MOST = 10**MAX_DIGITS - 1


def integer(rules: Rules, node: dict[str, Any]) -> str:
    """An integer from ``minimum`` to ``maximum``."""
    low, high = _bounds(rules, node)
    if low is None and high is None:
        return rules.shared("integer")
    low, high = -_MOST if low is None else low, _MOST if high is None else high
    return rules.rule("integer-range", " | ".join(_integers(rules, low, high)))


def number(rules: Rules, node: dict[str, Any]) -> str:
    """A number from ``minimum`` to ``maximum``, which must be whole; without exponent where they are given."""
    if not node.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}:
        return rules.shared("number")
    lows = [node[key] for key in ("minimum", "exclusiveMinimum") if key in node]
    highs = [node[key] for key in ("maximum", "exclusiveMaximum") if key in node]
    if not all(_is_whole(bound) for bound in (*lows, *highs)):
        raise rules.fault("keyword minimum or maximum of a number must be a whole number here")
    low, high = max(map(int, lows), default=-_MOST), min(map(int, highs), default=_MOST)
    takes_low = node.get("exclusiveMinimum") != low
    takes_high = node.get("exclusiveMaximum") != high
    parts: list[str] = []
    if takes_low and low <= high and (takes_high or low < high):
        parts.append(f'"{low}"')
    if takes_high and low < high:
        parts.append(f'"{high}"')
    # between two whole numbers: the nearer one to zero and a fraction that is not nothing
    some = '"." [0-9]{0,15} [1-9]'
    above, below = max(low, 0), min(high, 0)
    if above < high:
        parts.append(f"({' | '.join(_integers(rules, above, high - 1))}) {some}")
    if low < below:
        parts.append(f'"-" ({" | ".join(_integers(rules, -below, -low - 1))}) {some}')
    if low + 1 <= high - 1:
        parts += _integers(rules, low + 1, high - 1)
    if not parts:
        raise rules.fault("no number lies between its minimum and maximum")
    return rules.rule("number-range", " | ".join(parts))


def _bounds(rules: Rules, node: dict[str, Any]) -> tuple[int | None, int | None]:
    low: int | None = None
    high: int | None = None
    for key, value in node.items():
        if key not in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST:
            raise rules.fault(f"keyword {key} must be a number of at most {MAX_DIGITS} digits")
        if key.endswith("inimum"):
            bound = int(value // 1) + (value % 1 != 0 or key.startswith("e"))
            low = bound if low is None else max(low, bound)
        else:
            bound = int(value // 1) - (key.startswith("e") and value % 1 == 0)
            high = bound if high is None else min(high, bound)
    if low is not None and high is not None and low > high:
        raise rules.fault("no integer lies between its minimum and maximum")
    return low, high


def _is_whole(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST and value == int(value)
    )


def _integers(rules: Rules, low: int, high: int) -> list[str]:
    """Alternatives for all integers of a range."""
    parts: list[str] = []
    if low < 0:
        parts += [f'"-" ({" | ".join(_naturals(max(1, -high), -low))})']
        low = 0
    if high >= low:
        parts += _naturals(low, high)
    return parts


def _naturals(low: int, high: int) -> list[str]:
    """Alternatives for numbers without sign: one length of digits after another."""
    parts: list[str] = []
    while low <= high:
        n_digits = len(str(low))
        top = min(high, 10**n_digits - 1)
        parts.append(_same_length(str(low), str(top)))
        low = top + 1
    return parts


def _same_length(low: str, high: str) -> str:
    """Numbers of equally many digits."""
    if low == high:
        return f'"{low}"' if low else ""
    rest = len(low) - 1
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    first, last = int(low[0]), int(high[0])
    parts: list[str] = []
    if rest and low[1:] != "0" * rest:
        parts.append(f'"{first}" ({_same_length(low[1:], "9" * rest)})')
        first += 1
    ends_early = bool(rest) and high[1:] != "9" * rest
    last -= ends_early
    if first <= last:
        digits = f"[{first}-{last}]" if first < last else f'"{first}"'
        parts.append(f"{digits} [0-9]{{{rest}}}" if rest else digits)
    if ends_early:
        parts.append(f'"{high[0]}" ({_same_length("0" * rest, high[1:])})')
    return " | ".join(parts)
