"""How good the student is while it learns: k-NN on a part of the training photos, now and then, into monitor.csv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train import table
from train.data.store import Photos
from train.errors import TrainError
from train.evaluate.features import extract, normalise, pooled
from train.evaluate.knn import knn
from train.evaluate.scores import accuracy
from train.loop import Training
from train.recipe import Recipe

FILE = "monitor.csv"
NEIGHBOURS = 10
SHARE = 10  # one in so many photos is a query
MOST = 2000  # queries, and photos of the gallery: enough to see a trend, and seconds of work
MOST_BYTES = 10_000_000  # of monitor.csv, which has two lines a measurement


@dataclass(frozen=True)
class Measurement:
    """One figure after `epoch` whole epochs (from 1) and `step` optimiser steps: a share of `n`, 95 % interval."""

    epoch: int
    step: int
    metric: str
    value: float
    n: int
    low: float
    high: float


def for_recipe(
    recipe: Recipe,
    training: Training,
    photos: Photos,
    folder: Path,
    normalisation: tuple[Sequence[float], Sequence[float]],
) -> Callable[[int], None] | None:
    """What measures after the epochs that a recipe asks for; None without labels, or with fewer than two classes or
    twenty photos.

    photos: the training photos as the deployed model will see them. The val photos play no part.
    """
    every = default_interval(recipe.epochs) if recipe.monitor is None else recipe.monitor
    if not every or len(photos) < 2 * SHARE or len(np.unique(photos.labels)) < 2 or photos.labels.min() < 0:
        return None
    monitor = Monitor(photos, normalisation)

    def after_epoch(done: int) -> None:
        if done % every == 0 or done == recipe.epochs:
            append(folder / FILE, monitor.measure(training, done))

    return after_epoch


def default_interval(epochs: int) -> int:
    """Epochs from one measurement to the next that make about ten of them."""
    return max(1, round(epochs / 10))


class Monitor:
    """10-NN of the student's CLS and patch mean on a tenth of the photos, against at most 2000 of the others.

    The student has seen all of these photos, but no label: the figures show the trend, they are no result. The
    training is the same with and without: nothing random is drawn from its generators, and its clock stands still.
    A student that is still growing is measured at the depth that it has.
    """

    def __init__(self, photos: Photos, normalisation: tuple[Sequence[float], Sequence[float]]) -> None:
        queries, gallery = split(photos.labels)
        chosen = photos.take(np.concatenate([queries, gallery]))
        self.pixels, self.labels = chosen.pixels, torch.from_numpy(chosen.labels)
        self.queries, self.normalisation = len(queries), normalisation

    def measure(self, training: Training, epoch: int) -> list[Measurement]:
        """10-NN by CLS and by the mean of the patch tokens; the student's mode is given back."""
        distiller, student = training.distiller, training.distiller.student
        device, depth = next(student.parameters()).device, distiller.depth(training.curriculum.block)

        def features(pixels: Tensor) -> dict[str, Tensor]:
            return pooled(student, normalise(pixels.to(device), *self.normalisation), depth)

        was_training = distiller.training
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            distiller.eval()
            try:
                found = extract(features, self.pixels, "the monitor")
            finally:
                distiller.train(was_training)
        rows = []
        for kind, values in found.items():
            here, there = self.labels[: self.queries], self.labels[self.queries :]
            score = accuracy(knn(values[self.queries :], there, values[: self.queries], k=NEIGHBOURS), here)
            name = f"{NEIGHBOURS}-NN, {kind}"
            rows.append(Measurement(epoch, training.step, name, score.value, score.n, *score.interval))
        return rows


def split(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the queries (a tenth) and of the gallery, each with its share of every class; always the same."""
    random = np.random.default_rng(0)
    place = np.empty(len(labels))  # 0..1, evenly over each class: any stretch of it holds the classes in proportion
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        place[mine] = (np.arange(len(mine)) + random.random(len(mine))) / len(mine)
    order = np.argsort(place)
    tenth = len(labels) // SHARE
    return order[:tenth][:MOST], order[tenth:][:MOST]


def append(file: Path, rows: list[Measurement]) -> None:
    """Add the measurements of one epoch; those in the file of this or of later epochs precede a resumption and go."""
    table.write(file, [*(row for row in read(file) if row.epoch < rows[0].epoch), *rows])


def read(file: Path) -> list[Measurement]:
    """The measurements of a run, none when there is no such file. Raises TrainError for a file of another kind."""
    if not file.is_file():
        return []
    try:
        if file.stat().st_size > MOST_BYTES:
            raise TrainError(f"larger than {MOST_BYTES // 1_000_000} MB")
        return table.read(file, Measurement)
    except (TrainError, TypeError) as error:
        raise TrainError(f"{file} was not written by the monitor ({error}); move it away") from error
