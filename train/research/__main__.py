"""`python -m train.research STUDY`: train every change of a study with every seed, measure, write table and page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import TrainError

EPILOG = """\
examples:
  python -m train.research curriculum teacher.checkpoint=vit.safetensors data.train=... data.val=... \\
      --transfer Caltech-101 caltech/train caltech/test --transfer grocery train.txt test.txt
  python -m train.research curriculum ... --seeds 0 1 2 --processes 2     # interrupted, the same command continues
  python -m train.research curriculum --measure-only                      # write table and page again

A study is a YAML file: `title`, `recipe`, `changes` (a name and its key=value overrides), `baseline` (the change that
the others are compared with), `equal_flops` (train each a second time, at the total FLOPs of the baseline)."""


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write; exit status 2 for what the user can fix, 130 when interrupted."""
    options = _parser().parse_intermixed_args(arguments)
    name = Path(options.study).stem
    table, page, picture = options.results / f"{name}.csv", options.docs / f"{name}.md", f"images/{name}.png"
    try:
        from train.evaluate.datasets import open_pair
        from train.evaluate.survey import Plan
        from train.plot.study import study_figure
        from train.research import runner
        from train.research.page import render
        from train.research.results import write_results

        study, out = runner.load_study(options.study), options.out or Path("runs") / name
        plan = Plan([open_pair(words) for words in options.transfer])
        plan.check_disjoint()
        if not options.measure_only:
            runner.train_all(study, options.seeds, options.overrides, out, processes=options.processes)
        rows = runner.measure_all(study, out, plan)
        write_results(table, rows)
        drawn = study_figure(rows, options.docs / picture, study.baseline)
        options.docs.mkdir(parents=True, exist_ok=True)
        page.write_text(render(study, rows, f"results/{name}.csv", picture if drawn else ""))
    except TrainError as error:
        print(f"train.research: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.research: interrupted; the same command continues", file=sys.stderr)
        return 130
    print(f"wrote {table} and {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.research",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("study", help="a study in train/research/studies, or a YAML file")
    add("overrides", nargs="*", metavar="key=value", help="replace values of the recipe, for all changes")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a training of each change per seed (0 1 2)")
    add("--processes", type=int, default=1, help="trainings at a time, one thread each (1)")
    add("--out", type=Path, help="folder of the runs (runs/STUDY)")
    add("--results", type=Path, default=Path("results"), help="folder of STUDY.csv")
    add("--docs", type=Path, default=Path("docs"), help="folder of STUDY.md")
    photos = "[NAME] TRAIN TEST: labeled photos that no run learned from, for probe, k-NN and retrieval; repeatable"
    add("--transfer", nargs="+", action="append", default=[], metavar="WORD", help=photos)
    add("--measure-only", action="store_true", help="train nothing, measure the finished runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
