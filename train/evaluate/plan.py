"""Which protocols on which photos, and the figures they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from leap_zoo.card import Metric
from train.errors import TrainError
from train.evaluate import revisited, scores
from train.evaluate.datasets import Dataset, Task
from train.evaluate.features import Embedder, extract
from train.evaluate.few_shot import few_shot
from train.evaluate.knn import knn
from train.evaluate.own_classes import own_classes
from train.evaluate.probe import linear_probe
from train.evaluate.retrieval import Retrieval, retrieve, retrieve_listed

Protocol = Literal["probe", "knn", "retrieval", "few-shot", "fit"]
PROTOCOLS: tuple[Protocol, ...] = ("probe", "knn", "retrieval", "few-shot", "fit")
USUAL = PROTOCOLS[:4]  # `fit` takes minutes
NEIGHBOURS, SHOTS, FIT_SHOTS = (10, 20), (1, 5, 10), (1, 2, 5, 10, 20)
Embeddings = dict[str, Tensor]  # of a dataset: (N, D) by kind, and `labels` (N,)


@dataclass(frozen=True)
class Plan:
    """`tasks` are measured by `protocols`; `revisited` has (folder of photos, ground truth JSON)."""

    tasks: Sequence[Task] = ()
    protocols: Sequence[Protocol] = USUAL
    revisited: Sequence[tuple[Path, Path]] = ()


def evaluate(embedder: Embedder, plan: Plan, *, seed: int = 0) -> list[Metric]:
    """Every figure of a plan, named `protocol, kind of features`; shares in 0..1, 95 % intervals. Raises TrainError.

    Nothing is chosen on the photos that are reported: the probe's rate is chosen on a tenth of its training photos.
    """

    def embed(dataset: Dataset) -> Embeddings:
        photos = dataset.decode(embedder.preprocessing)
        found = extract(embedder.features, photos.pixels, f"{dataset.name}, {dataset.split}")
        return {**found, "labels": torch.from_numpy(photos.labels)}

    metrics: list[Metric] = []
    for task in plan.tasks:
        check_disjoint(task, plan.protocols)
        train, test = embed(task.train), embed(task.test)
        for kind in (kind for kind in train if kind != "labels"):
            # `teacher` is a linear map of `cls`: their probes are the same.
            protocols = [name for name in plan.protocols if (name, kind) != ("probe", "teacher")]
            metrics += measure(task, kind, train, test, protocols, seed=seed)
    for folder, truth in plan.revisited:
        metrics += revisited.measure(embedder, folder, truth)
    return metrics


def check_disjoint(task: Task, protocols: Sequence[Protocol] = ()) -> None:
    """Refuse photos in both TRAIN and TEST, unless retrieval is all that is measured. Raises TrainError."""
    same = task.same_photos()
    if same is not None and set(protocols) != {"retrieval"}:
        raise TrainError(
            f"{task.test.name}: {int((same >= 0).sum())} photos are in TRAIN and in TEST, so a probe would be tested "
            "on what it learned from; take them out of one, or ask for --protocols retrieval, where a photo is not an "
            "answer to itself"
        )


def measure(
    task: Task,
    kind: str,
    train: Embeddings,
    test: Embeddings,
    protocols: Sequence[Protocol],
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    seed: int = 0,
) -> list[Metric]:
    """The figures of a task by these protocols and one kind of features. Raises TrainError."""
    where = task.test.name, task.test.split
    features = train[kind], train["labels"], test[kind], test["labels"]
    metrics: list[Metric] = []
    if "probe" in protocols:
        probe = linear_probe(*features[:2], task.train.photos.classes, seed=seed)
        score = scores.accuracy(probe.classify(test[kind]), test["labels"])
        metrics.append(scores.share(f"linear probe, {kind}", *where, score))
    if "knn" in protocols:
        for k in neighbours:
            score = scores.accuracy(knn(*features[:3], k=k), test["labels"])
            metrics.append(scores.share(f"{k}-NN, {kind}", *where, score))
    if "retrieval" in protocols:
        metrics += search(task, train, test, kind).metrics(*where, kind)
    if "few-shot" in protocols:
        for shots in SHOTS:
            accuracies = few_shot(*features, shots=shots, seed=seed)
            # The interval is over draws; it does not say what other test photos would give.
            figure = scores.mean(f"{shots}-shot, mean of {len(accuracies)} draws, {kind}", *where, accuracies)
            metrics.append(msgspec.structs.replace(figure, n=len(test["labels"])))
    if "fit" in protocols:
        for shots in FIT_SHOTS:
            found = own_classes(*features, shots=shots, seed=seed)
            name = f"fit, {shots} per class"
            metrics.append(scores.mean(f"{name}, accuracy, {kind}", *where, found.accuracy))
            if not found.validated.isnan().any():
                metrics.append(scores.mean(f"{name}, cross-validated, {kind}", *where, found.validated))
                metrics.append(scores.share(f"{name}, interval holds, {kind}", *where, scores.Score.of(found.held)))
    return metrics


def search(task: Task, gallery: Embeddings, queries: Embeddings, kind: str) -> Retrieval:
    """Retrieval of a task by one kind of features, which may be two models' that share a space. Raises TrainError."""
    if task.answers is not None:
        return retrieve_listed(gallery[kind], queries[kind], task.answers)
    same = task.same_photos()
    if same is not None and (len(gallery["labels"]), len(same)) != (len(task.train.photos), len(queries["labels"])):
        raise TrainError(f"{task.test.name}: take the broken photos out: positions must agree where photos are in both")
    return retrieve(gallery[kind], gallery["labels"], queries[kind], queries["labels"], same=same)
