"""The linear probe: one linear layer on frozen features, its learning rate chosen on a tenth of train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
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


def check_labels(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Refuse photos that no probe can learn from. labels (N,), indices into `classes`. Raises TrainError."""
    amounts = np.bincount(labels, minlength=len(classes))
    if len(classes) < 2:
        raise TrainError(
            f"the photos are all of one class, {classes[0]}: a probe needs at least two folders of classes"
        )
    if amounts.min() < 2:
        raise TrainError(
            f"class {classes[int(amounts.argmin())]} has {amounts.min()} photos: a probe needs two at least"
        )
    if len(labels) < 10 * len(classes):
        raise TrainError(
            f"{len(labels)} photos of {len(classes)} classes are too few for a probe: a tenth of them must hold one of each "
            "class"
        )


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, epochs: int = 100, seed: int = 0) -> Probe:
    """Fit a probe on frozen features: SGD .9, batch 256, cosine over `epochs`; the rate is chosen on a tenth of train.

    features (N, D) float32, labels (N,). Features are standardised per channel first. Runs on a GPU where there is one.
    Raises TrainError for too few photos.
    """
    try:
        fit, hold = train_test_split(np.arange(len(labels)), test_size=0.1, random_state=seed, stratify=labels)
    except ValueError as error:
        raise TrainError(
            f"{len(labels)} photos of {classes} classes are too few for a probe: a tenth of them must hold a photo of "
            "each class, and each class two photos at least"
        ) from error
    weights, biases = _sgd(features[fit], labels[fit], classes, PROBE_RATES, epochs, seed)
    held = torch.einsum("nd,rcd->rnc", features[hold], weights) + biases[:, None]
    scores = [accuracy(logits.argmax(1), labels[hold]) for logits in held]
    best = max(range(len(scores)), key=lambda at: (scores[at].value, -at))
    weights, biases = _sgd(features, labels, classes, PROBE_RATES[best : best + 1], epochs, seed)
    return Probe(weights[0], biases[0], PROBE_RATES[best], scores[best])


def _sgd(x: Tensor, y: Tensor, classes: int, rates: Sequence[float], epochs: int, seed: int) -> tuple[Tensor, Tensor]:
    """A linear layer per rate, all trained at once on the same batches: weights (R, C, D) and biases (R, C)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    deviation, mean = torch.std_mean(x, dim=0)
    deviation = deviation + 1e-6
    x, y = ((x - mean) / deviation).to(device), y.to(device)
    weight = torch.zeros(len(rates), classes, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(len(rates), 1, classes, device=device, requires_grad=True)
    rate = torch.tensor(rates, device=device)[:, None, None] * min(256, len(x)) / 256
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for chosen in torch.randperm(len(x), generator=generator).split(256):
            logits = x[chosen] @ weight.transpose(1, 2) + bias  # (R, B, C)
            target = y[chosen].repeat(len(rates))
            loss = functional.cross_entropy(logits.flatten(0, 1), target, reduction="sum") / len(chosen)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, gradient, moved in zip((weight, bias), gradients, momentum, strict=True):
                    moved.mul_(0.9).add_(gradient)
                    value.sub_(moved * (rate * share))
    weight, bias = weight.detach().cpu() / deviation, bias.detach().cpu()[:, 0]
    return weight, bias - weight @ mean
