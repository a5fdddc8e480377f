"""Figures with their intervals: shares of right answers, and means over queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leap_zoo.card import Metric
from leap_zoo.intervals import wilson
from train.errors import TrainError


@dataclass(frozen=True)
class Score:
    """A share of right answers among `n`, with its 95 % Wilson interval."""

    value: float
    n: int

    @classmethod
    def of(cls, right: Tensor) -> Score:
        """The share of ones (or True) in right (N,). Raises TrainError when it is empty."""
        if not len(right):
            raise TrainError("there are no photos to measure on")
        return cls(right.double().mean().item(), len(right))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval."""
        return wilson(self.value, self.n)


def accuracy(predicted: Tensor, labels: Tensor) -> Score:
    """Top-1 of predicted classes (N,) against labels (N,). Raises TrainError when there are none."""
    return Score.of(predicted == labels)


def bootstrap(values: Tensor, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of values (N,): percentiles over resampled queries, with a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    means = torch.stack(
        [values[torch.randint(len(values), values.shape, generator=generator)].mean() for _ in range(draws)]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return low.item(), high.item()


def share(name: str, dataset: str, split: str, score: Score) -> Metric:
    """A share of right answers as the metric that cards and reports hold."""
    return Metric(name=name, dataset=dataset, split=split, n=score.n, value=score.value, interval=score.interval)


def mean(name: str, dataset: str, split: str, values: Tensor) -> Metric:
    """The mean of one value per query (N,), such as an average precision, with its bootstrap interval."""
    if not len(values):
        raise TrainError(f"{dataset}, {split}: there is nothing to average for {name}")
    value = values.double().mean().item()
    return Metric(name=name, dataset=dataset, split=split, n=len(values), value=value, interval=bootstrap(values))


def check_finite(features: Tensor) -> None:
    """Refuse features (N, D) with NaN or infinity, by which any class is as near as any other. Raises TrainError."""
    if not all(part.isfinite().all() for part in features.split(65_536)):
        raise TrainError("some features are not finite: look for NaN in the student's weights")
