"""From embeddings and labels to a linear classifier in closed form, and how good it is on photos put aside.

One kind serves any number of photos: linear discriminant analysis with a shrunk covariance. With one photo per class it
says the class of the nearest photo; with 1 to 20 it is as accurate as a logistic regression (results/fit.csv).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leap_zoo import doubt
from leap_zoo.doubt import Floats

SHRINKAGE = 0.6
FEW = 1000  # photos, up to which there are 10 folds, beyond 5: fewer photos aside is nearer to the real head
SCALE_ALONE = 12.0  # where no photo can be put aside: rather too doubtful for one photo per class
_SCALES = np.geomspace(0.5, 200, 60)

Labels = npt.NDArray[np.intp]


def learn(embeddings: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """weight (C, D) and bias (C,): class means seen through the inverse of one covariance for all classes.

    embeddings (N, D) of unit length; labels (N,) in 0..C-1, every class at least once. The covariance within classes,
    in units of its mean variance, is drawn towards the identity by SHRINKAGE; every class is held to be as likely as
    any other.
    """
    means = np.zeros((classes, embeddings.shape[1]))
    np.add.at(means, labels, embeddings)
    means /= np.bincount(labels, minlength=classes)[:, None]
    rest = embeddings - means[labels]
    variance = float((rest * rest).mean())
    covariance = np.eye(embeddings.shape[1])
    if variance > 1e-9:
        covariance = SHRINKAGE * covariance + (1 - SHRINKAGE) / (len(rest) * variance) * (rest.T @ rest)
    weight = np.linalg.solve(covariance, means.T).T
    return weight.astype(np.float32), (-0.5 * (weight * means).sum(axis=1)).astype(np.float32)


@dataclass(frozen=True)
class Judged:
    """What cross-validation found: of the M photos that were put aside once, each judged without its own help.

    scale: makes scores into logits. threshold: the distance beyond which a photo is unlike them, None for M = 0 (no
    class has two photos). tested (M,): which photos. predicted (M,): the class that was said of each. confidence (M,):
    with what probability. unsure (M,): whether it was taken for a photo of none of the classes.
    """

    scale: float
    threshold: float | None
    folds: int
    tested: Labels
    predicted: Labels
    confidence: Floats
    unsure: npt.NDArray[np.bool_]


def judge(
    embeddings: Floats, labels: Labels, classes: int, seed: int = 0, step: Callable[[], None] = lambda: None
) -> Judged:
    """Put every photo aside once, and judge it by a classifier, a scale and a threshold of the others.

    embeddings (N, D), labels (N,) in 0..classes-1. `step` is called `rounds(labels)` times.
    """
    folds = rounds(labels)
    fold = _folds(labels, folds, np.random.default_rng(seed))
    tested = np.flatnonzero(fold >= 0)
    predicted, confidence = np.zeros(len(tested), np.intp), np.zeros(len(tested), np.float32)
    unsure = np.zeros(len(tested), np.bool_)
    if not len(tested):
        return Judged(SCALE_ALONE, None, 0, tested, predicted, confidence, unsure)
    scores = np.zeros((len(labels), classes), np.float32)
    for each in range(folds):
        weight, bias = learn(embeddings[fold != each], labels[fold != each], classes)
        scores[fold == each] = embeddings[fold == each] @ weight.T + bias
        step()
    scores, fold, photos = scores[tested], fold[tested], len(labels)
    losses, found = _losses(scores, labels[tested], photos), doubt.distances(scores)
    predicted = scores.argmax(axis=1)
    for each in range(folds):
        aside, others = fold == each, fold != each
        logits = doubt.bounded(scores[aside] * np.float32(_best_scale(losses[:, others])), photos)
        confidence[aside] = np.exp(logits.max(axis=1))
        unsure[aside] = found[aside] > doubt.threshold(found[others])
    return Judged(_best_scale(losses), doubt.threshold(found), folds, tested, predicted, confidence, unsure)


def rounds(labels: Labels) -> int:
    """How many folds there are: no more than the largest class has photos; 0 where none can be put aside."""
    most = int(np.bincount(labels).max())
    return min(10 if len(labels) <= FEW else 5, most) if most > 1 else 0


def _folds(labels: Labels, count: int, random: np.random.Generator) -> Labels:
    """(N,): the round in which a photo is put aside. Classes are spread over the rounds; where a class has no more
    photos than there are rounds, one is put aside at a time. -1, never, for the only photo of its class.
    """
    fold = np.full(len(labels), -1, np.intp)
    start = 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            fold[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
    return fold


def _losses(scores: Floats, labels: Labels, photos: int) -> npt.NDArray[np.float64]:
    """(S, M): the log loss of each photo's scores (M, C) at each of _SCALES.

    After Platt (1999), the right class is worth (photos + 1) / (photos + 2) and the best of the others the rest: where
    all photos are recognised, no scale would be large enough otherwise.
    """
    rows = np.arange(len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    right, others = shifted[rows, labels], shifted.copy()
    others[rows, labels] = -np.inf
    target = (right * (photos + 1) + others.max(axis=1)) / (photos + 2)
    return np.stack([np.log(np.exp(shifted * np.float32(s)).sum(axis=1)) - s * target for s in _SCALES])


def _best_scale(losses: npt.NDArray[np.float64]) -> float:
    return float(_SCALES[int(losses.mean(axis=1).argmin())])
