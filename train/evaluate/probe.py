"""The linear probe: one linear layer on frozen features, its learning rate chosen on a tenth of train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from train.errors import TrainError
from train.evaluate.scores import check_finite
from train.hardware import DEVICE

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BATCH = 256
ROWS = 8192  # of features whose logits are computed at a time: those of a million photos would fill the memory


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features (N, D): logits = weight @ x + bias, with the feature scaling folded in.

    selection: its share of right answers (0..1) on the tenth of train that chose `rate`.
    """

    weight: Tensor
    bias: Tensor
    rate: float
    selection: float = math.nan

    def classify(self, features: Tensor) -> Tensor:
        """Predicted classes (N,)."""
        return torch.cat([(part @ self.weight.T + self.bias).argmax(1) for part in features.split(ROWS)])


def check_labels(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Refuse photos that no probe can learn from. labels (N,), indices into `classes`. Raises TrainError."""
    if len(classes) < 2:
        raise TrainError(
            f"the photos are all of one class, {', '.join(classes)}: a probe needs at least two folders of classes"
        )
    amounts = np.bincount(labels, minlength=len(classes))
    if amounts.min() < 2:
        few = int(amounts.argmin())
        raise TrainError(f"class {classes[few]} has {amounts[few]} photos: a probe needs two at least")
    if math.ceil(len(labels) / 10) < len(classes):
        raise TrainError(
            f"{len(labels)} photos of {len(classes)} classes are too few for a probe: a tenth of them must hold one of "
            "each class"
        )


def linear_probe(
    features: Tensor, labels: Tensor, classes: Sequence[str], *, epochs: int = 100, seed: int = 0
) -> Probe:
    """Fit a probe on frozen features: SGD .9, batch 256, cosine over `epochs`; the rate is chosen on a tenth of train.

    features (N, D) float32 on the CPU, of which batches go to the GPU where there is one; labels (N,), indices into
    `classes`. Features are standardised per channel. Raises TrainError for photos that no probe can learn from.
    """
    check_labels(labels.numpy(), classes)
    check_finite(features)
    every = torch.arange(len(labels))
    fit, hold = train_test_split(every, test_size=0.1, random_state=seed, stratify=labels)
    tried = _sgd(features, labels, fit, len(classes), RATES, epochs, seed)
    selections = [float((probe.classify(features[hold]) == labels[hold]).double().mean()) for probe in tried]
    best = int(np.argmax(selections))  # the first of several
    (probe,) = _sgd(features, labels, every, len(classes), RATES[best : best + 1], epochs, seed)
    return replace(probe, selection=selections[best])


def _sgd(
    features: Tensor, labels: Tensor, rows: Tensor, classes: int, rates: Sequence[float], epochs: int, seed: int
) -> list[Probe]:
    """A probe per rate, of these rows of features; all are trained on the same batches."""
    deviation, mean = (part.to(DEVICE) for part in torch.std_mean(features, dim=0))
    deviation = deviation + 1e-6
    weight = torch.zeros(len(rates), classes, features.shape[1], device=DEVICE, requires_grad=True)
    bias = torch.zeros(len(rates), 1, classes, device=DEVICE, requires_grad=True)
    rate = torch.tensor(rates, device=DEVICE)[:, None, None] * min(BATCH, len(rows)) / BATCH
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for chosen in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            logits = (features[chosen].to(DEVICE) - mean) / deviation @ weight.transpose(1, 2) + bias  # (R, B, C)
            target = labels[chosen].to(DEVICE).repeat(len(rates))
            loss = functional.cross_entropy(logits.flatten(0, 1), target, reduction="sum") / len(chosen)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, gradient, moved in zip((weight, bias), gradients, momentum, strict=True):
                    moved.mul_(0.9).add_(gradient)
                    value.sub_(moved * (rate * share))
    folded = weight.detach() / deviation  # the scaling becomes part of the layer
    biases = bias.detach()[:, 0] - folded @ mean
    return [Probe(*parts) for parts in zip(folded.cpu(), biases.cpu(), rates, strict=True)]
