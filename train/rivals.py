"""`python -m train.rivals RUN ...`: students that ship beside their rivals of equal cost, into one table.

A run whose recipe has rivals in `compare` trained them on the same photos, from the same start, for as many epochs.
Writes `results/zoo_rivals.csv`; docs/zoo.md shows it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import TrainError
from train.evaluate import PhotoSets, Plan
from train.experiment import TRANSFER, add_transfer, transfer_of
from train.figures import Trial, trials_of, write_figures
from train.run import is_finished, load_run


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, write the table; exit status 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        plan = Plan([PhotoSets.from_words(words) for words in options.transfer], TRANSFER)
        trials = [trial for folder in options.runs for trial in of_run(folder, plan)]
        write_figures(options.out, trials)
    except TrainError as error:
        print(f"train.rivals: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}, of {len({trial.lever for trial in trials})} students")
    return 0


def of_run(folder: Path, plan: Plan) -> list[Trial]:
    """The figures of a finished run and of its rivals, the rivals first. Raises TrainError where there is no rival."""
    rivals = sorted(path.parent for path in (folder / "compare").glob("*/metrics.json"))
    if not rivals:
        raise TrainError(f"{folder} has no finished rival: train it with compare='[{{strategy: last}}]'")
    return [trial for each in [*rivals, folder] if is_finished(each) for trial in _trials(each, plan)]


def _trials(folder: Path, plan: Plan) -> list[Trial]:
    run = load_run(folder)
    report = run.report
    return trials_of(
        [*report.metrics, *transfer_of(run, folder, plan)],
        lever=f"{report.name}, `{report.strategy}`",
        student=run.recipe.student.size,
        epochs=report.epochs,
        photos=report.train_photos,
        seconds=report.cpu_seconds,
        hardware=report.hardware,
        commit=report.commit,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m train.rivals runs/leap-micro --transfer Caltech-101 caltech/train caltech/test",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished run folders with rivals")
    parser.add_argument("--out", type=Path, default=Path("results/zoo_rivals.csv"), help="(results/zoo_rivals.csv)")
    add_transfer(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
