"""What a frozen student's features are worth: k-NN, linear probe, and the teacher's own head through the projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from leap_zoo.intervals import wilson
from train.errors import TrainError

PROBE_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Score:
    """A share of right answers among `n`, with its 95 % Wilson interval."""

    value: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval."""
        return wilson(self.value, self.n)


def accuracy(predicted: Tensor, labels: Tensor) -> Score:
    """Top-1 of predicted classes (N,) against labels (N,)."""
    return Score((predicted == labels).float().mean().item(), len(labels))


@torch.no_grad()
def extract(
    features: Callable[[Tensor], dict[str, Tensor]], pixels: npt.NDArray[np.uint8], what: str, batch: int = 128
) -> dict[str, Tensor]:
    """Run `features` (uint8 (B, H, W, 3) -> named (B, D) tensors) over all photos; float32 on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    for start in tqdm(range(0, len(pixels), batch), f"features of {what}", leave=False, mininterval=1):
        for name, value in features(torch.from_numpy(pixels[start : start + batch])).items():
            parts.setdefault(name, []).append(value.float().cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbour vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,).
    """
    gallery = functional.normalize(gallery, dim=1)
    one_hot = functional.one_hot(gallery_labels).float()  # (G, classes)
    votes = []
    for part in functional.normalize(queries, dim=1).split(512):
        similarity, nearest = (part @ gallery.T).topk(min(k, len(gallery)), dim=1)  # (q, k)
        weights = (similarity / temperature).exp()
        votes.append((weights[..., None] * one_hot[nearest]).sum(1).argmax(1))
    return torch.cat(votes)


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
