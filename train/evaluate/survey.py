"""All candidates on all photos: each photo is embedded once per candidate, and figures are computed from embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from leap_zoo.atomic import atomic_file
from leap_zoo.card import Metric
from train.data.store import Shown, open_photos
from train.errors import TrainError
from train.evaluate import revisited
from train.evaluate.datasets import Dataset, Task
from train.evaluate.features import Candidate, extract, from_teacher
from train.evaluate.protocols import knn, linear_probe, mean, retrieve, retrieve_listed, share
from train.recipe import TeacherSettings
from train.research.results import Result, results_of
from train.run import commit

VERSION = 3  # raise it when embeddings come to mean something else
BATCH = 32  # larger ones do not fit the processor's caches: the teacher then takes a quarter longer per photo
Embeddings = dict[str, Tensor]  # of a dataset: (N, D) by kind, and `labels` (N,)
# Variant of a row, the title of its column in docs/teacher-space.md -> who embeds gallery and queries, in which output.
PAIRS = {
    "student asks student, its own space": ("student", "student", "embedding"),
    "student asks student, teacher's space": ("student", "student", "teacher"),
    "**student asks teacher**": ("teacher", "student", "teacher"),
    "teacher asks teacher": ("teacher", "teacher", "teacher"),
}


@dataclass(frozen=True)
class Plan:
    """imagenet: photos of the teacher's 1000 classes, on which students are compared with it.

    revisited: folders of photos with their ground truth, a JSON file.
    """

    tasks: Sequence[Task]
    protocols: Sequence[str] = ("probe", "knn", "retrieval")
    neighbours: Sequence[int] = (10, 20)
    imagenet: Sequence[Dataset] = ()
    revisited: Sequence[tuple[Path, Path]] = ()


@dataclass(frozen=True)
class Cache:
    """folder: of embeddings, a safetensors file per candidate and dataset; None keeps nothing. store: as of recipes."""

    folder: Path | None
    store: Path

    def embeddings(self, candidate: Candidate, dataset: Dataset) -> Embeddings:
        """From the folder, or computed now and kept there. Raises TrainError."""
        about = repr((VERSION, candidate.digest, candidate.preprocessing, dataset.digest))
        path = self.folder and self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        if path and path.is_file():
            return load_file(path)
        name = f"{dataset.name}, {dataset.split}"
        (photos,) = open_photos(dataset.photos, [Shown(candidate.preprocessing)], self.store, name)
        if photos.skipped and (photos.labels < 0).all():
            raise TrainError(f"{photos.skipped[0][0]} cannot be decoded, and the right answers are listed by position")
        found = extract(candidate.open(), photos.pixels, f"{name}: {candidate.about['subject']}", BATCH)
        kept = {key: value.contiguous() for key, value in found.items() if key != "logits" or dataset.logits}
        kept["labels"] = torch.from_numpy(photos.labels)
        if path:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    file.write(save(kept))
            except OSError as error:
                raise TrainError(f"cannot write {path} ({error}); make room, or choose another --cache") from error
        return kept


def survey(
    students: Sequence[Candidate], teachers: Sequence[Candidate], plan: Plan, cache: Cache, *, seed: int = 0
) -> list[Result]:
    """The results of the teachers, the own resolution first, then of the students. Raises what `evaluate` raises."""
    rows = []
    for candidate in [*teachers, *students]:
        compared: dict[str, Candidate] = {}
        if candidate.taught and teachers:  # with the teacher that is given the same pixels
            compared["the teacher"] = next(t for t in teachers if t.preprocessing == candidate.preprocessing)
        if (compared or candidate in teachers) and candidate.preprocessing != teachers[0].preprocessing:
            compared[f"the teacher at {teachers[0].preprocessing.size} px"] = teachers[0]
        metrics = evaluate(candidate, plan, cache, compared, seed=seed)
        rows += results_of(metrics, {**candidate.about, "commit": commit()}, candidate.costs)
    return rows


def evaluate(
    candidate: Candidate, plan: Plan, cache: Cache, teachers: Mapping[str, Candidate] | None = None, *, seed: int = 0
) -> list[Metric]:
    """Every figure of a plan, named `protocol, kind of features`; shares in 0..1, 95 % intervals. Raises TrainError.

    teachers: what the candidate is compared with, by the name in the figures. Nothing is chosen on the photos that are
    reported: the probe's rate is chosen on a tenth of its training photos.
    """
    metrics = []
    for task in plan.tasks:
        task.check_disjoint(plan.protocols)
        train, test = cache.embeddings(candidate, task.train), cache.embeddings(candidate, task.test)
        for kind in candidate.kinds:
            if task.answers is None:
                metrics += _classify(task, kind, train, test, plan, seed)
            if task.answers is not None or ("retrieval" in plan.protocols and task.retrieval):
                metrics += search(task, kind, train, test)
    for dataset in plan.imagenet:
        theirs = {name: cache.embeddings(teacher, dataset) for name, teacher in (teachers or {}).items()}
        metrics += _compare(cache.embeddings(candidate, dataset), theirs, dataset)
    for folder, truth in plan.revisited:
        metrics += revisited.measure(candidate.open(), candidate.preprocessing, candidate.kinds, folder, truth)
    return metrics


def _classify(task: Task, kind: str, train: Embeddings, test: Embeddings, plan: Plan, seed: int) -> list[Metric]:
    """Classes of the test photos by probe and k-NN."""
    where, labels = (task.test.name, task.test.split), test["labels"]
    metrics = []
    if "probe" in plan.protocols and kind != "teacher":  # a linear map of `cls`: their probes are the same
        probe = linear_probe(train[kind], train["labels"], task.train.photos.classes, seed=seed)
        metrics.append(share(f"linear probe, {kind}", *where, probe.classify(test[kind]) == labels))
    for k in plan.neighbours if "knn" in plan.protocols else ():
        votes = knn(train[kind], train["labels"], test[kind], k=k)
        metrics.append(share(f"{k}-NN, {kind}", *where, votes == labels))
    return metrics


def search(task: Task, kind: str, gallery: Embeddings, queries: Embeddings) -> list[Metric]:
    """mAP and recall@1 by one kind of features, which may be two models' that share a space. Raises TrainError."""
    where = task.test.name, task.test.split
    if task.answers is not None:
        precisions, firsts = retrieve_listed(gallery[kind], queries[kind], task.answers)
    else:
        same = task.same_photos()
        if same is not None and (len(gallery["labels"]), len(same)) != (len(task.train.photos), len(queries["labels"])):
            raise TrainError(f"{where[0]}: take the broken photos out: positions must agree where photos are in both")
        precisions, firsts = retrieve(gallery[kind], gallery["labels"], queries[kind], queries["labels"], same=same)
    if not len(firsts):
        raise TrainError(f"{', '.join(where)}: no query has a right answer in the gallery")
    return [mean(f"retrieval mAP, {kind}", *where, precisions), share(f"recall@1, {kind}", *where, firsts)]


def teacher_space(student: Candidate, spec: TeacherSettings, tasks: Sequence[Task], cache: Cache) -> list[Result]:
    """Every pair on every task with retrieval, and the cosine of their vectors. Raises TrainError.

    The teacher is given the photos as it was when it taught this student.
    """
    teacher = from_teacher(replace(spec, pixels=student.teacher_pixels), student.preprocessing)
    both, rows, here = {"student": student, "teacher": teacher}, list[Result](), commit()
    for task in (task for task in tasks if task.retrieval):
        gallery = {name: cache.embeddings(candidate, task.train) for name, candidate in both.items()}
        queries = {name: cache.embeddings(candidate, task.test) for name, candidate in both.items()}
        for variant, (asked, asks, kind) in PAIRS.items():
            found = search(task, kind, gallery[asked], queries[asks])
            rows += results_of(found, {**both[asks].about, "commit": here, "variant": variant})
        cosine = functional.cosine_similarity(queries["student"]["teacher"], queries["teacher"]["teacher"])
        average = mean("cosine to the teacher", task.test.name, task.test.split, cosine)
        rows += results_of([average], {**student.about, "commit": here, "variant": ""})
        amount = float(len(gallery["student"]["labels"]))
        rows.append(replace(rows[-1], metric="photos of the gallery", n=None, value=amount, low=None, high=None))
    return rows


def _compare(ours: Embeddings, teachers: Mapping[str, Embeddings], dataset: Dataset) -> list[Metric]:
    """Top-1 through the teacher's head of 1000 classes, agreement with the teacher, and cosine to its embedding."""
    where, labels = (dataset.name, dataset.split), ours["labels"]
    metrics = []
    if "logits" in ours:
        logits, classes = ours["logits"], torch.unique(labels)  # sorted
        found = {f"top-1 of {logits.shape[1]}": logits.argmax(1)}
        if len(classes) < logits.shape[1]:
            found[f"top-1 of its {len(classes)} classes"] = classes[logits[:, classes].argmax(1)]
        for name, predicted in found.items():
            metrics.append(share(f"{name} through the teacher's head", *where, predicted == labels))
    for name, theirs in teachers.items():
        if "logits" in ours and "logits" in theirs:
            same = ours["logits"].argmax(1) == theirs["logits"].argmax(1)
            metrics.append(share(f"top-1 agreement with {name}", *where, same))
        cosine = functional.cosine_similarity(ours["teacher"], theirs["teacher"])
        average = mean(f"cosine to {name}, mean", *where, cosine)
        lowest = replace(average, name=f"cosine to {name}, minimum", value=cosine.min().item(), interval=None)
        metrics += [average, lowest]
    return metrics
