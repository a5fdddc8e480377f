"""The figures that every run ends with: probe and k-NN on val, and the teacher's own head."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from leap_zoo.atomic import atomic_file
from leap_zoo.card import Metric
from train.data.labels import imagenet_indices
from train.data.splits import Splits
from train.data.store import Photos
from train.evaluate.datasets import Dataset
from train.evaluate.features import Features, extract, teacher_features
from train.evaluate.protocols import Probe, knn, linear_probe, mean, share
from train.method.teacher import Teacher
from train.recipe import Recipe
from train.run import Pooling


class Judged(NamedTuple):
    """Photos as the deployed model sees them: the probe learns from `train`, figures are of the others.

    held_out: photos that neither the student nor the probe learned from. aside: photos of all sets that `data.holdout`
    keeps aside, labelled or not.
    """

    train: Photos
    val: Photos
    held_out: Photos | None
    aside: Photos | None = None


def measure(
    recipe: Recipe, features: Features, photos: Judged, teacher: Teacher
) -> tuple[list[Metric], Pooling, Probe]:
    """Every figure; the pooling that the probe prefers by its score on a tenth of train; and that pooling's probe.

    features: uint8 (B, H, W, 3) -> `cls` and `patch_mean` (B, D_s), and `teacher` (B, D_t), CLS in the teacher's space.
    """
    train, val = extract(features, photos.train.pixels, "train"), extract(features, photos.val.pixels, "val")
    train_labels, val_labels = torch.from_numpy(photos.train.labels), torch.from_numpy(photos.val.labels)
    where = recipe.data.name, "val"
    metrics: list[Metric] = []
    probes: dict[Pooling, Probe] = {}
    for kind in get_args(Pooling):
        probe = probes[kind] = linear_probe(train[kind], train_labels, photos.train.classes, seed=recipe.seed)
        metrics.append(share(f"linear probe, {kind}", *where, probe.classify(val[kind]) == val_labels))
        for k in (10, 20):
            votes = knn(train[kind], train_labels, val[kind], k=k)
            metrics.append(share(f"{k}-NN, {kind}", *where, votes == val_labels))
    pooling = max(probes, key=lambda kind: probes[kind].selection)
    if recipe.teacher.head is not None:
        metrics += _teacher_head(recipe, features, photos, teacher)
    if photos.aside is not None:
        metrics += _fidelity(recipe, features, photos.aside, teacher)
    return metrics, pooling, probes[pooling]


def _teacher_head(recipe: Recipe, features: Features, photos: Judged, teacher: Teacher) -> list[Metric]:
    """Accuracy through the teacher's classifier, where the photos' classes are its own."""
    own = teacher.classes != 1000
    judged, split = (photos.val, "val") if own else (photos.held_out, "held-out")
    indices = np.arange(teacher.classes) if own else imagenet_indices(photos.val.classes)
    if judged is None or indices is None:
        return []
    predicted = _classes(teacher, extract(features, judged.pixels, split)["teacher"])
    name = f"top-1 of {teacher.classes} through the teacher's head"
    return [share(name, recipe.data.name, split, predicted == torch.from_numpy(indices[judged.labels]))]


def _fidelity(recipe: Recipe, features: Features, photos: Photos, teacher: Teacher) -> list[Metric]:
    """How near the student is to its teacher on the same photos: cosine of the CLS tokens, and the same top-1."""
    ours = extract(features, photos.pixels, "photos kept aside")["teacher"]
    theirs = extract(teacher_features(teacher), photos.pixels, "photos kept aside, the teacher")["teacher"]
    where = "all training photos", f"one in {recipe.data.holdout}, kept aside"
    metrics = [mean("cosine to the teacher", *where, functional.cosine_similarity(ours, theirs))]
    if recipe.teacher.head is not None:
        same = _classes(teacher, ours) == _classes(teacher, theirs)
        metrics.append(share("top-1 agreement with the teacher", *where, same))
    return metrics


def _classes(teacher: Teacher, cls: Tensor) -> Tensor:
    """What the teacher's classifier says of CLS tokens (N, D_t): classes (N,), on the CPU."""
    return teacher.head(cls.to(next(teacher.parameters()).device)).argmax(1).cpu()


def of_teacher(recipe: Recipe, splits: Splits, photos: Judged, teacher: Teacher) -> list[Metric]:
    """The same figures of the teacher itself: what a student could reach.

    They are kept in the store of decoded photos for the teacher's next student, by a digest of all they depend on.
    """
    parts = [recipe.teacher, recipe.preprocessing, recipe.data, recipe.seed]
    if recipe.teacher.supervised is not None:  # it is trained in the run: by what the whole recipe says
        parts.append(recipe)
    digest = hashlib.sha256(msgspec.json.encode(parts))
    if recipe.teacher.checkpoint is not None:
        digest.update(Path(recipe.teacher.checkpoint).read_bytes())
    for split in (splits.train, splits.val, splits.held_out, splits.aside):
        digest.update(Dataset(recipe.data.name, "", split).digest.encode())
    file = Path(recipe.data.store) / f"teacher-{digest.hexdigest()[:32]}.json"
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(file.read_bytes(), type=list[Metric])
    metrics = measure(recipe, teacher_features(teacher), photos, teacher)[0]
    with suppress(OSError), atomic_file(file) as out:  # a store of photos that are there may be read-only
        out.write(msgspec.json.encode(metrics))
    return metrics
