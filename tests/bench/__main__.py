"""Every benchmark, one after another: `make bench`. Prints numbers and goals, judges nothing."""

from __future__ import annotations

import os
import platform

from tests.bench import engine_streams, mux, path


def main() -> None:
    """Run them all."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    for module in (path, engine_streams, mux):
        print(f"\n== {module.__name__.rpartition('.')[2]}", flush=True)
        module.main()


if __name__ == "__main__":
    main()
