"""`mcd status`: what it says of requests."""

from __future__ import annotations

import msgspec

from mcd.cli import status
from tests.fakes.gateway import daemon_status


def test_requests_are_said_as_they_are_counted() -> None:
    """It called all that was served other peers', and showed dashes for times that nothing was measured of."""
    fresh = msgspec.structs.replace(
        daemon_status(), n_requests=0, n_failed=0, n_prompt_tokens=0, n_output_tokens=0, n_served=0, ttft_p50_s=None
    )
    lines = list(status._lines(msgspec.to_builtins(fresh)))
    assert "Asked    0 requests, 0 failed, 0 tokens in, 0 out" in lines
    assert "Served   0 requests, own ones included" in lines
    [asked] = [line for line in status._lines(msgspec.to_builtins(daemon_status())) if line.startswith("Asked")]
    assert asked == "Asked    4 requests, 1 failed, first token p50 210ms p95 -, 10 tokens in, 20 out"
