"""Every benchmark, one after another: `make bench`. Prints numbers and goals, judges nothing."""

from __future__ import annotations

import os
import platform

from tests.bench import bench_mux, engine_streams, hundred, padding, path, pictures, templates


def main() -> None:
    """Run them all."""
    load_average = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load_average:.1f}")
    for module in (path, engine_streams, hundred, bench_mux, padding, templates, pictures):
        print(f"\n== {module.__name__.rpartition('.')[2]}", flush=True)
        module.main()


if __name__ == "__main__":
    main()
