"""A teacher that sees the student's photos enlarged; the divergence of classes that a student may learn from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from train import recipe
from train.loop import Training
from train.method.distiller import Distiller
from train.method.teacher import Teacher, make_vit


def test_teacher_of_other_pixels__sees_the_photo_enlarged(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher(img_size=48)
    small = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(small, (48, 48), mode="bicubic", antialias=True)
    assert teacher(small, 12).patches.shape == (2, 36, 48)
    torch.testing.assert_close(teacher(small, 12).cls, teacher(large, 12).cls)


def test_recipe__decides_the_pixels_of_the_teacher() -> None:
    spec = recipe.TeacherSettings(model="vit_tiny_patch16_224", pixels=96)
    assert Teacher(make_vit(spec, 64)).grid == 6


def test_distiller__matches_the_larger_teachers_grid(
    make_teacher: Callable[..., Teacher], make_training: Callable[..., Training], images: torch.Tensor
) -> None:
    teacher = make_teacher(img_size=48, num_classes=3)
    distiller = make_training(teacher=teacher).distiller
    loss, _ = distiller(images, teacher.at(images, (12,)), (12,))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("targets", ["raw", "standardised"])
def test_class_divergence__joins_the_loss_at_the_last_block_only(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor, targets: str
) -> None:
    def loss(weight: float, block: int) -> float:
        distiller = make_distiller(loss={"targets": targets, "logits_weight": weight})
        return float(distiller(images, teacher.at(images, (block,)), (block,))[0].detach())

    assert loss(1.0, 11) == loss(0.0, 11)
    gain = [loss(weight, 12) - loss(0.0, 12) for weight in (1.0, 2.0)]
    assert gain[0] > 0
    assert gain[1] == pytest.approx(2 * gain[0], rel=1e-3)


def test_class_divergence__of_a_student_that_is_its_teacher_is_nothing(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    def loss(weight: float) -> float:
        parts = {"targets": "raw", "cls_weight": 0.0, "logits_weight": weight}
        distiller = make_distiller(loss=parts, curriculum={"strategy": "last"})
        distiller.student.load_state_dict(teacher.vit.state_dict(), strict=False)  # all but the classifier
        torch.nn.init.eye_(distiller.projection.weight)
        return float(distiller(images, teacher.at(images, (12,)), (12,))[0].detach())

    assert loss(1.0) == pytest.approx(loss(0.0), abs=1e-5)
