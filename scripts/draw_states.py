"""Draw the exchange's tables into specs/05-exchange.md; `--check` only says whether they are up to date.

The code's table is the one that runs, so the spec's is made from it: picture, table and timers cannot drift apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mcd.exchange.states import ABSORBING, TERMINAL, TIMERS, TRANSITIONS, Closed, Role, State, Step

ROOT = Path(__file__).resolve().parent.parent
TARGET = "specs/05-exchange.md"
SINCE = {
    "entered": "the state was entered",
    "heard": "the newest message of the provider",
    "output": "the newest output",
    "requested": "the request",
}


def _name(step: Step) -> str:
    return "close" if step is Closed else step.__name__


def picture() -> list[str]:
    """A mermaid diagram of the moves that change the state; aborts and closes are left to the table."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> IDLE"]
    moves: dict[tuple[State, State], list[str]] = {}
    for (state, sender, step), after in TRANSITIONS.items():
        if after is not state and after not in ABSORBING:
            moves.setdefault((state, after), []).append(f"{sender.value} {_name(step)}")
    for (state, after), labels in moves.items():
        lines.append(f"    {state.name} --> {after.name}: {', '.join(labels)}")
    lines += [f"    {state.name} --> [*]" for state in State if state in TERMINAL - ABSORBING]
    return [*lines, "```"]


def _cell(state: State, sender: Role) -> str:
    groups: dict[State, list[str]] = {}
    for (at, who, step), after in TRANSITIONS.items():
        if at is state and who is sender:
            groups.setdefault(after, []).append(_name(step))
    parts = []
    for after, names in groups.items():
        shown = ", ".join(f"`{name}`" if name != "close" else name for name in names)
        parts.append(shown if after is state else f"{shown} -> `{after.name}`")
    return "; ".join(parts)


def table() -> list[str]:
    """One row a state: what each side may do there, and where it leads; no arrow means that the state stays."""
    return [
        "| state | the entry may | the provider may |",
        "|---|---|---|",
        *(
            f"| `{state.name}` | {_cell(state, Role.ENTRY) or 'nothing'} | {_cell(state, Role.PROVIDER) or 'nothing'} |"
            for state in State
            if state not in ABSORBING
        ),
    ]


def timers() -> list[str]:
    """One row a timer."""
    lines = ["| timer | watched by | in | limit | counted from | code |", "|---|---|---|---|---|---|"]
    for rule in TIMERS:
        states = ", ".join(f"`{state.name}`" for state in rule.states)
        code = "none" if rule.timer.name == "LINGER" else f"`{rule.code.name}`"
        limit = f"{rule.limit_s:g} s" + (" and what was promised [EX-55]" if rule.since == "output" else "")
        cells = [f"`{rule.timer.name}`", rule.role.value, states, limit, SINCE[rule.since], code]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _between(text: str, mark: str, lines: list[str]) -> str:
    begin, end = f"<!-- {mark}: begin (scripts/draw_states.py) -->\n", f"<!-- {mark}: end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}"


def drawn(text: str) -> str:
    """The spec's text with its tables drawn anew."""
    text = _between(text, "states", [*picture(), "", *table()])
    return _between(text, "timers", timers())


def main(arguments: list[str]) -> int:
    """Write the spec, or with `--check` compare it; 1 on a difference."""
    path = ROOT / TARGET
    old = path.read_text("utf-8")
    new = drawn(old)
    if "--check" not in arguments:
        path.write_text(new, "utf-8")
        return 0
    if new != old:
        print(f"draw_states: {TARGET} differs from mcd/exchange/states.py; run scripts/draw_states.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
