"""Which classifier, and how good: chosen and judged on photos that it had not learned from, never the same ones.

The rounds are nested. In each outer round a share of the photos is put aside; kind and strength are chosen by inner
rounds on the rest, a classifier learns from the rest, and is judged on what was put aside. So the accuracy is that of
the whole procedure, choice included, with fewer photos than the head has in the end: rather too low than too high. (The
best figure of many candidates on the same photos would flatter.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leap_zoo.fitting.classifiers import PROTOTYPES, Candidate, Floats, Labels, train

INNER = 3  # folds
FEW = 1000  # photos, up to which there are 10 outer folds, beyond 5: fewer photos aside is nearer to the real head
ENOUGH = 3  # photos per class (median) from which there is a choice: below, an inner round has one photo of a class
SCALE_ALONE = 8.0  # of prototypes that cannot be checked: about right for one photo per class
_SCALES = np.geomspace(0.05, 200, 100)


@dataclass(frozen=True)
class Chosen:
    """The outcome: the candidate for all photos, and the scale that makes its scores probabilities.

    tested (M,): photos that were put aside once. predicted (M,): what was said of each by a classifier that had not
    seen it. M = 0 when no class has two photos.
    """

    candidate: Candidate
    scale: float
    folds: int
    tested: Labels
    predicted: Labels


def choose(
    embeddings: Floats,
    labels: Labels,
    classes: int,
    options: Sequence[Candidate],
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> Chosen:
    """Choose and judge. embeddings (N, D), labels (N,) in 0..classes-1. `step` is called `rounds(...)` times."""
    random = np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=classes)
    if counts.max() < 2:
        return Chosen(PROTOTYPES, SCALE_ALONE, 0, np.empty(0, np.intp), np.empty(0, np.intp))
    options = options if np.median(counts) >= ENOUGH else [PROTOTYPES]
    outer = _folds(labels, _outer(labels), random)
    predicted = np.full(len(labels), -1, np.intp)
    for fold in range(_outer(labels)):
        rest, aside = outer != fold, outer == fold
        inner = _folds(labels[rest], INNER, random)
        best, _ = _best(embeddings[rest], labels[rest], classes, options, inner)
        weight, bias = train(best, embeddings[rest], labels[rest], classes)
        predicted[aside] = (embeddings[aside] @ weight.T + bias).argmax(axis=1)
        step()
    candidate, scores = _best(embeddings, labels, classes, options, outer)
    step()
    tested = np.flatnonzero(outer >= 0)
    scale = _fit_scale(scores[tested], labels[tested])
    return Chosen(candidate, scale, _outer(labels), tested, predicted[tested])


def rounds(labels: Labels) -> int:
    """How often `choose` calls `step`."""
    count = _outer(labels)
    return count + 1 if count > 1 else 0


def _outer(labels: Labels) -> int:
    """How many outer folds: no more than the largest class has photos."""
    return min(10 if len(labels) <= FEW else 5, int(np.bincount(labels).max()))


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


def _best(
    embeddings: Floats, labels: Labels, classes: int, options: Sequence[Candidate], fold: Labels
) -> tuple[Candidate, Floats]:
    """The most accurate candidate on photos put aside (of equals the first), and its scores of them (N, C)."""
    tested = fold >= 0
    best, most, kept = options[0], -1.0, np.zeros((len(labels), classes), np.float32)
    for option in options:
        scores = np.zeros((len(labels), classes), np.float32)
        for each in np.unique(fold[tested]):
            weight, bias = train(option, embeddings[fold != each], labels[fold != each], classes)
            scores[fold == each] = embeddings[fold == each] @ weight.T + bias
        right = float((scores[tested].argmax(axis=1) == labels[tested]).mean()) if tested.any() else 0.0
        if right > most:
            best, most, kept = option, right, scores
    return best, kept


def _fit_scale(scores: Floats, labels: Labels) -> float:
    """What to multiply scores (N, C) of photos put aside by, so that their softmax is least surprised (log loss)."""
    losses = [_log_loss(scores * scale, labels) for scale in _SCALES]
    return float(_SCALES[int(np.argmin(losses))])


def _log_loss(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())
