"""One training in several processes, started by `torchrun`; without it there is a single process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, distributed

from train.errors import TrainError
from train.recipe import Precision, Recipe

PATIENCE = timedelta(days=7)  # the first process evaluates, or trains a teacher, while the others wait
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Layout(NamedTuple):
    """Where this process stands: `rank` of `processes`, on machine `host` of `hosts`, the `local`-th process there."""

    rank: int = 0
    processes: int = 1
    host: int = 0
    hosts: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, writes and evaluates."""
        return self.rank == 0

    def among(self, *, by_host: bool) -> tuple[int, int]:
        """The place of this process, and the number, among those that share out one order of photos."""
        return (self.local, self.processes // self.hosts) if by_host else (self.rank, self.processes)


def layout() -> Layout:
    """As torchrun says in the environment; one process without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Layout()
    keys = ("RANK", "WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK")
    return Layout(*(int(os.environ[key]) for key in keys))


def join(recipe: Recipe) -> Fabric:
    """Meet the other processes; all but the first print errors only. Raises TrainError for what cannot work here."""
    mine = layout()
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise TrainError("precision=fp16 needs an NVIDIA GPU, and torch sees none here: use precision=bf16 or fp32")
    if recipe.batch % (mine.processes * recipe.accumulate):
        raise TrainError(
            f"batch={recipe.batch} is the batch of all processes together: it cannot be shared out equally over "
            f"{mine.processes} processes and accumulate={recipe.accumulate} pieces"
        )
    precision = usable(recipe.precision)
    if precision != recipe.precision and mine.first:
        print(f"precision={recipe.precision}: this CPU would emulate it, many times slower; the run uses {precision}")
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    torch.backends.cudnn.allow_tf32 = True
    together = DDPStrategy(
        find_unused_parameters=True,  # a student that grows leaves deeper blocks without gradients
        broadcast_buffers=False,  # they are equal everywhere (see `pooled`)
        process_group_backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=PATIENCE,
    )
    fabric = Fabric(
        devices=mine.processes // mine.hosts,
        num_nodes=mine.hosts,
        strategy=together if mine.processes > 1 else "auto",
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        # Lightning would take a SLURM job for one of its own making: torchrun alone says how many processes there are.
        plugins=[TorchElasticEnvironment() if mine.processes > 1 else LightningEnvironment()],
    )
    fabric.launch()
    if not mine.first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        os.environ["TQDM_DISABLE"] = "1"
    return fabric


def usable(precision: Precision) -> Precision:
    """bf16 becomes fp32 on a CPU that would emulate it, which takes many times as long."""
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "fp32" if precision == "bf16" and not fast else precision


@contextmanager
def first_ahead(*, of_host: bool = False) -> Iterator[None]:
    """The first process goes through the block alone; then the others, who find what it left.

    of_host: the first process of each machine goes ahead.
    """
    first = layout().local == 0 if of_host else layout().first
    if not first:
        any_of(False)
    yield
    if first:
        any_of(False)


def any_of(flag: bool) -> bool:
    """Whether it is so for any of the processes; all wait for the last. On the CPU: a GPU would spin all the while."""
    return bool(total(torch.tensor([float(flag)])) > 0)


def least(values: list[int]) -> list[int]:
    """The smallest of each over all processes."""
    found = torch.tensor(values)
    if distributed.is_initialized():
        distributed.all_reduce(found, distributed.ReduceOp.MIN)
    return [int(value) for value in found]


def total(values: Tensor) -> Tensor:
    """The sum over processes, float64."""
    values = values.double()
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def mean_of_finite(values: Tensor) -> tuple[Tensor, list[int]]:
    """values (N, K) of each process -> their means over N and the processes, float64 (K,) on the CPU, and for each of
    the K how many values were left out because they are not finite. A mean of none is NaN.
    """
    finite = values.isfinite()
    sums = total(torch.stack([values.double().where(finite, 0).sum(0), finite.double().sum(0)])).cpu()
    left_out = len(values) * layout().processes - sums[1]
    return sums[0] / sums[1], left_out.long().tolist()


def pooled(variance: Tensor, mean: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Variance and mean (D,) of the rows of all processes together, from those of each process's own rows."""
    if not distributed.is_initialized():
        return variance, mean
    count = torch.full_like(mean[:1], rows)
    sums = total(torch.cat([mean.double() * rows, (variance.double() + mean.double() ** 2) * rows, count.double()]))
    means, squares = (sums[:-1] / sums[-1]).chunk(2)
    return (squares - means**2).clamp(min=0).to(variance.dtype), means.to(mean.dtype)
