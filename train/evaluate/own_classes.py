"""Classes of one's own, as `leap-zoo fit` learns them: how good the heads are, and whether its estimate is right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from leap_zoo.fitting.classifiers import candidates
from leap_zoo.fitting.classifiers import train as learn
from leap_zoo.fitting.cross_validation import choose
from leap_zoo.intervals import wilson
from train.errors import TrainError

CLASSES, DRAWS = 20, 20


def own_classes(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, shots: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a head to `shots` photos of each of CLASSES classes, drawn anew DRAWS times; test it on the same classes.

    train (N, D), train_labels (N,), test (M, D), test_labels (M,). Where there are fewer classes or photos, all are
    taken. Returns, per draw: accuracy on the test photos, the cross-validated accuracy, and whether its interval holds
    the former; the last two are NaN where there was one photo per class.
    Raises TrainError when train and test have fewer than two classes in common.
    """
    ours, theirs = (functional.normalize(part.float(), dim=1).numpy() for part in (train, test))
    our_labels, their_labels = train_labels.numpy(), test_labels.numpy()
    both = np.intersect1d(our_labels, their_labels)
    if len(both) < 2:
        raise TrainError("TRAIN and TEST need at least two classes in common")
    rows = []
    for draw in range(DRAWS):
        random = np.random.default_rng([seed, draw])
        names = random.permutation(both)[:CLASSES]
        shown = [random.permutation(np.flatnonzero(our_labels == name))[:shots] for name in names]
        labels, vectors = np.repeat(np.arange(len(names)), [len(part) for part in shown]), ours[np.concatenate(shown)]
        found = choose(vectors, labels, len(names), candidates(), draw)
        weight, bias = learn(found.candidate, vectors, labels, len(names))
        asked = np.isin(their_labels, names)
        right = float((names[(theirs[asked] @ weight.T + bias).argmax(1)] == their_labels[asked]).mean())
        claimed, held = np.nan, np.nan
        if len(found.tested):
            claimed = float((found.predicted == labels[found.tested]).mean())
            low, high = wilson(claimed, len(found.tested))
            held = float(low <= right <= high)
        rows.append((right, claimed, held))
    accuracy, validated, holds = torch.tensor(rows, dtype=torch.float64).T
    return accuracy, validated, holds
