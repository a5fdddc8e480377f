"""Classes of one's own, as `leap-zoo fit` learns them: how good the heads are, and whether its estimate is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from leap_zoo.fitting.classifiers import candidates
from leap_zoo.fitting.classifiers import train as learn
from leap_zoo.fitting.cross_validation import choose
from leap_zoo.intervals import wilson
from train.errors import TrainError


@dataclass(frozen=True)
class OwnClasses:
    """One value per draw: accuracy on the test photos, the cross-validated accuracy, whether its interval holds it.

    The last two are NaN where there was one photo per class.
    """

    accuracy: Tensor
    validated: Tensor
    held: Tensor


def own_classes(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    shots: int,
    classes: int = 20,
    draws: int = 20,
    seed: int = 0,
) -> OwnClasses:
    """Fit a head to `shots` photos of each of `classes` classes, drawn anew each time; test it on the same classes.

    train (N, D), train_labels (N,), test (M, D), test_labels (M,). Where there are fewer classes or photos, all are
    taken. Raises TrainError when train and test have fewer than two classes in common.
    """
    ours, theirs = (functional.normalize(part.float(), dim=1).numpy() for part in (train, test))
    our_labels, their_labels = train_labels.numpy(), test_labels.numpy()
    both = np.intersect1d(our_labels, their_labels)
    if len(both) < 2:
        raise TrainError("TRAIN and TEST need at least two classes in common")
    rows = []
    for draw in range(draws):
        random = np.random.default_rng([seed, draw])
        names = random.permutation(both)[:classes]
        shown = [random.permutation(np.flatnonzero(our_labels == name))[:shots] for name in names]
        labels = np.repeat(np.arange(len(names)), [len(part) for part in shown])
        vectors = ours[np.concatenate(shown)]
        found = choose(vectors, labels, len(names), candidates(), draw)
        weight, bias = learn(found.candidate, vectors, labels, len(names))
        asked = np.isin(their_labels, names)
        right = float((names[(theirs[asked] @ weight.T + bias).argmax(1)] == their_labels[asked]).mean())
        if not len(found.tested):
            rows.append((right, np.nan, np.nan))
            continue
        claimed = float((found.predicted == labels[found.tested]).mean())
        low, high = wilson(claimed, len(found.tested))
        rows.append((right, claimed, float(low <= right <= high)))
    return OwnClasses(*torch.tensor(rows, dtype=torch.float64).T)
