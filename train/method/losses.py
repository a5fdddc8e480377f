"""The scale of the student's targets, and the similarity measures that a curriculum uses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from train import processes
from train.method.teacher import Tokens


class TargetScale(nn.Module):
    """Running mean and deviation per block and channel of the teacher's tokens, patches and CLS apart.

    The average of the first 100 batches on a block, then an exponential one: the teacher is frozen, so it settles.
    """

    mean: Tensor  # (blocks, 2, width): of patch channels, of CLS channels
    variance: Tensor
    batches: Tensor  # (blocks,)

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(blocks, 2, width))
        self.register_buffer("variance", torch.ones(blocks, 2, width))
        self.register_buffer("batches", torch.zeros(blocks))

    @torch.no_grad()
    def update(self, tokens: Tokens, block: int) -> None:
        """Take a batch of the target `block` into its averages."""
        at = block - 1
        self.batches[at] += 1
        weight = (1 / self.batches[at]).clamp(min=0.01)  # stays on the device: no step waits for it
        for kind, rows in enumerate((tokens.patches.flatten(0, 1), tokens.cls)):
            variance, mean = processes.pooled(*torch.var_mean(rows.float(), dim=0, correction=0), len(rows))
            self.mean[at, kind].lerp_(mean, weight)
            self.variance[at, kind].lerp_(variance, weight)

    def standardise(self, tokens: Tokens, block: int) -> Tokens:
        """Tokens of `block` with about zero mean and unit deviation per channel."""
        mean, deviation = self.mean[block - 1], self.deviation(block)
        return Tokens((tokens.patches - mean[0]) / deviation[0], (tokens.cls - mean[1]) / deviation[1])

    def restore(self, cls: Tensor, block: int) -> Tensor:
        """Standardized CLS tokens (B, width) of `block` -> as the teacher gives them."""
        return cls * self.deviation(block)[1] + self.mean[block - 1, 1]

    def deviation(self, block: int) -> Tensor:
        """Deviation (2, width): of patch channels, of CLS channels."""
        return self.variance[block - 1].sqrt() + 1e-4


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centered kernel alignment (Kornblith et al. 2019) of two views of the same rows.

    x (..., D_x) and y (..., D_y) hold the same number of rows. Returns a float32 scalar in [0, 1];
    NaN when either side is constant. Never forms the (rows, rows) kernel: cost grows with D_x * D_y.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = (rows.detach().float().flatten(0, -2) for rows in (x, y))  # (rows, D_x), (rows, D_y)
        x, y = x - x.mean(0), y - y.mean(0)
        cross = (x.T @ y).square().sum()  # ||X'Y||_F^2
        return cross / ((x.T @ x).norm() * (y.T @ y).norm())


@torch.no_grad()
def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the rows of x and y (both (..., D)), in [-1, 1], float32."""
    return functional.cosine_similarity(x.detach().float(), y.detach().float(), dim=-1).mean()


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cka": linear_cka, "cosine": cosine}
