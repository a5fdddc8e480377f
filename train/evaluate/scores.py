"""Figures with their 95 % intervals: shares of right answers, and means over queries."""

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
