"""Timing several things side by side: they take turns, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from train.research.results import Result
from train.run import commit, hardware

Seconds = list[float]  # of one call, in each round


def take_turns(calls: Sequence[Callable[[], object]], device: torch.device, rounds: int) -> list[Seconds]:
    """Seconds of one call, for each of `calls`, in each round; one round more, the first, warms up."""
    taken: list[Seconds] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, seconds in zip(calls, taken, strict=True):
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            if turn:
                seconds.append(time.perf_counter() - start)
    return taken


def ratios(above: Seconds, below: Seconds) -> Seconds:
    """Round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def row(device: torch.device, subject: str, metric: str, values: Sequence[float], variant: str = "") -> Result:
    """The median over rounds, with the smallest and the largest as its interval; n: the number of rounds. Printed."""
    value, low, high = statistics.median(values), min(values), max(values)
    print(f"{subject:40} {variant:20} {metric:44} {value:.4g}  [{low:.4g}, {high:.4g}]")
    return Result(
        subject=subject,
        variant=variant,
        metric=metric,
        n=len(values),
        value=value,
        low=low,
        high=high,
        hardware=hardware(device),
        commit=commit(),
    )


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
