"""A teacher that sees the student's photos enlarged; the divergence of classes that a student may learn from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from train import recipe
from train.distill import Distiller
from train.teacher import Teacher, make_vit


def test_teacher_of_other_pixels__sees_the_photo_enlarged(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher(img_size=48)
    small = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(small, (48, 48), mode="bicubic", antialias=True)
    assert teacher(small, 12).patches.shape == (2, 36, 48)
    torch.testing.assert_close(teacher(small, 12).cls, teacher(large, 12).cls)


def test_recipe__decides_the_pixels_of_the_teacher() -> None:
    spec = recipe.Teacher(model="vit_tiny_patch16_224", pixels=96)
    assert Teacher(make_vit(spec, 64)).grid == 6


def test_distiller__matches_the_larger_teachers_grid(make_teacher: Callable[..., Teacher], make_distiller) -> None:
    like = make_distiller()
    teacher = make_teacher(img_size=48, num_classes=3)
    distiller = Distiller(like.spec, teacher, (0.5,) * 3, (0.5,) * 3, 4)
    assert torch.isfinite(distiller.training_step(torch.zeros(4, 40, 40, 3, dtype=torch.uint8), 0))


@pytest.mark.parametrize("targets", ["raw", "standardised"])
def test_class_divergence__joins_the_loss_at_the_last_block_only(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor, targets: str
) -> None:
    def loss(weight: float, block: int) -> float:
        part = {"targets": targets, "logits_weight": weight}
        distiller = make_distiller(loss=part, curriculum={"strategy": "fixed", "block": block})
        return float(distiller.training_step(pixels, 0))

    assert loss(1.0, 11) == loss(0.0, 11)
    gain = [loss(weight, 12) - loss(0.0, 12) for weight in (1.0, 2.0)]
    assert gain[0] > 0
    assert gain[1] == pytest.approx(2 * gain[0], rel=1e-3)


def test_class_divergence__is_zero_where_the_classes_agree(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(loss={"targets": "raw", "logits_weight": 1.0})
    cls = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    asked = cls.clone().requires_grad_()
    assert float(distiller._class_divergence(asked, cls).detach()) == pytest.approx(0, abs=1e-6)
    other = torch.randn(5, 48, requires_grad=True)
    distiller._class_divergence(other, cls).backward()
    assert other.grad.abs().sum() > 0
