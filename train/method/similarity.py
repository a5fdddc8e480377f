"""How alike the student's tokens and the teacher's are: what a curriculum decides by.

Every measure takes the student's own tokens, their projection and the teacher's tokens of the same patches, and
returns a float32 scalar, 1 at best; NaN when there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment (Kornblith et al. 2019) of two views of the same rows.

    x (..., D_x) and y (..., D_y) hold the same number of rows. Returns a float32 scalar in [0, 1];
    NaN when either side is constant. Never forms the (rows, rows) kernel: cost grows with D_x * D_y.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().flatten(0, -2)  # (rows, D_x)
        y = y.detach().float().flatten(0, -2)  # (rows, D_y)
        x = x - x.mean(0)
        y = y - y.mean(0)
        cross = (x.T @ y).square().sum()  # ||X'Y||_F^2
        return cross / ((x.T @ x).norm() * (y.T @ y).norm())


@torch.no_grad()
def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the rows of x and y (both (..., D)), in [-1, 1]."""
    return functional.cosine_similarity(x.detach().float(), y.detach().float(), dim=-1).mean()


@torch.no_grad()
def recoverability(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Tensor:
    """Share of y's variance that a linear map of x explains on photos it was not fitted to: a held-out R^2.

    x (B, N, D_x), y (B, N, D_y): the closed-form ridge map is fitted on the first half of the photos and judged on the
    second, against the mean of the first. `ridge` is relative to the mean variance of x. At most 1; below 0 the map is
    worse than the mean. NaN for less than two photos.
    """
    half = len(x) // 2
    if not half:
        return torch.tensor(float("nan"), device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.detach().float(), y.detach().float()
        fit_x, fit_y = x[:half].flatten(0, 1), y[:half].flatten(0, 1)  # (rows, D)
        mean_x, mean_y = fit_x.mean(0), fit_y.mean(0)
        fit_x, fit_y = fit_x - mean_x, fit_y - mean_y
        gram = fit_x.T @ fit_x  # (D_x, D_x)
        gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
        weight = torch.linalg.solve(gram, fit_x.T @ fit_y)  # (D_x, D_y)
        new_x, new_y = x[half:].flatten(0, 1) - mean_x, y[half:].flatten(0, 1) - mean_y
        return 1 - (new_y - new_x @ weight).square().sum() / new_y.square().sum()


Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
MEASURES: dict[str, Measure] = {
    "cka": lambda student, projected, target: linear_cka(projected, target),
    "cosine": lambda student, projected, target: cosine(projected, target),
    "recoverability": lambda student, projected, target: recoverability(student, target),
}
