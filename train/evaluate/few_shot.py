"""Few-shot classification: the nearest class mean of a handful of photos per class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.evaluate.scores import accuracy


@torch.no_grad()
def few_shot(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    shots: int,
    draws: int = 20,
    seed: int = 0,
) -> Tensor:
    """Accuracy (draws,) by nearest class mean (cosine), from `shots` photos of every class, drawn anew each time.

    train (N, D), train_labels (N,), test (M, D), test_labels (M,). A class with fewer photos gives all that it has.
    Raises TrainError without test photos.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = functional.normalize(train.float(), dim=1), functional.normalize(test.float(), dim=1)
    classes = train_labels.unique()
    members = [(train_labels == label).nonzero().flatten() for label in classes]
    accuracies = []
    for _ in range(draws):
        means = torch.stack(
            [train[rows[torch.randperm(len(rows), generator=generator)[:shots]]].mean(0) for rows in members]
        )
        predicted = classes[(test @ functional.normalize(means, dim=1).T).argmax(1)]
        accuracies.append(accuracy(predicted, test_labels).value)
    return torch.tensor(accuracies, dtype=torch.float64)
