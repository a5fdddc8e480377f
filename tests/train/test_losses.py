"""Target statistics against what they are by definition."""

from __future__ import annotations

import torch

from train.method.losses import TargetScale
from train.method.teacher import Tokens


def batch(seed: int) -> Tokens:
    """Tokens of 8 images, 5 patches, 3 channels of very different mean and variance."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([0.1, 1.0, 30.0]), torch.tensor([5.0, 0.0, -2.0])
    return Tokens(
        torch.randn(8, 5, 3, generator=generator) * scale + shift,
        torch.randn(8, 3, generator=generator) * scale.flip(0) - shift,
    )


def test_scale__makes_every_channel_weigh_the_same() -> None:
    scale = TargetScale(blocks=2, width=3)
    for seed in range(60):
        scale.update(batch(seed), 2)
    standard = scale.standardise(batch(99), 2)
    for rows in (standard.patches.flatten(0, 1), standard.cls):
        assert rows.std(0).log().abs().max() < 0.7
        assert rows.mean(0).abs().max() < 1
    untouched = scale.standardise(batch(0), 1)  # block 1 has no statistics: as it came
    torch.testing.assert_close(untouched.patches, batch(0).patches, rtol=1e-3, atol=0)
