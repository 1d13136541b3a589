"""What the composition root decides itself, which should be next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mcd.daemon import _clock_check, _mesh_check


@pytest.mark.parametrize(
    ("counters", "state"),
    [
        ({}, "ok"),
        ({"accepted": 9, "dropped_expired": 2, "dropped_signature": 50}, "ok"),
        ({"accepted": 1, "dropped_future": 2}, "warn"),
        ({"dropped_expired": 1}, "warn"),
    ],
)
def test_a_clock_that_disagrees_with_most_records_is_doubted(counters: dict[str, int], state: str) -> None:
    check = _clock_check(counters)
    assert check.state == state
    assert ("set-ntp" in check.detail) == (state != "ok")


@pytest.mark.parametrize(
    ("n_links", "n_known", "unreached", "state", "said"),
    [
        (2, 3, (), "ok", "peers linked: 2; known: 3"),
        (0, 0, (), "warn", "join one with --bootstrap"),
        (0, 0, ("/ip4/192.0.2.1/tcp/4101/p2p/x",), "warn", "no answer at --bootstrap /ip4/192.0.2.1/tcp/4101/p2p/x"),
        (1, 0, (), "warn", "none of network mine"),
    ],
)
def test_a_mesh_with_nobody_in_it_says_why(
    n_links: int, n_known: int, unreached: tuple[str, ...], state: str, said: str
) -> None:
    """Who joined with another --network had one link, no peers, and a doctor content with it."""
    check = _mesh_check(n_links, n_known, "mine", unreached)
    assert check.state == state
    assert said in check.detail


def test_memory_of_a_flood_goes_back_to_the_system() -> None:
    """Large pieces with small ones between, as streams bring them: their holes stayed the daemon's."""
    script = (
        "import psutil\n"
        "from mcd.daemon import return_large_blocks\n"
        "return_large_blocks()\n"
        "held = [(bytearray(b'x') * 100_000, bytearray(2_000)) for _ in range(1000)]\n"
        "kept = [small for _, small in held]\n"
        "full = psutil.Process().memory_info().rss\n"
        "del held\n"
        "print(full - psutil.Process().memory_info().rss)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) > 90_000_000
