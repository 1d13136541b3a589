"""The scripted exchanges of protocol/vectors/exchange, played from their bytes against real exchanges.

Written as a second implementation would have to: it knows the form that specs/05 states and nothing of the script
that made the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.exchange.events import NEED_DATA, PeerClosed, TimedOut
from mcd.exchange.exchange import Exchange
from mcd.exchange.states import Role, State
from mcd.wire import messages
from scripts import draw_states, make_exchange_vectors

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors" / "exchange"
FILES = ("answers.json", "ends.json", "faults.json")
VECTORS = [vector for name in FILES for vector in json.loads((FOLDER / name).read_text("utf-8"))]


def message_of(given: dict[str, Any]) -> messages.ExchangeMessage:
    kind = getattr(messages, given["message"])
    fields = {name: value for name, value in given.items() if name != "message"}
    return kind(**{name: bytes.fromhex(v) if isinstance(v, str) else v for name, v in fields.items()})


def shown(event: Any) -> dict[str, Any]:
    if isinstance(event, PeerClosed):
        return {"event": "PeerClosed", "is_truncated": event.is_truncated}
    if isinstance(event, TimedOut):
        return {"event": "TimedOut", "timer": event.timer.value}
    fields = {name: getattr(event.message, name) for name in event.message.__struct_fields__}
    return {"event": type(event).__name__} | {
        name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()
    }


def events_of(end: Exchange) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    while (event := end.next_event()) is not NEED_DATA:
        seen.append(shown(event))
        if isinstance(event, PeerClosed):
            break
    return seen


def play(end: Exchange, step: dict[str, Any]) -> dict[str, Any]:
    """Do one step and say what came of it, in the words of the vector."""
    now_s = step.get("now_s", 0.0)
    try:
        if "send" in step:
            return {"bytes": end.send(message_of(step["send"]), now_s).hex()}
        if "close" in step:
            end.close(now_s)
            return {}
        if "timeout" in step:
            return {"bytes": end.handle_timeout(now_s).hex(), "events": events_of(end)}
        end.receive_data(bytes.fromhex(step["recv"]), now_s)
        return {"events": events_of(end)}
    except (LocalProtocolError, RemoteProtocolError) as error:
        return {"error": error.code}


@pytest.mark.spec("EX-01", "EX-02", "EX-03", "EX-04", "EX-05", "EX-06", "EX-07", "EX-09", "EX-10", "EX-11")
@pytest.mark.spec("EX-20", "EX-21", "EX-22", "EX-23", "EX-25", "EX-27", "EX-30", "EX-31", "EX-42")
@pytest.mark.spec("EX-50", "EX-51", "EX-52")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["comment"])
def test_script(vector: dict[str, Any]) -> None:
    ends = {role: Exchange(role, 0.0) for role in Role}
    for number, step in enumerate(vector["steps"]):
        end = ends[Role(step["role"])]
        came = play(end, step)
        assert came == {name: step[name] for name in ("bytes", "events", "error") if name in step}, number
        assert end.state is State(step["state"]), number


def test_every_state_event_and_message_occurs_in_a_script() -> None:
    steps = [step for vector in VECTORS for step in vector["steps"]]
    assert {step["state"] for step in steps} == {state.value for state in State}
    sent = {step["send"]["message"] for step in steps if "send" in step}
    assert sent == {kind.__name__ for kind in messages.ExchangeMessage.__args__}
    seen = {event["event"] for step in steps for event in step.get("events", ())}
    assert len(seen) == len(sent) + 2, "one event for each message, PeerClosed and TimedOut"


def test_the_files_and_the_drawn_tables_are_up_to_date() -> None:
    assert make_exchange_vectors.main(["--check"]) == 0
    assert draw_states.main(["--check"]) == 0
