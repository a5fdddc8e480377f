"""Evaluate all candidates on all photos: embed each photo once per candidate, and compute figures from embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from leap_zoo.card import GENERAL, Metric
from leap_zoo.files import atomic_file
from train.data.store import Shown, open_photos
from train.errors import TrainError
from train.evaluate import revisited
from train.evaluate.datasets import Dataset, Task
from train.evaluate.features import Candidate, extract, from_teacher
from train.evaluate.protocols import Probe, knn, linear_probe, mean, retrieve, retrieve_listed, share
from train.recipe import TeacherSettings
from train.research.results import Result, results_of
from train.run import commit

VERSION = 3  # raise it when embeddings come to mean something else
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
    """held_out: photos of the teacher's 1000 classes. aside: photos on which students are compared with the teacher.

    imagenet: both in one. world: photos that nobody learned from, with labels among the teacher's 1000 classes.
    corrupted: versions of them; a split is called KIND STRENGTH. revisited: folders of photos with their ground truth,
    a JSON file.
    """

    tasks: Sequence[Task]
    protocols: Sequence[str] = ("probe", "knn", "retrieval")
    neighbours: Sequence[int] = (10, 20)
    imagenet: Sequence[Dataset] = ()
    revisited: Sequence[tuple[Path, Path]] = ()
    held_out: Sequence[Dataset] = ()
    aside: Sequence[Dataset] = ()
    world: Sequence[Dataset] = ()
    corrupted: Sequence[Dataset] = ()

    def check_disjoint(self) -> None:
        """Refuse photos in both TRAIN and TEST, unless retrieval is all that is measured. Raises TrainError."""
        for task in self.tasks:
            task.check_disjoint(self.protocols)


@dataclass(frozen=True)
class Cache:
    """folder: of embeddings, a safetensors file per candidate and dataset. store: as of recipes."""

    folder: Path
    store: Path
    batch: int = 32  # larger ones do not fit a processor's caches: the teacher takes a quarter longer per photo

    def embeddings(self, candidate: Candidate, dataset: Dataset) -> Embeddings:
        """From the folder, or computed now and kept there. Raises TrainError."""
        about = repr((VERSION, candidate.digest, candidate.preprocessing, dataset.digest))
        path = self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        if candidate.digest:
            with suppress(OSError, SafetensorError):  # not there, or damaged
                return load_file(path)
        name = f"{dataset.name}, {dataset.split}"
        (photos,) = open_photos(dataset.photos, [Shown(candidate.preprocessing)], self.store, name)
        features, kept = candidate.open(), {*candidate.kinds, "teacher", *(["logits"] if dataset.logits else [])}

        def wanted(pixels: Tensor) -> Embeddings:
            return {key: value for key, value in features(pixels).items() if key in kept}

        found = extract(wanted, photos.pixels, f"{name}: {candidate.about['subject']}", self.batch)
        found["labels"] = torch.from_numpy(photos.labels)
        if candidate.digest:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    file.write(save(found))
            except OSError as error:
                raise TrainError(f"cannot write {path} ({error}); make room, or choose another --cache") from error
        return found


def survey(
    students: Sequence[Candidate],
    teachers: Sequence[Candidate],
    plan: Plan,
    cache: Cache,
    *,
    seed: int = 0,
    students_only: bool = False,
) -> list[Result]:
    """The results of the teachers, the own resolution first, then of the students. Raises what `evaluate` raises.

    students_only: without those of the teachers, which students are compared with all the same.
    """
    plan.check_disjoint()
    rows = []
    for candidate in students if students_only else [*teachers, *students]:
        compared: dict[str, Candidate] = {}
        if candidate.taught and teachers:  # with the teacher that is given the same pixels
            compared["the teacher"] = next(t for t in teachers if t.preprocessing == candidate.preprocessing)
        if (compared or candidate in teachers) and candidate.preprocessing != teachers[0].preprocessing:
            compared[f"the teacher at {teachers[0].preprocessing.size} px"] = teachers[0]
        metrics, _ = evaluate(candidate, plan, cache, compared, seed=seed)
        rows += results_of(metrics, {**candidate.about, "commit": commit()}, candidate.costs)
    return rows


def evaluate(
    candidate: Candidate, plan: Plan, cache: Cache, teachers: Mapping[str, Candidate] | None = None, *, seed: int = 0
) -> tuple[list[Metric], dict[str, Probe]]:
    """Every figure of a plan, named `protocol, kind of features`; and the last task's probes by kind of features.

    Shares are in 0..1, intervals of 95 %. teachers: what the candidate is compared with, by the name in the figures.
    Nothing is chosen on the photos that are reported: the probe's rate is chosen on a tenth of its training photos.
    Raises TrainError.
    """
    metrics, probes = list[Metric](), dict[str, Probe]()
    embed, teachers = partial(cache.embeddings, candidate), teachers or {}
    for task in plan.tasks:
        figures, probes = _of_task(task, candidate.kinds, embed(task.train), embed(task.test), plan, seed)
        metrics += figures
    for dataset in plan.held_out:
        metrics.append(_through_head(embed(dataset), dataset))
    for dataset in plan.imagenet:
        theirs = {name: cache.embeddings(teacher, dataset) for name, teacher in teachers.items()}
        metrics += _compare(embed(dataset), theirs, dataset)
    for dataset in plan.world if candidate.classifies else ():
        theirs = {name: cache.embeddings(teacher, dataset) for name, teacher in teachers.items()}
        metrics += _on_world(embed(dataset), theirs, dataset)
    if plan.corrupted and candidate.classifies:
        metrics += _when_corrupted(embed, plan.corrupted)
    for dataset in plan.aside:
        ours = embed(dataset)
        for name, teacher in teachers.items():
            cosine, agreement = _fidelity(name, ours, cache.embeddings(teacher, dataset), dataset)
            metrics += [mean(f"cosine to {name}", dataset.name, dataset.split, cosine), *agreement]
    for folder, truth in plan.revisited:
        metrics += revisited.measure(candidate.open(), candidate.preprocessing, candidate.kinds, folder, truth)
    return metrics, probes


def _of_task(
    task: Task, kinds: Sequence[str], train: Embeddings, test: Embeddings, plan: Plan, seed: int
) -> tuple[list[Metric], dict[str, Probe]]:
    where, labels, by_class = (task.test.name, task.test.split), test["labels"], task.answers is None
    metrics, probes = list[Metric](), dict[str, Probe]()
    for kind in kinds:
        if by_class and "probe" in plan.protocols and kind != "teacher":  # a linear map of `cls`: its probe is the same
            probe = probes[kind] = linear_probe(train[kind], train["labels"], task.train.photos.classes, seed=seed)
            metrics.append(share(f"linear probe, {kind}", *where, probe.classify(test[kind]) == labels))
        for k in plan.neighbours if by_class and "knn" in plan.protocols else ():
            votes = knn(train[kind], train["labels"], test[kind], k=k)
            metrics.append(share(f"{k}-NN, {kind}", *where, votes == labels))
        if not by_class or ("retrieval" in plan.protocols and task.retrieval):
            metrics += search(task, kind, train, test)
    if task.test.logits:
        metrics.append(_through_head(test, task.test))
    return metrics, probes


def search(task: Task, kind: str, gallery: Embeddings, queries: Embeddings) -> list[Metric]:
    """mAP and recall@1 by one kind of features, which may be two models' that share a space. Raises TrainError."""
    where, same = (task.test.name, task.test.split), task.same_photos()
    sets = [(task.train, gallery), (task.test, queries)]
    broken = any(len(found["labels"]) < len(dataset.photos) for dataset, found in sets)
    if broken and (task.answers is not None or same is not None):
        raise TrainError(f"{where[0]}: take the broken photos out: answers, and photos in both, are known by position")
    if task.answers is not None:
        precisions, firsts = retrieve_listed(gallery[kind], queries[kind], task.answers)
    else:
        precisions, firsts = retrieve(gallery[kind], gallery["labels"], queries[kind], queries["labels"], same=same)
    if not len(firsts):
        raise TrainError(f"{', '.join(where)}: no query has a right answer in the gallery")
    return [mean(f"retrieval mAP, {kind}", *where, precisions), share(f"recall@1, {kind}", *where, firsts)]


def teacher_space(student: Candidate, spec: TeacherSettings, tasks: Sequence[Task], cache: Cache) -> list[Result]:
    """Every pair on every task with retrieval, and the cosine of their vectors. Raises TrainError.

    The teacher is given the student's photos; where it enlarges them, it sees less detail than in training.
    """
    teacher = from_teacher(replace(spec, pixels=student.teacher_pixels), student.preprocessing)
    both, rows, here = {"student": student, "teacher": teacher}, list[Result](), commit()
    for task in (task for task in tasks if task.retrieval):
        gallery = {name: cache.embeddings(candidate, task.train) for name, candidate in both.items()}
        queries = {name: cache.embeddings(candidate, task.test) for name, candidate in both.items()}
        for variant, (asked, asks, kind) in PAIRS.items():
            found = search(task, kind, gallery[asked], queries[asks])
            rows += results_of(found, {**both[asks].about, "commit": here, "variant": variant})
        alike, _ = evaluate(student, Plan([], aside=[task.test]), cache, {"the teacher": teacher})
        rows += results_of(alike, {**student.about, "commit": here, "variant": ""})
        amount = float(len(gallery["student"]["labels"]))
        rows.append(replace(rows[-1], metric="photos of the gallery", n=None, value=amount, low=None, high=None))
    return rows


def _compare(ours: Embeddings, teachers: Mapping[str, Embeddings], dataset: Dataset) -> list[Metric]:
    """Top-1 of 1000 classes, agreement with the teacher, and cosine to its embedding."""
    where, metrics = (dataset.name, dataset.split), list[Metric]()
    if "logits" in ours:
        metrics.append(_through_head(ours, dataset))
        classes = torch.unique(ours["labels"])  # sorted
        if len(classes) < ours["logits"].shape[1]:
            right = classes[ours["logits"][:, classes].argmax(1)] == ours["labels"]
            metrics.append(share(f"top-1 of its {len(classes)} classes", *where, right))
    for name, theirs in teachers.items():
        cosine, agreement = _fidelity(name, ours, theirs, dataset)
        average = mean(f"cosine to {name}, mean", *where, cosine)
        lowest = replace(average, name=f"cosine to {name}, minimum", value=cosine.min().item(), interval=None)
        metrics += [*agreement, average, lowest]
    return metrics


def _on_world(ours: Embeddings, teachers: Mapping[str, Embeddings], dataset: Dataset) -> list[Metric]:
    """Top-1 and top-5 of the 1000 classes, and agreement with each teacher."""
    where, classes = (dataset.name, dataset.split), ours["logits"].shape[1]
    first = (ours["logits"].topk(5).indices == ours["labels"][:, None]).any(1)
    metrics = [_through_head(ours, dataset), share(f"top-5 of {classes} classes", *where, first)]
    for name, theirs in teachers.items():
        metrics += _agreement(name, ours, theirs, dataset)
    return metrics


def _when_corrupted(embed: Callable[[Dataset], Embeddings], versions: Sequence[Dataset]) -> list[Metric]:
    """Top-1 per kind of corruption, the mean of its strengths, and of all; intervals over photos, as all are of one."""
    right: dict[str, list[Tensor]] = {}
    name = versions[0].name
    for dataset in versions:
        found = embed(dataset)
        right.setdefault(dataset.split.rpartition(" ")[0], []).append(found["logits"].argmax(1) == found["labels"])
    right["all"] = [each for kind in right.values() for each in kind]
    return [mean(GENERAL, name, kind, torch.stack(found).double().mean(0)) for kind, found in right.items()]


def _through_head(ours: Embeddings, dataset: Dataset) -> Metric:
    logits = ours["logits"]
    name = f"top-1 of {logits.shape[1]} classes"
    return share(name, dataset.name, dataset.split, logits.argmax(1) == ours["labels"])


def _fidelity(name: str, ours: Embeddings, theirs: Embeddings, dataset: Dataset) -> tuple[Tensor, list[Metric]]:
    """Cosines (N,) to a teacher's embeddings; and, where both have logits, how often the top class is the same."""
    return functional.cosine_similarity(ours["teacher"], theirs["teacher"]), _agreement(name, ours, theirs, dataset)


def _agreement(name: str, ours: Embeddings, theirs: Embeddings, dataset: Dataset) -> list[Metric]:
    if "logits" not in ours or "logits" not in theirs:
        return []
    same = ours["logits"].argmax(1) == theirs["logits"].argmax(1)
    return [share(f"top-1 agreement with {name}", dataset.name, dataset.split, same)]
