"""`python -m train RECIPE [key=value ...]`: distill a student and leave a run folder that export can read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from leap_zoo.card import Metric
from train.errors import TrainError
from train.recipe_file import find_recipe, load_recipe, read_yaml, recipe_files

if TYPE_CHECKING:
    from train.run import Run

EXAMPLES = """
examples:
  python -m train digits
  python -m train nano teacher.checkpoint=vit.safetensors data.train=photos/train data.val=photos/val
  python -m train nano ... curriculum.strategy=last epochs=10 --out runs/nano-last
  python -m train nano ... --resume"""


def main(arguments: list[str] | None = None) -> int:
    """Train; exit status 2 for what the user can fix, 130 when interrupted."""
    options = _parser().parse_intermixed_args(arguments)  # key=value may follow an option
    try:
        recipe = load_recipe(find_recipe(options.recipe), options.overrides)
        from train import pipeline  # torch takes seconds to import; --help needs none of it

        finished = pipeline.run(recipe, options.out or Path("runs") / recipe.name, resume=options.resume)
        if finished:  # of several processes only the first has one
            _show(finished)
    except TrainError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train: interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    recipes = [f"  {name:16} {read_yaml(path)['description']}" for name, path in recipe_files().items()]
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Distill a small vision transformer from a frozen teacher, by LEAP or by a baseline.",
        epilog="\n".join(["recipes:", *recipes, EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", help="name of a recipe below, or the path of a YAML file")
    add("overrides", nargs="*", metavar="key=value", help="replace values of the recipe (dotted keys)")
    add("--out", type=Path, help="run folder (default: runs/NAME)")
    add("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    return parser


def _show(run: Run) -> None:
    """Print the student's figures beside its teacher's, and what early exit saved."""
    report = run.report
    print(f"\n{report.name}: {report.metrics[0].dataset}, {report.epochs} epochs, one seed; 95 % intervals in brackets")
    print(f"{'':46}{'n':>6}{'teacher':>22}{report.strategy:>22}")
    for ours, theirs in zip(report.metrics, report.teacher_metrics, strict=True):
        print(f"{ours.name + ', ' + ours.split:46}{ours.n:6}{_cell(theirs):>22}{_cell(ours):>22}")
    print(
        f"teacher {report.teacher_flops / 1e15:.3f} PFLOPs, {report.teacher_flops_saved:.1%} saved by early exit; with "
        f"student {report.total_flops / 1e15:.3f} PFLOPs, {report.total_flops_saved:.1%} saved; "
        f"{report.train_seconds:.0f} s at {report.images_per_second:.0f} images/s, {report.data_wait or 0:.1%} of it "
        f"waiting for data ({report.hardware}); embedding: {run.info.pooling}"
    )


def _cell(metric: Metric) -> str:
    low, high = metric.interval or (metric.value, metric.value)
    return f"{metric.value:6.1%} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
