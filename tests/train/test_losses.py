"""Target statistics and distances against what they are by definition."""

from __future__ import annotations

import pytest
import torch

from train.method.losses import DISTANCES, TargetScale
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


def test_cosine_smooth_l1__tells_direction_and_size_apart() -> None:
    distance = DISTANCES["cosine-smooth-l1"]
    target = torch.tensor([[[3.0, 4.0]]])
    assert float(distance(target, target)) == pytest.approx(0, abs=1e-6)
    longer = float(distance(2 * target, target))  # same direction: smooth L1 of (3, 4) is (2.5 + 3.5) / 2
    assert longer == pytest.approx(3.0, abs=1e-5)
    opposite = float(distance(-target, target))  # cosine -1 adds 2; smooth L1 of (6, 8) is (5.5 + 7.5) / 2
    assert opposite == pytest.approx(2 + 6.5, abs=1e-5)
