"""How alike the projected student tokens and the target are: what a curriculum decides by. 1 at best, float32."""

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


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cka": linear_cka, "cosine": cosine}
