"""What the student is asked to reproduce, and how far it is from it."""

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

    mean: Tensor
    variance: Tensor
    batches: Tensor

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

    def restore_cls(self, cls: Tensor, block: int) -> Tensor:
        """Standardised CLS tokens (B, width) of `block` -> the teacher's own scale: `standardise` undone."""
        return cls * self.deviation(block)[1] + self.mean[block - 1, 1]

    def deviation(self, block: int) -> Tensor:
        """Deviation (2, width): of patch channels, of CLS channels."""
        return self.variance[block - 1].sqrt() + 1e-4


def cosine_smooth_l1(projected: Tensor, target: Tensor) -> Tensor:
    """Direction and size apart: mean of 1 - cosine per token (..., D), plus smooth L1 per channel."""
    cosine = functional.cosine_similarity(projected, target, dim=-1)
    return (1 - cosine).mean() + functional.smooth_l1_loss(projected, target)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": functional.mse_loss,
    "cosine-smooth-l1": cosine_smooth_l1,
}
