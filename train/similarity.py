"""How alike two sets of features are."""

from __future__ import annotations

import torch
from torch import Tensor


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
