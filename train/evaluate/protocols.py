"""Protocols for evaluating frozen features: k-NN, retrieval and a linear probe, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from leap_zoo.card import Metric
from leap_zoo.intervals import wilson
from train.errors import TrainError
from train.run import DEVICE

SIMILARITIES = 2**25  # that are computed at a time: 134 MB
Found = tuple[Tensor, Tensor]  # average precision and recall at 1 of each query that has a right answer, (Q',) float64
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BATCH = 256
ROWS = 8192  # of features whose logits are computed at a time: those of a million photos would fill the memory


def share(name: str, dataset: str, split: str, right: Tensor) -> Metric:
    """The share of ones (or True) in right (N,), with its Wilson interval. Raises TrainError when it is empty."""
    if not len(right):
        raise TrainError(f"{dataset}, {split}: there are no photos to measure on")
    value, n = right.double().mean().item(), len(right)
    return Metric(name=name, dataset=dataset, split=split, n=n, value=value, interval=wilson(value, n))


def mean(name: str, dataset: str, split: str, values: Tensor) -> Metric:
    """The mean of values (N,), with the percentiles of 1000 bootstrap draws. Raises TrainError when it is empty."""
    if not len(values):
        raise TrainError(f"{dataset}, {split}: there is nothing to average for {name}")
    generator, values, n = torch.Generator().manual_seed(0), values.double(), len(values)
    means = torch.stack([values[torch.randint(n, (n,), generator=generator)].mean() for _ in range(1000)])
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Metric(name=name, dataset=dataset, split=split, n=n, value=values.mean().item(), interval=(low, high))


def check_finite(features: Tensor) -> None:
    """Refuse features (N, D) with NaN or infinity, by which any class is as near as any other. Raises TrainError."""
    if not all(part.isfinite().all() for part in features.split(65_536)):
        raise TrainError("some features are not finite: look for NaN in the student's weights")


def similarities(gallery: Tensor, queries: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Cosines (q, G) of gallery (G, D) and a slice of queries (Q, D) at a time, on the device of the gallery."""
    rows = functional.normalize(gallery.float(), dim=1)
    block = max(1, SIMILARITIES // max(1, len(gallery)))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        yield part, functional.normalize(queries[part].to(rows), dim=1) @ rows.T


def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbor vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,). Runs on a GPU where there is one.
    Raises TrainError for an empty gallery, and for features that are not finite.
    """
    if not len(gallery):
        raise TrainError("there are no photos to find neighbors among")
    check_finite(gallery)
    check_finite(queries)
    labels, classes = gallery_labels.to(DEVICE), int(gallery_labels.max()) + 1
    predicted = [torch.empty(0, dtype=torch.long)]
    for _, similarity in similarities(gallery.to(DEVICE), queries):
        best, nearest = similarity.topk(min(k, len(gallery)), dim=1)  # (q, k)
        votes = torch.zeros(len(best), classes, device=DEVICE)
        predicted.append(votes.scatter_add(1, labels[nearest], (best / temperature).exp()).argmax(1).cpu())
    return torch.cat(predicted)


def retrieve(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor, *, same: Tensor | None = None
) -> Found:
    """Rank the gallery for each query by cosine; photos of the query's class are right; ties keep the gallery's order.

    gallery (G, D), gallery_labels (G,), queries (Q, D), query_labels (Q,). same (Q,) int64: the query's own position in
    the gallery, which is left out of its ranking; -1 for none. Average precision is the mean, over right answers, of
    the precision at their ranks. Raises TrainError for features that are not finite.
    """
    return _rank(gallery, queries, lambda part: gallery_labels == query_labels[part, None], same)


def retrieve_listed(gallery: Tensor, queries: Tensor, answers: Sequence[Sequence[int]]) -> Found:
    """As `retrieve`; answers: for each query, the positions in the gallery that are right."""

    def right_of(part: slice) -> Tensor:
        right = torch.zeros(len(answers[part]), len(gallery), dtype=torch.bool)
        for row, found in zip(right, answers[part], strict=True):
            row[list(found)] = True
        return right

    return _rank(gallery, queries, right_of, None)


def _rank(gallery: Tensor, queries: Tensor, right_of: Callable[[slice], Tensor], same: Tensor | None) -> Found:
    check_finite(gallery)
    check_finite(queries)
    precisions, firsts = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    ranks = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    for part, similarity in similarities(gallery, queries):  # (q, G)
        right = right_of(part)  # (q, G)
        if same is not None:
            rows = (same[part] >= 0).nonzero().flatten()
            own = same[part][rows]
            similarity[rows, own], right[rows, own] = -torch.inf, False  # ranked last, and not an answer
        hits = right.gather(1, similarity.argsort(dim=1, descending=True, stable=True))  # (q, G), best first
        hits = hits[hits.any(1)]
        precisions.append((hits.double().cumsum(1) / ranks * hits).sum(1) / hits.sum(1))
        firsts.append(hits[:, :1].any(1).double())
    return torch.cat(precisions), torch.cat(firsts)


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
        raise TrainError(f"the photos are all of one class, {', '.join(classes)}: a probe needs two folders at least")
    amount, name = min(zip(np.bincount(labels, minlength=len(classes)), classes, strict=True))
    if amount < 2:
        raise TrainError(f"class {name} has {amount} photos: a probe needs two at least")
    if math.ceil(len(labels) / 10) < len(classes):
        few = f"{len(labels)} photos of {len(classes)} classes are too few for a probe"
        raise TrainError(f"{few}: a tenth of them must hold one of each class")


def linear_probe(
    features: Tensor, labels: Tensor, classes: Sequence[str], *, epochs: int = 100, seed: int = 0
) -> Probe:
    """Fit a probe on frozen features: SGD .9, batch 256, cosine over `epochs`; the rate is chosen on a tenth of train.

    features (N, D) float32 on the CPU, of which batches go to the GPU where there is one; labels (N,), indices into
    `classes`. Features are standardized per channel. Raises TrainError for photos that no probe can learn from.
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
    deviation, average = (part.to(DEVICE) for part in torch.std_mean(features, dim=0))
    deviation = deviation + 1e-6
    weight = torch.zeros(len(rates), classes, features.shape[1], device=DEVICE, requires_grad=True)
    bias = torch.zeros(len(rates), 1, classes, device=DEVICE, requires_grad=True)
    rate = torch.tensor(rates, device=DEVICE)[:, None, None] * min(BATCH, len(rows)) / BATCH
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for chosen in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            logits = (features[chosen].to(DEVICE) - average) / deviation @ weight.transpose(1, 2) + bias  # (R, B, C)
            target = labels[chosen].to(DEVICE).repeat(len(rates))
            loss = functional.cross_entropy(logits.flatten(0, 1), target, reduction="sum") / len(chosen)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, gradient, moved in zip((weight, bias), gradients, momentum, strict=True):
                    moved.mul_(0.9).add_(gradient)
                    value.sub_(moved * (rate * share))
    folded = weight.detach() / deviation  # the scaling becomes part of the layer
    biases = bias.detach()[:, 0] - folded @ average
    return [Probe(*parts) for parts in zip(folded.cpu(), biases.cpu(), rates, strict=True)]
