"""A study: a recipe, named changes of it, seeds; each is trained in a process of its own, and measured alike."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from tqdm import tqdm

from leap_zoo.card import Metric
from train.errors import TrainError
from train.evaluate.features import from_run
from train.evaluate.survey import Cache, Plan, evaluate
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, results_of
from train.run import Run, is_finished, load_run, write_json

STUDIES = Path(__file__).parent / "studies"
COSTS = ("epochs", "FLOPs")  # what is equal to the baseline's
SAME = 0.02  # a run whose FLOPs are so near the baseline's is at equal FLOPs already


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """changes: a name and the overrides of `recipe` (key=value) that it stands for.

    baseline: the change that the others are compared with. equal_flops: each change is trained a second time, for as
    many epochs as make its total FLOPs those of the baseline.
    """

    title: str
    recipe: str
    changes: Annotated[dict[str, list[str]], msgspec.Meta(min_length=1)]
    baseline: str
    equal_flops: bool = False


@dataclass(frozen=True)
class Job:
    """One training of a study. cost: what is equal to the baseline's, `epochs` or `FLOPs`."""

    change: str
    seed: int
    cost: str

    @property
    def folder(self) -> str:
        """`leap-grow-late-decay-flops-seed-0`."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.change.lower()).strip('-')}-{self.cost.lower()}-seed-{self.seed}"


def load_study(name: str) -> Study:
    """A study by its name in `train/research/studies`, or from a YAML file. Raises TrainError."""
    known = {path.stem: path for path in sorted(STUDIES.glob("*.yaml"))}
    path = Path(name) if Path(name).is_file() else known.get(name)
    if path is None:
        raise TrainError(f"unknown study {name!r}; the studies are {', '.join(known)}, or give a YAML file")
    try:
        study = msgspec.convert(yaml.safe_load(path.read_text()), Study)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise TrainError(f"invalid study {path}: {' '.join(str(error).split())}") from error
    if study.baseline not in study.changes:
        raise TrainError(f"invalid study {path}: its baseline {study.baseline!r} is none of its changes")
    return study


def train_all(study: Study, seeds: Sequence[int], overrides: Sequence[str], out: Path, *, processes: int) -> None:
    """Train what is not finished, seed by seed, `processes` trainings at a time, one thread each. Raises TrainError."""
    for changes in study.changes.values():
        load_recipe(find_recipe(study.recipe), [*overrides, *changes])  # a wrong one is refused before the first starts
    for seed in seeds:
        _train([Job(change, seed, "epochs") for change in study.changes], study, overrides, out, processes)
        if study.equal_flops:
            longer = [Job(change, seed, "FLOPs") for change in study.changes if change != study.baseline]
            _train(longer, study, overrides, out, processes)


def _train(jobs: Sequence[Job], study: Study, overrides: Sequence[str], out: Path, processes: int) -> None:
    plans = {job: epochs for job in jobs if (epochs := _epochs(job, study, overrides, out)) is not None}
    missing = [job for job in plans if not is_finished(out / job.folder)]

    def train(job: Job) -> int:
        folder = out / job.folder
        words = [*overrides, *study.changes[job.change], f"seed={job.seed}", f"epochs={plans[job]}"]
        command = [sys.executable, "-m", "train", study.recipe, *words, "--out", str(folder)]
        command += ["--resume"] if (folder / "recipe.yaml").is_file() else []
        with (out / f"{job.folder}.txt").open("ab") as file:
            return subprocess.run(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
            ).returncode

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(processes) as pool:
        done = list(tqdm(pool.map(train, missing), "trainings", len(missing), disable=not missing))
    for job, code in zip(missing, done, strict=True):
        if code:
            raise TrainError(
                f"the training {job.folder} failed; {out / job.folder}.txt says why; run the command again"
            )


def _epochs(job: Job, study: Study, overrides: Sequence[str], out: Path) -> int | None:
    """How many epochs a job trains for; None where the run at equal epochs has equal FLOPs already."""
    epochs = load_recipe(find_recipe(study.recipe), [*overrides, *study.changes[job.change]]).epochs
    if job.cost == "epochs":
        return epochs
    flops = [
        load_run(out / Job(change, job.seed, "epochs").folder).report.total_flops
        for change in (study.baseline, job.change)
    ]
    ratio = flops[0] / flops[1]
    return None if abs(ratio - 1) < SAME else max(1, round(epochs * ratio))


def measure_all(study: Study, out: Path, plan: Plan) -> list[Result]:
    """The results of every finished run of a study in OUT, by change, cost and seed. Raises TrainError for none."""
    rows: list[Result] = []
    found = {int(path.parent.name.rpartition("-")[2]) for path in out.glob("*-seed-*/metrics.json")}
    jobs = [
        Job(change, seed, cost)
        for cost in COSTS[: 1 + study.equal_flops]
        for change in study.changes
        for seed in sorted(found)
    ]
    for job in tqdm([job for job in jobs if is_finished(out / job.folder)], "runs"):
        run = load_run(out / job.folder)
        rows += _results(job, run, _transfer(run, out / job.folder, plan))
    if not rows:
        raise TrainError(f"there is no finished run of this study in {out}: train first, or name its folder with --out")
    return rows


def _results(job: Job, run: Run, transfer: list[Metric]) -> list[Result]:
    report = run.report
    about = {"subject": job.change, "variant": job.cost, "seed": job.seed}
    about |= {"hardware": report.hardware, "commit": report.commit}
    costs = {
        "total PFLOPs": report.total_flops / 1e15,
        "total FLOPs saved": report.total_flops_saved,
        "teacher FLOPs saved": report.teacher_flops_saved,
        "share of the learning rate that the last block had": report.last_block_rate_share,
        "images": report.images_seen,
        "CPU seconds": report.cpu_seconds,
        "wall seconds": report.train_seconds,
        "share of advances by similarity": _share([move.reason in ("similarity", "plateau") for move in run.moves[1:]]),
    }
    return results_of([*report.metrics, *transfer], about, costs)


class Transfer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is kept in a run folder: the figures, and a digest of the weights and photos that they are of."""

    of: str
    metrics: list[Metric]


def _transfer(run: Run, folder: Path, plan: Plan) -> list[Metric]:
    """The plan's figures of a run; kept in its folder, since a later seed adds runs and changes none."""
    digest = hashlib.sha256((folder / "student.safetensors").read_bytes())
    for task in plan.tasks:
        digest.update(f"{task.train.digest}\n{task.test.digest}".encode())
    file = folder / "transfer.json"
    try:
        known = msgspec.json.decode(file.read_bytes(), type=Transfer)
        if known.of == digest.hexdigest():
            return known.metrics
    except (OSError, msgspec.MsgspecError):
        pass  # measured for the first time, or by an earlier version
    metrics = evaluate(from_run(run, folder), plan, Cache(None, Path(run.recipe.data.store)), seed=run.report.seed)
    write_json(file, Transfer(of=digest.hexdigest(), metrics=metrics))
    return metrics


def _share(those: list[bool]) -> float | None:
    return sum(those) / len(those) if those else None
