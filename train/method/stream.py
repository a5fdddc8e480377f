"""The residual stream of a ViT in fewer channels, and what its layers read from it there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RIDGE = 1e-6  # relative to the mean variance


class Moments:
    """Weighted first and second moments of rows (M, D), in float64."""

    def __init__(self) -> None:
        self.weight, self.first, self.second = 0.0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """rows (M, D), weights (M,)."""
        rows, weights = rows.double(), weights.double()
        self.weight += float(weights.sum())
        self.first = self.first + weights @ rows
        self.second = self.second + (rows * weights[:, None]).T @ rows

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.first / self.weight

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        return self.second / self.weight - torch.outer(self.mean, self.mean)


class Stream:
    """The residual stream in fewer channels: y = up @ down @ x, without the mean over channels that LayerNorm drops.

    down (r, D): the principal directions of the normalised tokens, whose second moment is `covariance` (D, D).
    up (D_s, r): onto channels whose mean is zero.
    """

    def __init__(self, covariance: Tensor, width: int) -> None:
        centred = torch.eye(len(covariance), dtype=torch.float64) - 1 / len(covariance)
        kept = min(width, len(covariance)) - 1
        values, vectors = torch.linalg.eigh(centred @ covariance @ centred)
        # Along the mean over channels the covariance is exactly zero; it must not be taken for a direction.
        order = [int(i) for i in values.argsort(descending=True) if abs(float(vectors[:, i].mean())) < 1e-6]
        self.down = vectors[:, order[:kept]].T.contiguous()
        ones = torch.ones(width, 1, dtype=torch.float64)
        basis = torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, : width - 1]], 1)).Q
        self.up = basis[:, 1 : kept + 1]

    def write(self, weight: Tensor) -> Tensor:
        """(D, ...) that adds to the teacher's stream -> (D_s, ...) that adds to the student's."""
        flat = weight.double().reshape(len(weight), -1)
        return (self.up @ (self.down @ flat)).reshape(-1, *weight.shape[1:])


class Reading:
    """What a LayerNorm of the teacher gives, told from z = down @ (normalised token), of which the student has r.

    z (M, r) has mean `mean` and covariance `covariance`. The lost directions are predicted from the kept ones: the norm
    gives `back` (D, r) @ z + `offset` (D,).
    """

    def __init__(self, stream: Stream, norm: nn.LayerNorm, moments: Moments) -> None:
        covariance, mean = moments.covariance, moments.mean
        self.mean, self.covariance = stream.down @ mean, stream.down @ covariance @ stream.down.T
        back = torch.linalg.solve(ridged(self.covariance), stream.down @ covariance).T
        gain, offset = norm.weight.double(), norm.bias.double()
        self.back = gain[:, None] * back
        self.offset = gain * (mean - back @ self.mean) + offset
        size = moments.second.diagonal().sum() / moments.weight
        inside = (self.covariance.diagonal() + self.mean**2).sum()
        # The student's LayerNorm makes tokens of D_s channels as long as D_s; what is kept of the teacher's is shorter.
        self.scale = float((inside / size * len(mean) / len(stream.up)).sqrt())
        self.up = stream.up

    def linear(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """A layer behind the norm -> the same of z: weight (out, r), bias (out,)."""
        weight = layer.weight.double()
        return weight @ self.back, bias(layer) + weight @ self.offset

    def student(self, weight: Tensor) -> Tensor:
        """A layer (out, r) of z -> (out, D_s), of the student's normalised tokens."""
        return self.scale * weight @ self.up.T


def bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """A layer's bias (out,), or zeros."""
    return torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else layer.bias.double()


def ridged(covariance: Tensor) -> Tensor:
    """A covariance (n, n) of correlated channels, made safe to invert."""
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
