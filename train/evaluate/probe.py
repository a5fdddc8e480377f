"""The linear probe: one linear layer on frozen features, its learning rate chosen on a tenth of train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from train.errors import TrainError
from train.evaluate.scores import Score, accuracy

PROBE_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features (N, D): logits = weight @ x + bias, with the feature scaling folded in."""

    weight: Tensor
    bias: Tensor
    rate: float
    selection: Score  # on the held-out tenth of train that chose `rate`

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return features @ self.weight.T + self.bias


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, epochs: int = 100, seed: int = 0) -> Probe:
    """Fit a probe on frozen features: SGD .9, batch 256, cosine over `epochs`; the rate is chosen on a tenth of train.

    features (N, D) float32, labels (N,). Features are standardised per channel first. Raises TrainError for too few.
    """
    try:
        fit, hold = train_test_split(np.arange(len(labels)), test_size=0.1, random_state=seed, stratify=labels)
    except ValueError as error:
        raise TrainError(
            f"{len(labels)} photos of {classes} classes are too few for a probe: a tenth of them must hold a photo of "
            "each class, and each class two photos at least"
        ) from error
    scores = {}
    for rate in PROBE_RATES:
        weight, bias = _sgd(features[fit], labels[fit], classes, rate, epochs, seed)
        scores[rate] = accuracy((features[hold] @ weight.T + bias).argmax(1), labels[hold])
    best = max(scores, key=lambda rate: (scores[rate].value, -rate))
    weight, bias = _sgd(features, labels, classes, best, epochs, seed)
    return Probe(weight, bias, best, scores[best])


def _sgd(x: Tensor, y: Tensor, classes: int, rate: float, epochs: int, seed: int) -> tuple[Tensor, Tensor]:
    deviation, mean = torch.std_mean(x, dim=0)
    deviation = deviation + 1e-6
    x = (x - mean) / deviation
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * min(256, len(x)) / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(256):
            loss = functional.cross_entropy(layer(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    weight = layer.weight.detach() / deviation
    return weight, layer.bias.detach() - weight @ mean
