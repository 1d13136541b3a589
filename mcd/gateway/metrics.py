"""What the gateway counts, and Prometheus' text of it; names follow OpenTelemetry's gen_ai conventions.   [GW-60]

Every label comes from a closed set of ours. Nothing is counted by user, address, prompt or foreign name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from mcd.gateway.bridge import BridgeStats
from mcd.ports import DaemonStatus
from mcd.units import Seconds
from mcd.wire.payload import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_CHAT = 'gen_ai_operation_name="chat"'


class Histogram:
    """Counts of values at or below each bound."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], labels: str = _CHAT) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._labels = labels
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, with_head: bool = True) -> Iterator[str]:
        """Yield Prometheus' lines; one of several series of a name has no head of its own."""
        if with_head:
            yield f"# HELP {self._name} {self._text}"
            yield f"# TYPE {self._name} histogram"
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{self._name}_bucket{{{self._labels},le="{bound}"}} {total}'
        yield f"{self._name}_sum{{{self._labels}}} {self._sum:.9g}"
        yield f"{self._name}_count{{{self._labels}}} {total}"


class Metrics:
    """The gateway's counters. Owner: `mcd.daemon`; the daemon's status counts its requests itself."""

    def __init__(self) -> None:
        self.n_requests = 0
        """Chat requests that were well formed."""
        self.n_failed = 0
        """Of those, ended by an error that was not the caller's."""
        self.n_cancelled = 0
        """Of those, ended by the client leaving."""
        self._responses: Counter[tuple[str, int]] = Counter()
        self._errors: Counter[str] = Counter()
        self._tasks: Counter[tuple[str, str]] = Counter()
        self._ttft = Histogram("gen_ai_server_time_to_first_token_seconds", "Request to first token.", _TTFT_S)
        self._duration = Histogram("gen_ai_server_request_duration_seconds", "Request to last token.", _DURATION_S)
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Mean time of tokens after the first.", _PER_TOKEN_S
        )
        usage = "gen_ai_client_token_usage"
        self._prompt = Histogram(usage, "Tokens of answered requests.", _TOKENS, f'{_CHAT},gen_ai_token_type="input"')
        self._output = Histogram(usage, "", _TOKENS, f'{_CHAT},gen_ai_token_type="output"')

    def responded(self, route: str, status: int) -> None:
        """Count one HTTP response; ``route`` is our name of an endpoint."""
        self._responses[route, status] += 1

    def failed(self, code: str, *, is_ours: bool) -> None:
        """Count one chat error by its code; ``is_ours`` tells it from the caller's fault."""
        self._errors[code] += 1
        self.n_failed += is_ours

    def task_ended(self, kind: str, outcome: str) -> None:
        """Count one request of a kind that generates nothing, by its error code or ``ok`` or ``cancelled``."""
        self._tasks[kind, outcome] += 1

    def first_token(self, ttft_s: Seconds) -> None:
        """Count the time to one answer's first token."""
        self._ttft.observe(ttft_s)

    def answered(self, usage: Usage, ttft_s: Seconds, duration_s: Seconds) -> None:
        """Count one complete answer."""
        self._prompt.observe(usage.n_prompt_tokens)
        self._output.observe(usage.n_output_tokens)
        self._duration.observe(duration_s)
        if usage.n_output_tokens > 1:
            self._per_token.observe((duration_s - ttft_s) / (usage.n_output_tokens - 1))

    def render(self, status: DaemonStatus, bridge: BridgeStats) -> bytes:
        """Write everything in Prometheus' text format."""
        lines = [
            *self._own_lines(bridge),
            *_status_lines(status),
            *(line for histogram in (self._ttft, self._duration, self._per_token) for line in histogram.lines()),
            *self._prompt.lines(),
            *self._output.lines(with_head=False),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _own_lines(self, bridge: BridgeStats) -> Iterator[str]:
        yield from _series("mcd_chat_requests_total", "counter", [("", self.n_requests)])
        yield from _series("mcd_chat_failed_total", "counter", [("", self.n_failed)])
        yield from _series("mcd_chat_cancelled_total", "counter", [("", self.n_cancelled)])
        errors = [(f'{{error_type="{code}"}}', n) for code, n in sorted(self._errors.items())]
        yield from _series("mcd_chat_errors_total", "counter", errors)
        tasks = [
            (f'{{gen_ai_operation_name="{kind}",outcome="{outcome}"}}', n)
            for (kind, outcome), n in sorted(self._tasks.items())
        ]
        yield from _series("mcd_task_requests_total", "counter", tasks)
        responses = [
            (f'{{http_route="{route}",http_response_status_code="{status}"}}', n)
            for (route, status), n in sorted(self._responses.items())
        ]
        yield from _series("mcd_http_responses_total", "counter", responses)
        yield from _series("mcd_open_answers", "gauge", [("", bridge.n_open)])
        yield from _series("mcd_queued_events", "gauge", [("", bridge.n_queued_events)])


def _status_lines(status: DaemonStatus) -> Iterator[str]:
    for name, value in (
        ("mcd_links", status.n_links),
        ("mcd_peers", status.n_peers),
        ("mcd_models", status.n_models),
        ("mcd_engines", len(status.engines)),
        ("mcd_engine_running", sum(engine.n_running for engine in status.engines)),
        ("mcd_engine_waiting", sum(engine.n_waiting for engine in status.engines)),
        ("mcd_engine_restarts", sum(engine.restarts for engine in status.engines)),
    ):
        yield from _series(name, "gauge", [("", value)])
    yield from _series("mcd_uptime_seconds", "gauge", [("", round(status.uptime_s, 3))])
    yield from _series("mcd_served_total", "counter", [("", status.n_served)])
    events = [(f'{{event="{name}"}}', n) for name, n in sorted(status.counters.items())]
    yield from _series("mcd_events_total", "counter", events)


def _series(name: str, kind: str, rows: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    for labels, value in rows:
        yield f"{name}{labels} {value}"
