"""What the gateway counts, and Prometheus' text of it; names follow OpenTelemetry's gen_ai conventions.   [GW-60]

Every label comes from a closed set of ours. Nothing is counted by user, address, prompt or foreign name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from mcd.api.request import CompletionRequest
from mcd.api.tasks import KINDS, AnyRequest
from mcd.gateway.bridge import BridgeStats
from mcd.ports import DaemonStatus
from mcd.units import Seconds
from mcd.wire.payload import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CHAT = "chat"
TEXT_COMPLETION = "text_completion"
"""OpenTelemetry's name of what OpenAI calls a completion."""

_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)


def operation_of(request: AnyRequest) -> str:
    """What metrics call such requests."""
    return TEXT_COMPLETION if isinstance(request, CompletionRequest) else KINDS[type(request)]


class Histogram:
    """Counts of values at or below each bound."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], labels: str) -> None:
        self.name = name
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
            yield f"# HELP {self.name} {self._text}"
            yield f"# TYPE {self.name} histogram"
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{{self._labels},le="{bound}"}} {total}'
        yield f"{self.name}_sum{{{self._labels}}} {self._sum:.9g}"
        yield f"{self.name}_count{{{self._labels}}} {total}"


class Generated:
    """What requests of one operation took that generate text. Owner: Metrics."""

    def __init__(self, operation: str) -> None:
        label = _label(operation)
        self._ttft = Histogram("gen_ai_server_time_to_first_token_seconds", "Request to first token.", _TTFT_S, label)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Request to last token.", _DURATION_S, label
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Mean time of tokens after the first.", _PER_TOKEN_S, label
        )
        usage, text = "gen_ai_client_token_usage", "Tokens of answered requests."
        self._prompt = Histogram(usage, text, _TOKENS, f'{label},gen_ai_token_type="input"')
        self._output = Histogram(usage, text, _TOKENS, f'{label},gen_ai_token_type="output"')

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

    def histograms(self) -> tuple[Histogram, ...]:
        """All of them, those of one name next to one another."""
        return self._ttft, self._duration, self._per_token, self._prompt, self._output


class Metrics:
    """The gateway's counters. Owner: `mcd.daemon`; the daemon's status counts its requests itself."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        """Requests that were well formed, by operation and by ``ok``, ``cancelled`` or their error's code."""
        self.generated = {operation: Generated(operation) for operation in (CHAT, TEXT_COMPLETION)}
        self._responses: Counter[tuple[str, int]] = Counter()

    def responded(self, route: str, status: int) -> None:
        """Count one HTTP response; ``route`` is our name of an endpoint."""
        self._responses[route, status] += 1

    def render(self, status: DaemonStatus, bridge: BridgeStats) -> bytes:
        """Write everything in Prometheus' text format."""
        lines = [
            *self._own_lines(bridge),
            *_status_lines(status),
            *_histogram_lines(self.generated.values()),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _own_lines(self, bridge: BridgeStats) -> Iterator[str]:
        ended = [
            (f'{{{_label(operation)},outcome="{outcome}"}}', n)
            for (operation, outcome), n in sorted(self.ended.items())
        ]
        yield from _series("mcd_requests_total", "counter", ended)
        responses = [
            (f'{{http_route="{route}",http_response_status_code="{status}"}}', n)
            for (route, status), n in sorted(self._responses.items())
        ]
        yield from _series("mcd_http_responses_total", "counter", responses)
        yield from _series("mcd_open_answers", "gauge", [("", bridge.n_open)])
        yield from _series("mcd_queued_events", "gauge", [("", bridge.n_queued_events)])


def _label(operation: str) -> str:
    return f'gen_ai_operation_name="{operation}"'


def _histogram_lines(generated: Iterable[Generated]) -> Iterator[str]:
    """Histograms of one name stand together, below one head."""
    above = ""
    for alike in zip(*(of_one.histograms() for of_one in generated), strict=True):
        for histogram in alike:
            yield from histogram.lines(with_head=histogram.name != above)
            above = histogram.name


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
