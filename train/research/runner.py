"""A study: a recipe, named changes and seeds; each run is trained in its own process, and all are measured alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from leap_zoo.documents import explain
from leap_zoo.errors import nearest
from train.errors import TrainError
from train.evaluate.features import from_run
from train.evaluate.survey import Cache, Plan, evaluate
from train.recipe_file import find_file, find_recipe, load_recipe, read_yaml
from train.research.results import Result, results_of
from train.run import RECIPE, Run, is_finished, load_run

STUDIES = Path(__file__).parent / "studies"
COSTS = {"epochs": "At equal epochs", "FLOPs": "At equal total FLOPs"}  # what is equal to the baseline's
SAME = 0.02  # a run whose FLOPs are so near the baseline's is at equal FLOPs already


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of a recipe, each a name and overrides (key=value); the others are compared with `baseline`."""

    title: str
    recipe: str
    changes: Annotated[dict[str, list[str]], msgspec.Meta(min_length=1)]
    baseline: str
    equal_flops: bool = False  # train each a second time, for as many epochs as make its FLOPs the baseline's


class Job(NamedTuple):
    """One training of a study; `cost`, `epochs` or `FLOPs`, is equal to the baseline's."""

    change: str
    seed: int
    cost: str

    @property
    def folder(self) -> str:
        """`leap-grow-late-decay-flops-seed-0`."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.change.lower()).strip('-')}-{self.cost.lower()}-seed-{self.seed}"


def load_study(name: str) -> Study:
    """A study by its name in `train/research/studies`, or from a YAML file. Raises TrainError."""
    path = find_file(name, {path.stem: path for path in sorted(STUDIES.glob("*.yaml"))}, "study")
    try:
        study = msgspec.convert(read_yaml(path), Study)
    except msgspec.ValidationError as error:
        raise TrainError(f"invalid study {path}: {explain(str(error), Study)}") from error
    if study.baseline not in study.changes:
        raise TrainError(f"invalid study {path}: no change {study.baseline!r}{nearest(study.baseline, study.changes)}")
    folders: dict[str, str] = {}
    for change in study.changes:
        other = folders.setdefault(Job(change, 0, "epochs").folder, change)
        if other != change:
            raise TrainError(f"invalid study {path}: {other!r} and {change!r} have the same folder; rename one")
    return study


def train_all(study: Study, seeds: Sequence[int], overrides: Sequence[str], out: Path, *, processes: int) -> None:
    """Train what is not finished, seed by seed, `processes` trainings at a time, one thread each. Raises TrainError."""
    recipe = find_recipe(study.recipe)  # a wrong change is refused before the first training starts
    epochs = {change: load_recipe(recipe, [*overrides, *words]).epochs for change, words in study.changes.items()}
    for seed in seeds:
        jobs = {change: Job(change, seed, "epochs") for change in study.changes}
        _train({job: epochs[change] for change, job in jobs.items()}, study, overrides, out, processes)
        if study.equal_flops:
            flops = {change: load_run(out / job.folder).report.total_flops for change, job in jobs.items()}
            longer = {change: flops[study.baseline] / cost for change, cost in flops.items()}
            again = [change for change, ratio in longer.items() if abs(ratio - 1) >= SAME]
            at_equal = {Job(change, seed, "FLOPs"): max(1, round(epochs[change] * longer[change])) for change in again}
            _train(at_equal, study, overrides, out, processes)


def _train(jobs: Mapping[Job, int], study: Study, overrides: Sequence[str], out: Path, processes: int) -> None:
    """Train jobs for so many epochs each, but those that are finished."""

    def train(job: Job) -> None:
        folder, report = out / job.folder, out / f"{job.folder}.txt"
        words = [*overrides, *study.changes[job.change], f"seed={job.seed}", f"epochs={jobs[job]}"]
        resume = ["--resume"] if (folder / RECIPE).is_file() else []
        command = [sys.executable, "-m", "train", study.recipe, *words, "--out", str(folder), *resume]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with report.open("ab") as file:
            done = subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment)
        if done.returncode:
            raise TrainError(f"the training {job.folder} failed; {report} says why; run the command again")

    missing = [job for job in jobs if not is_finished(out / job.folder)]
    out.mkdir(parents=True, exist_ok=True)
    thread_map(train, missing, max_workers=processes, desc="trainings", disable=not missing)


def measure_all(study: Study, out: Path, plan: Plan) -> list[Result]:
    """The results of every finished run of a study in OUT, by cost, change and seed. Raises TrainError for none."""
    seeds = sorted({int(path.parent.name.rpartition("-")[2]) for path in out.glob("*-seed-*/metrics.json")})
    costs = [*COSTS][: 1 + study.equal_flops]
    jobs = [Job(change, seed, cost) for cost in costs for change in study.changes for seed in seeds]
    rows: list[Result] = []
    for job in tqdm([job for job in jobs if is_finished(out / job.folder)], "runs"):
        folder = out / job.folder
        run = load_run(folder)
        report, cache = run.report, Cache(out / "embeddings", Path(run.recipe.data.store))
        transfer, _ = evaluate(from_run(run, folder), plan, cache, seed=report.seed)
        about = {"subject": job.change, "variant": job.cost, "seed": job.seed}
        about |= {"hardware": report.hardware, "commit": report.commit}
        rows += results_of([*report.metrics, *transfer], about, _costs(run))
    if not rows:
        raise TrainError(f"there is no finished run of this study in {out}: train first, or name its folder with --out")
    return rows


def _costs(run: Run) -> dict[str, float | None]:
    report = run.report
    by_similarity = [move.reason in ("similarity", "plateau") for move in run.moves[1:]]
    return {
        "total PFLOPs": report.total_flops / 1e15,
        "total FLOPs saved": report.total_flops_saved,
        "teacher FLOPs saved": report.teacher_flops_saved,
        "share of the learning rate that the last block had": report.last_block_rate_share,
        "images": report.images_seen,
        "CPU seconds": report.cpu_seconds,
        "wall seconds": report.train_seconds,
        "share of advances by similarity": sum(by_similarity) / len(by_similarity) if by_similarity else None,
    }
