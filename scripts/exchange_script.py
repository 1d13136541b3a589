"""A story of one exchange: two real machines play it, and what they do is written down."""

from __future__ import annotations

from typing import Any

from mcd.errors import LocalProtocolError, RemoteProtocolError
from mcd.exchange.events import NEED_DATA, Event, PeerClosed
from mcd.exchange.exchange import Exchange
from mcd.exchange.states import Role
from mcd.wire.messages import ExchangeMessage


def as_json(value: ExchangeMessage | Event) -> dict[str, Any]:
    """A message or event with its name and its fields, bytes as hex, enums by their value."""
    kind = "message" if type(value).__mro__[1].__name__ == "Message" else "event"
    fields = {name: getattr(value, name) for name in value.__struct_fields__ if name != "message"}
    shown: dict[str, Any] = {kind: type(value).__name__}
    for name, item in fields.items():
        shown[name] = item.hex() if isinstance(item, bytes) else getattr(item, "value", item)
    if kind == "event" and hasattr(value, "message"):
        inner = as_json(value.message)
        inner.pop("message")
        shown |= inner
    return shown


def events_of(exchange: Exchange) -> list[dict[str, Any]]:
    """Everything that happened, the end of the other half once."""
    shown: list[dict[str, Any]] = []
    while (event := exchange.next_event()) is not NEED_DATA:
        shown.append(as_json(event))
        if isinstance(event, PeerClosed):
            break
    return shown


class Script:
    """Plays a story with two exchanges and writes down each step."""

    def __init__(self, comment: str, *spec: str) -> None:
        self.vector: dict[str, Any] = {"comment": comment, "spec": list(spec), "steps": []}
        self._now_s = 0.0
        self._ends = {role: Exchange(role, 0.0) for role in Role}
        self._wire: dict[Role, list[bytes]] = {role: [] for role in Role}

    def send(self, role: Role, *messages: ExchangeMessage) -> Script:
        """Send without delivering."""
        for message in messages:
            step: dict[str, Any] = {"send": as_json(message)}
            try:
                data = self._ends[role].send(message, self._now_s)
            except LocalProtocolError as error:
                step["error"] = error.code
            else:
                step["bytes"] = data.hex()
                self._wire[role].append(data)
            self._note(role, step)
        return self

    def close(self, role: Role) -> Script:
        """End the half, without delivering that."""
        step: dict[str, Any] = {"close": True}
        try:
            self._ends[role].close(self._now_s)
        except LocalProtocolError as error:
            step["error"] = error.code
        else:
            self._wire[role].append(b"")
        self._note(role, step)
        return self

    def arrive(self, sender: Role) -> Script:
        """Deliver what the sender put on the wire."""
        for data in self._wire[sender]:
            self.receive(sender.other, data)
        self._wire[sender].clear()
        return self

    def say(self, role: Role, *messages: ExchangeMessage) -> Script:
        """Send, each delivered at once."""
        for message in messages:
            self.send(role, message).arrive(role)
        return self

    def receive(self, role: Role, data: bytes) -> Script:
        """Let bytes arrive that nobody of ours sent; empty for the end of the other half."""
        step: dict[str, Any] = {"recv": data.hex()}
        self._ends[role].receive_data(data, self._now_s)
        try:
            step["events"] = events_of(self._ends[role])
        except RemoteProtocolError as error:
            step["error"] = error.code
        self._note(role, step)
        return self

    def at(self, now_s: float) -> Script:
        """Let time pass."""
        self._now_s = now_s
        return self

    def expire(self, role: Role) -> Script:
        """Let the timers of a side run out."""
        data = self._ends[role].handle_timeout(self._now_s)
        if data:
            self._wire[role].append(data)
        self._note(role, {"timeout": True, "bytes": data.hex(), "events": events_of(self._ends[role])})
        return self

    def ends(self, entry: str, provider: str) -> dict[str, Any]:
        """The script, after making sure that the story ended as it should."""
        states = (self._ends[Role.ENTRY].state.value, self._ends[Role.PROVIDER].state.value)
        if states != (entry, provider):
            raise AssertionError(f"{self.vector['comment']}: ended in {states}")
        return self.vector

    def _note(self, role: Role, step: dict[str, Any]) -> None:
        now = {"now_s": self._now_s} if self._now_s else {}
        self.vector["steps"].append({"role": role.value, **now, **step, "state": self._ends[role].state.value})
