"""All candidates on all photos: each photo is embedded once per candidate, and nothing is measured twice."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from leap_zoo.card import Metric
from train.data.store import Shown, open_photos
from train.errors import TrainError
from train.evaluate import plan, scores
from train.evaluate.datasets import Dataset, Task
from train.evaluate.features import Features, extract
from train.evaluate.plan import Embeddings, Protocol
from train.evaluate.published import Candidate
from train.hardware import describe
from train.research.results import Result, read_results, results_of, write_results
from train.run import commit

VERSION = 2  # raise it when a figure comes to mean something else
BATCH = 32  # larger ones do not fit the processor's caches: the teacher then takes a quarter longer per photo


class Cache:
    """Embeddings of candidates on datasets (safetensors), and their results (CSV), in a folder.

    Names are digests of all that a file depends on, so a file is never out of date. store: folder of decoded photos,
    which trainings use too. Raises TrainError.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.store = folder, store
        self.opened: dict[Candidate, Features] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"cannot make {folder} ({error.strerror}); choose another --cache") from error

    def path(self, kind: str, candidate: Candidate, of: str) -> Path:
        """FOLDER/kind-DIGEST; of: what else the file depends on."""
        about = (VERSION, candidate.digest, candidate.preprocessing, candidate.costs, of)
        suffix = {"embeddings": "safetensors", "results": "csv"}[kind]
        return self.folder / f"{kind}-{hashlib.sha256(repr(about).encode()).hexdigest()[:32]}.{suffix}"

    def open(self, candidate: Candidate) -> Features:
        """Its features; raises what a file that cannot be run raises."""
        if candidate not in self.opened:
            self.opened[candidate] = candidate.open()
        return self.opened[candidate]

    def embeddings(self, candidate: Candidate, dataset: Dataset) -> Embeddings:
        """From the folder, or computed now and kept there."""
        path = self.path("embeddings", candidate, dataset.digest)
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError):  # not there yet, or broken: computed again
            name = f"{dataset.name}, {dataset.split}"
        (photos,) = open_photos(dataset.photos, [Shown(candidate.preprocessing)], self.store, name)
        if photos.skipped and (photos.labels < 0).all():
            raise TrainError(f"{photos.skipped[0][0]} cannot be decoded, and the right answers are listed by position")
        found = extract(self.open(candidate), photos.pixels, f"{name}: {candidate.model} {candidate.file}", BATCH)
        kept = {key: value.contiguous() for key, value in found.items() if key != "logits" or dataset.logits}
        kept["labels"] = torch.from_numpy(photos.labels)
        try:
            save_file(kept, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        except (OSError, SafetensorError) as error:
            raise TrainError(f"cannot write {path} ({error}); make room, or choose another --cache") from error
        return kept


def measure(
    students: Sequence[Candidate],
    teachers: Sequence[Candidate],
    tasks: Sequence[Task],
    imagenet: Sequence[Dataset],
    cache: Cache,
    *,
    seed: int = 0,
    done: Callable[[list[Result]], None] = lambda rows: None,
) -> list[Result]:
    """The results of the teachers, the own resolution first, then of the students; those in `cache` are taken from it.

    imagenet: photos with labels among the teacher's 1000 classes. done: called with all results so far after each
    candidate. Raises TrainError, and what a file that cannot be run raises.
    """
    datasets = [*(dataset for task in tasks for dataset in (task.train, task.test)), *imagenet]
    asked = [dataset.digest for dataset in datasets], [(task.answers, task.retrieval) for task in tasks], seed
    compared = {candidate: _compared(candidate, teachers) for candidate in [*teachers, *students]}
    paths = {}
    for candidate, named in compared.items():
        others = [(name, teacher.digest, teacher.preprocessing) for name, teacher in named.items()]
        paths[candidate] = cache.path("results", candidate, repr((asked, others)))
        files = [cache.path("embeddings", candidate, dataset.digest) for dataset in datasets]
        if not paths[candidate].is_file() and not all(file.is_file() for file in files):
            cache.open(candidate)  # a file that cannot be run is refused before an hour is spent on the others
    rows: list[Result] = []
    for candidate, path in paths.items():
        if not path.is_file():
            metrics: list[Metric] = []
            for task in tasks:
                metrics += _measure_task(candidate, task, cache, seed)
            for dataset in imagenet:
                theirs = {name: cache.embeddings(teacher, dataset) for name, teacher in compared[candidate].items()}
                metrics += _compare(cache.embeddings(candidate, dataset), theirs, dataset)
            about = {"subject": candidate.model, "variant": candidate.file, "digest": candidate.sha256}
            about |= {"hardware": describe(candidate.device), "commit": commit()}
            write_results(path, results_of(metrics, about, candidate.costs))
            print(f"{candidate.model} {candidate.file}: {len(metrics)} figures", file=sys.stderr)
        rows += read_results(path)
        done(rows)
    return rows


def _compared(candidate: Candidate, teachers: Sequence[Candidate]) -> dict[str, Candidate]:
    """The teachers that a candidate is compared with, by their names in metrics: given the same pixels, and its own."""
    named = {}
    if candidate.taught and teachers:
        same = (teacher for teacher in teachers if teacher.preprocessing == candidate.preprocessing)
        named["the teacher"] = next(same)
    if (
        teachers
        and candidate.preprocessing != teachers[0].preprocessing
        and (candidate.taught or candidate in teachers)
    ):
        named[f"the teacher at {teachers[0].preprocessing.size} px"] = teachers[0]
    return named


def _measure_task(candidate: Candidate, task: Task, cache: Cache, seed: int) -> list[Metric]:
    protocols: list[Protocol] = ["probe", "knn"] if task.answers is None else []
    if task.retrieval:
        protocols.append("retrieval")
    train, test = cache.embeddings(candidate, task.train), cache.embeddings(candidate, task.test)
    return plan.measure(task, "embedding", train, test, protocols, neighbours=(10,), seed=seed)


def _compare(ours: Embeddings, teachers: Mapping[str, Embeddings], dataset: Dataset) -> list[Metric]:
    """Top-1 through the teacher's head of 1000 classes, agreement with the teacher, and cosine to its embedding."""
    where, labels = (dataset.name, dataset.split), ours["labels"]
    metrics: list[Metric] = []
    if "logits" in ours:
        logits, classes = ours["logits"], torch.unique(labels)  # sorted
        found = {f"top-1 of {logits.shape[1]}": logits.argmax(1)}
        if len(classes) < logits.shape[1]:
            found[f"top-1 of its {len(classes)} classes"] = classes[logits[:, classes].argmax(1)]
        for name, predicted in found.items():
            score = scores.accuracy(predicted, labels)
            metrics.append(scores.share(f"{name} through the teacher's head", *where, score))
    for name, theirs in teachers.items():
        if "logits" in ours and "logits" in theirs:
            same = scores.accuracy(ours["logits"].argmax(1), theirs["logits"].argmax(1))
            metrics.append(scores.share(f"top-1 agreement with {name}", *where, same))
        if "teacher" in ours:
            cosine = functional.cosine_similarity(ours["teacher"], theirs["teacher"])
            average = scores.mean(f"cosine to {name}, mean", *where, cosine)
            least = replace(average, name=f"cosine to {name}, minimum", value=cosine.min().item(), interval=None)
            metrics += [average, least]
    return metrics
