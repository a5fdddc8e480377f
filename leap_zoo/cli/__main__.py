"""`python -m leap_zoo.cli`: the same as `leap-zoo`."""

import sys

from leap_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
