"""Available memory from made-up /proc and /sys trees: the kernel's word, and the tightest control group's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcd.engine import memory

GIB = 1024**3


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = f"MemTotal: {32 * 1024**2} kB\nMemFree: {2 * 1024**2} kB\nMemAvailable: {20 * 1024**2} kB\nHugePages: 0\n"


def test_the_kernels_estimate_counts_where_there_is_no_group(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert memory.available_bytes(root) == 20 * GIB
    assert memory.room_bytes(root) == 18 * GIB
    assert memory.total_bytes(root) == 32 * GIB


def test_the_tightest_group_above_us_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "5\n",
            "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{6 * GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {4 * GIB}\n",
        },
    )
    assert memory.available_bytes(root) == 6 * GIB  # 8 less the 2 that cannot be reclaimed
    assert memory.total_bytes(root) == 8 * GIB


@pytest.mark.parametrize("limit", [4 * GIB, 2**63 - 4096])
def test_version_one_groups(tmp_path: Path, limit: int) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:cpu:/x\n4:memory,hugetlb:/x\n0::/\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{limit}",
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{GIB}",
            "sys/fs/cgroup/memory/x/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert memory.available_bytes(root) == (3 * GIB if limit < 2**60 else 20 * GIB)


def test_a_machine_that_says_nothing_is_half_free(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path) == memory.total_bytes(tmp_path) // 2


def test_this_machine() -> None:
    assert 0 < memory.room_bytes() < memory.available_bytes() <= memory.total_bytes()
