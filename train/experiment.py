"""`python -m train.experiment`: strategies x seeds at equal epochs, and one table that says which is better.

Trains what is missing (a recipe with rivals in `compare`, once per seed, resumable), measures every finished run by the
same protocols, and writes `results/curriculum.csv`, `docs/curriculum.md` and its figure. A comparison is within a seed:
all strategies of a seed start from the same student and see the same batches.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from pathlib import Path

import msgspec
from tqdm import tqdm

from leap_zoo.card import Metric
from train.comparison import Row, write_page
from train.errors import TrainError
from train.evaluate import PhotoSets, Plan, evaluate, of_run
from train.evaluate.plan import Protocol
from train.recipe import Recipe, find_recipe, load_recipe
from train.run import Run, is_finished, load_run, write_json

TRANSFER: tuple[Protocol, ...] = ("probe", "knn", "retrieval")
COLUMNS = [
    "recipe",
    "student",
    "photos",
    "epochs",
    "seed",
    "strategy",
    "metric",
    "dataset",
    "split",
    "n",
    "value",
    "low",
    "high",
    "minus_last",
    "hardware",
    "commit",
]


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write; exit status 2 for what the user can mend."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        recipe = load_recipe(find_recipe(options.recipe), options.overrides)
        if not options.measure_only:
            train(recipe, options.seeds, options.out)
        sets = [PhotoSets.from_words(words) for words in options.transfer]
        rows = measure(find_runs(options.out), Plan(sets, TRANSFER))
    except TrainError as error:
        print(f"train.experiment: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.experiment: interrupted; the same command continues", file=sys.stderr)
        return 130
    options.results.mkdir(parents=True, exist_ok=True)
    write_csv(rows, options.results / "curriculum.csv")
    write_page(rows, options.docs)
    print(f"wrote {options.results / 'curriculum.csv'} and {options.docs / 'curriculum.md'}")
    return 0


def train(recipe: Recipe, seeds: list[int], out: Path) -> None:
    """Carry the recipe out once per seed, in OUT/RECIPE-seed-N; what is finished already is left alone."""
    from train import pipeline

    for seed in seeds:
        folder = out / f"{recipe.name}-seed-{seed}"
        homes = [folder, *(folder / "compare" / rival.strategy for rival in recipe.compare)]
        if all(is_finished(home) for home in homes):
            continue
        print(f"seed {seed}: {', '.join(spec.strategy for spec in (recipe.curriculum, *recipe.compare))}")
        pipeline.run(msgspec.structs.replace(recipe, seed=seed), folder, resume=(folder / "recipe.yaml").is_file())


def find_runs(out: Path) -> list[Path]:
    """The finished runs below a folder, by name. Raises TrainError when there is none."""
    found = sorted(path.parent for path in out.rglob("metrics.json") if is_finished(path.parent))
    if not found:
        raise TrainError(f"there is no finished run in {out}: leave out --measure-only, or name its folder with --out")
    return found


def measure(folders: list[Path], plan: Plan) -> list[Row]:
    """The rows of all finished runs, each compared with `last` of its seed."""
    rows: list[Row] = []
    for folder in tqdm(folders, "runs"):
        run = load_run(folder)
        rows += rows_of(run, transfer_of(run, folder, plan))
    return compare(rows)


class Transfer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is kept in a run folder: the figures, and a digest of the weights and photos that they are of."""

    of: str
    metrics: list[Metric]


def transfer_of(run: Run, folder: Path, plan: Plan) -> list[Metric]:
    """The plan's figures of a run; kept in its folder, since a later seed adds runs and changes none."""
    digest = hashlib.sha256((folder / "student.safetensors").read_bytes())
    for sets in plan.sets:
        digest.update(f"{sets.name}\n{sets.test_split}\n{sets.train.sources}\n{sets.test.sources}".encode())
    file = folder / "transfer.json"
    try:
        known = msgspec.json.decode(file.read_bytes(), type=Transfer)
        if known.of == digest.hexdigest():
            return known.metrics
    except (OSError, msgspec.MsgspecError):
        pass  # measured for the first time, or by an earlier version
    metrics = evaluate(of_run(run), plan, seed=run.report.seed)
    write_json(file, Transfer(of=digest.hexdigest(), metrics=metrics))
    return metrics


def rows_of(run: Run, transfer: list[Metric]) -> list[Row]:
    """The rows of one run: its own figures, those of the transfer, and what it cost. `minus_last` is still open."""
    report = run.report
    about = {
        "recipe": report.name,
        "student": run.recipe.student.size,
        "photos": report.train_photos,
        "epochs": report.epochs,
        "seed": report.seed,
        "strategy": report.strategy,
        "hardware": report.hardware,
        "commit": report.commit,
        "minus_last": None,
    }
    rows: list[Row] = []
    for metric in [*report.metrics, *transfer]:
        low, high = metric.interval or (None, None)
        figure = {"metric": metric.name, "dataset": metric.dataset, "split": metric.split, "n": metric.n}
        rows.append({**about, **figure, "value": metric.value, "low": low, "high": high})
    costs = {
        "teacher FLOPs saved": report.teacher_flops_saved,
        "total FLOPs saved": report.total_flops_saved,
        "wall seconds": report.train_seconds,
        "CPU seconds": report.cpu_seconds,
        "waiting for data": report.data_wait,
        "advances by similarity": _share([move.reason == "similarity" for move in run.moves[1:]]),
        "highest similarity at an advance": max((move.similarity or 0 for move in run.moves[1:]), default=None),
    }
    for name, value in costs.items():
        if value is not None:
            nowhere = {"metric": name, "dataset": "", "split": "", "n": None, "low": None, "high": None}
            rows.append({**about, **nowhere, "value": value})
    return rows


def _share(those: list[bool]) -> float | None:
    return sum(those) / len(those) if those else None


def compare(rows: list[Row]) -> list[Row]:
    """Fill in `minus_last`, and the time that each run saved: both against `last` of the same recipe and seed."""

    def key(row: Row) -> tuple[object, ...]:
        return tuple(row[name] for name in ("recipe", "seed", "metric", "dataset", "split"))

    base = {key(row): row["value"] for row in rows if row["strategy"] == "last"}
    saved = [
        {**row, "metric": row["metric"].replace("seconds", "time saved"), "value": 1 - row["value"] / base[key(row)]}
        for row in rows
        if row["metric"] == _clock(row) and key(row) in base
    ]
    done = [{**row, "minus_last": row["value"] - base[key(row)] if key(row) in base else None} for row in rows]
    return done + saved


def _clock(row: Row) -> str:
    """The clock that says what a run cost: a CPU is often shared with others, a GPU is not."""
    return "CPU seconds" if "CPU threads" in row["hardware"] else "wall seconds"


def write_csv(rows: list[Row], path: Path) -> None:
    """Write the rows, one figure of one run each."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """The option that names photos to transfer to."""
    parser.add_argument(
        "--transfer",
        nargs="+",
        action="append",
        default=[],
        metavar="WORD",
        help="[NAME] TRAIN TEST: labelled photos that no run learned from, for probe, k-NN and retrieval; repeatable",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m train.experiment reference teacher.checkpoint=vit.safetensors data.train=... data.val=...\n"
        "      --transfer Caltech-101 caltech/train caltech/test --transfer grocery train.txt test.txt\n"
        "  python -m train.experiment reference ... epochs=100 --seeds 0 1 2      # with a GPU\n"
        "  python -m train.experiment reference --measure-only                    # write the tables again",
    )
    parser.add_argument("recipe", nargs="?", default="reference", help="a recipe with rivals in `compare` (reference)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of the recipe (dotted keys)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a training of each strategy per seed")
    parser.add_argument("--out", type=Path, default=Path("runs/experiment"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of curriculum.csv")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of curriculum.md and its figure")
    add_transfer(parser)
    parser.add_argument("--measure-only", action="store_true", help="train nothing, measure the finished runs in --out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
