"""What `mcd` and `python -m mcd` start."""

import sys

from mcd.cli import interrupt


def main() -> int:
    """Run the command that was typed, see `mcd.cli.main`; all but this little is loaded by then."""
    interrupt.end_quietly()
    from mcd.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
