"""`python -m train.plot RUN [RUN ...] [--out FILE]`: draw a training, finished or not, or several side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import TrainError
from train.plot.report import draw


def main(arguments: list[str] | None = None) -> int:
    """Draw; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m train.plot", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    default = ".png, .svg or .pdf (report.png in the run folder; comparison.png here for several)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=default)
    options = parser.parse_args(arguments)
    try:
        print(draw(options.runs, options.out))
    except TrainError as error:
        print(f"train.plot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
