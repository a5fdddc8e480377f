"""Monitor a training: k-NN accuracy on some of the training photos at intervals, written to monitor.csv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train import table
from train.data.store import Photos
from train.evaluate.features import Normalisation, extract, normalise, pooled
from train.evaluate.protocols import knn, share
from train.loop import Training
from train.recipe import Recipe

FILE = "monitor.csv"
SHARE = 10  # one in so many photos is a query
MOST = 2000  # queries, and photos of the gallery: enough to see a trend, and seconds of work


@dataclass(frozen=True)
class Measurement:
    """One figure after `epoch` whole epochs (from 1) and `step` optimizer steps: a share of `n`, 95 % interval."""

    epoch: int
    step: int
    metric: str
    value: float
    n: int
    low: float
    high: float


def for_recipe(
    recipe: Recipe, training: Training, photos: Photos, folder: Path, normalisation: Normalisation
) -> Callable[[int], None] | None:
    """What measures after the epochs that a recipe asks for, by default ten times in a run.

    photos: the training photos as the deployed model will see them. None without labels, or with fewer than two classes
    or twenty photos.
    """
    every = max(1, round(recipe.epochs / 10)) if recipe.monitor is None else recipe.monitor
    if not every or len(photos) < 2 * SHARE or len(np.unique(photos.labels)) < 2 or photos.labels.min() < 0:
        return None
    monitor = Monitor(photos, normalisation)

    def after_epoch(done: int) -> None:
        if done % every == 0 or done == recipe.epochs:
            append(folder / FILE, monitor.measure(training, done))

    return after_epoch


class Monitor:
    """10-NN on a tenth of the photos, at most 2000, against at most 2000 of the others.

    The student has seen all of these photos, without labels, so the figures only show a trend. Monitoring does not
    affect the training. A student that is still growing is measured at the depth that it has.
    """

    def __init__(self, photos: Photos, normalisation: Normalisation) -> None:
        queries, gallery = split(photos.labels)
        self.photos = photos.take(np.concatenate([queries, gallery]))
        self.queries, self.normalisation = len(queries), normalisation

    def measure(self, training: Training, epoch: int) -> list[Measurement]:
        """10-NN by CLS and by the mean of the patch tokens; the student's mode is given back."""
        distiller, depth = training.distiller, training.distiller.depth(training.curriculum.block)
        was_training, device = distiller.training, next(distiller.parameters()).device

        def features(pixels: Tensor) -> dict[str, Tensor]:
            return pooled(distiller.student, normalise(pixels.to(device), *self.normalisation), depth)

        distiller.eval()
        found = extract(features, self.photos.pixels, "the monitor")
        distiller.train(was_training)
        rows, at, labels = [], self.queries, torch.from_numpy(self.photos.labels)
        for kind, values in found.items():
            right = knn(values[at:], labels[at:], values[:at], k=10) == labels[:at]
            figure = share(f"10-NN, {kind}", "training photos", "monitor", right)
            low, high = figure.interval or (figure.value, figure.value)
            rows.append(Measurement(epoch, training.step, figure.name, figure.value, figure.n, low, high))
        return rows


def split(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the queries (a tenth) and of the gallery, each with its share of every class; always the same."""
    random = np.random.default_rng(0)
    place = np.empty(len(labels))  # 0..1, evenly over each class: any stretch of it holds the classes in proportion
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        place[mine] = (np.arange(len(mine)) + random.random(len(mine))) / len(mine)
    order, tenth = np.argsort(place), len(labels) // SHARE
    return order[:tenth][:MOST], order[tenth:][:MOST]


def append(file: Path, rows: list[Measurement]) -> None:
    """Add the measurements of one epoch; those in the file of this or of later epochs precede a resumption and go."""
    table.write(file, [*(row for row in read(file) if row.epoch < rows[0].epoch), *rows])


def read(file: Path) -> list[Measurement]:
    """The measurements of a run, none when there is no such file. Raises TrainError for a file of another kind."""
    return table.read(file, Measurement) if file.is_file() else []
