"""Several processes, one training: `torchrun` starts them, and here they agree on what only one of them may decide.

Without torchrun there is one process, and everything here gives back what it got.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed

PATIENCE = timedelta(days=7)  # the first process evaluates, or trains a teacher, while the others wait


class Layout(NamedTuple):
    """Where this process stands: `rank` of `processes`, which are spread over `nodes` machines."""

    rank: int = 0
    processes: int = 1
    nodes: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, writes and evaluates."""
        return self.rank == 0

    @property
    def here(self) -> int:
        """Processes on this machine."""
        return self.processes // self.nodes


def layout() -> Layout:
    """As torchrun tells it in the environment; one process without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Layout()
    read = {key: int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE")}
    return Layout(read["RANK"], read["WORLD_SIZE"], read["GROUP_WORLD_SIZE"])


def join() -> Layout:
    """Meet the other processes; all but the first fall silent, save for errors."""
    mine = layout()
    if mine.processes > 1 and not distributed.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        atexit.register(distributed.destroy_process_group)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        if not mine.first:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
            os.environ["TQDM_DISABLE"] = "1"
    return mine


@contextmanager
def first_ahead() -> Iterator[None]:
    """The first process goes through the block alone; then the others, who find there what it left."""
    mine = layout()
    if not mine.first:
        _wait()
    yield
    if mine.first:
        _wait()


def environment(mine: Layout) -> ClusterEnvironment:
    """For Lightning's `plugins`: it would take a SLURM job for one of its own making."""
    return LightningEnvironment() if mine.processes == 1 else TorchElasticEnvironment()


def strategy(mine: Layout) -> str | DDPStrategy:
    """For Lightning's `strategy`. Buffers are equal on all ranks already (see `pooled`): nothing to copy each step."""
    return "auto" if mine.processes == 1 else DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def total(values: Tensor) -> Tensor:
    """The sum over processes, float64."""
    values = values.double()
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


class Average(NamedTuple):
    """Means over processes, float64 (K,), and of how many processes a value was not finite, float64 (K,)."""

    mean: Tensor
    missing: Tensor


def average(values: Tensor, rows: int) -> Average:
    """The mean over processes of each value, weighted by their `rows`; those that are not finite are left out.

    values (K,), of any float type. A mean is NaN where no process has a finite value.
    """
    finite, values = values.isfinite(), values.double()
    if not distributed.is_initialized():
        return Average(values, (~finite).double())
    weighted = values.where(finite, 0) * rows
    weighted, weight, missing = total(torch.cat([weighted, finite.double() * rows, (~finite).double()])).chunk(3)
    return Average(weighted / weight, missing)  # 0 / 0 is NaN


def mean_of_finite(pieces: list[Average]) -> tuple[float, int]:
    """The mean of the pieces (K = 1) of a step that are finite, and how many values it does without.

    NaN and 0 when it does without any: whoever gets the NaN counts it.
    """
    means = torch.cat([piece.mean for piece in pieces])
    found = means[means.isfinite()]
    return found.mean().item(), int(sum(piece.missing.item() for piece in pieces)) if len(found) else 0


def pooled(variance: Tensor, mean: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Variance and mean (D,) of the rows of all processes together, from those of each process's own rows."""
    if not distributed.is_initialized():
        return variance, mean
    count = torch.full_like(mean[:1], rows)
    sums = total(torch.cat([mean.double() * rows, (variance.double() + mean.double() ** 2) * rows, count.double()]))
    means, squares = (sums[:-1] / sums[-1]).chunk(2)
    return (squares - means**2).clamp(min=0).to(variance.dtype), means.to(mean.dtype)


def _wait() -> None:
    if distributed.is_initialized():
        distributed.all_reduce(torch.zeros(1))  # on the CPU: a GPU would spin all the while
