"""`python -m mcd` is `mcd`."""

import sys

from mcd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
