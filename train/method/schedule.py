"""The learning rate of every step, as a share of the recipe's rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from train.method.curriculum import Move
from train.recipe import Recipe


def schedule(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Step (from 0) -> share of the rate, in (0, 1]: linear warm-up, then the decay that the recipe names.

    The cosine has `final_share` at the very last step: it divides by the number of its steps less one.
    """
    spec, steps = recipe.optimizer, recipe.epochs * steps_per_epoch
    epochs = min(10, recipe.epochs / 10) if spec.warmup_epochs is None else spec.warmup_epochs
    warmup = min(round(epochs * steps_per_epoch), steps)
    begin = max(warmup, round(steps * (1 - (recipe.decay_share or 0)))) if spec.decay == "last-block" else warmup

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, max(0, step - begin) / max(1, steps - begin - 1))
        return spec.final_share + (1 - spec.final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return share


def last_block_share(share: Callable[[int], float], moves: list[Move], blocks: int, steps: int) -> float:
    """The share of the learning rate's integral over `steps` that the last block had, 0..1."""
    ends = [move.step for move in moves[1:]] + [steps]
    spans = zip(moves, pairwise([0, *ends]), strict=True)
    last = sum(share(step) for move, (first, end) in spans if move.block == blocks for step in range(first, end))
    return last / sum(map(share, range(steps)))
