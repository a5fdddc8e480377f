"""Timing several things side by side: they take turns, so that a busy machine slows all of them."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from train.hardware import describe
from train.research.results import Result
from train.run import commit

Seconds = list[float]  # of one call, in each round


def take_turns(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int, rounds: int) -> list[Seconds]:
    """Seconds of one call, per call and round; in a round each is called `repeats` times. A first round warms up."""
    taken: list[Seconds] = [[] for _ in calls]
    for turn in tqdm(range(rounds + 1), "rounds"):
        for call, row in zip(calls, taken, strict=True):
            wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            wait(device)
            if turn:
                row.append((time.perf_counter() - start) / repeats)
    return taken


def ratios(above: Seconds, below: Seconds) -> Seconds:
    """Round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def row(device: torch.device, subject: str, metric: str, values: Sequence[float], variant: str = "") -> Result:
    """The median over rounds, with the smallest and the largest as its interval; n: the number of rounds.

    The range of six rounds holds their true median with a probability of 97 %. A single value has neither n nor range.
    """
    several = len(values) > 1
    return Result(
        subject=subject,
        variant=variant,
        metric=metric,
        n=len(values) if several else None,
        value=statistics.median(values),
        low=min(values) if several else None,
        high=max(values) if several else None,
        hardware=describe(device),
        commit=_commit(),
    )


def show(rows: Sequence[Result]) -> None:
    """Print rows, one a line."""
    for one in rows:
        spread = "" if one.low is None or one.high is None else f"  [{one.low:.4g}, {one.high:.4g}]"
        print(f"{one.subject:40} {one.variant:20} {one.metric:44} {one.value:.4g}{spread}")


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.cache
def _commit() -> str:
    """Of all rows of a measurement, whatever is committed meanwhile."""
    return commit()
