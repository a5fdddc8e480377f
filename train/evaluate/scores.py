"""Figures with their intervals: shares of right answers, and means over queries."""

from __future__ import annotations

import torch
from torch import Tensor

from leap_zoo.card import Metric
from leap_zoo.intervals import wilson
from train.errors import TrainError


def share(name: str, dataset: str, split: str, right: Tensor) -> Metric:
    """The share of ones (or True) in right (N,), with its Wilson interval. Raises TrainError when it is empty."""
    if not len(right):
        raise TrainError(f"{dataset}, {split}: there are no photos to measure on")
    value, n = right.double().mean().item(), len(right)
    return Metric(name=name, dataset=dataset, split=split, n=n, value=value, interval=wilson(value, n))


def mean(name: str, dataset: str, split: str, values: Tensor) -> Metric:
    """The mean of values (N,), one per query, with its bootstrap interval. Raises TrainError when it is empty."""
    if not len(values):
        raise TrainError(f"{dataset}, {split}: there is nothing to average for {name}")
    value = values.double().mean().item()
    return Metric(name=name, dataset=dataset, split=split, n=len(values), value=value, interval=bootstrap(values))


def bootstrap(values: Tensor, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of values (N,): percentiles over resampled queries, with a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    means = torch.stack(
        [values[torch.randint(len(values), values.shape, generator=generator)].mean() for _ in range(draws)]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return low.item(), high.item()


def check_finite(features: Tensor) -> None:
    """Refuse features (N, D) with NaN or infinity, by which any class is as near as any other. Raises TrainError."""
    if not all(part.isfinite().all() for part in features.split(65_536)):
        raise TrainError("some features are not finite: look for NaN in the student's weights")
