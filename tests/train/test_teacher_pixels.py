"""A teacher that sees the student's photos enlarged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from train import recipe
from train.loop import Training
from train.method.teacher import Teacher, make_vit


def test_teacher_of_other_pixels__sees_the_photo_enlarged(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher(img_size=48)
    small = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(small, (48, 48), mode="bicubic", antialias=True)
    assert teacher(small, 12).patches.shape == (2, 36, 48)
    torch.testing.assert_close(teacher(small, 12).cls, teacher(large, 12).cls)


def test_recipe__decides_the_pixels_of_the_teacher() -> None:
    spec = recipe.TeacherSettings(model="vit_tiny_patch16_224", pixels=96)
    assert Teacher(make_vit(spec, 64)).vit.patch_embed.grid_size == (6, 6)


def test_distiller__matches_the_larger_teachers_grid(
    make_teacher: Callable[..., Teacher], make_training: Callable[..., Training], images: torch.Tensor
) -> None:
    teacher = make_teacher(img_size=48, num_classes=3)
    distiller = make_training(teacher=teacher).distiller
    loss, _ = distiller(images, teacher.at(images, (12,)), (12,))
    assert torch.isfinite(loss)
